"""The dashboards, one a module: which questions each answers, and by which queries."""
