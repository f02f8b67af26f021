"""The admin side: the JSON API that operators and lbctl use."""
