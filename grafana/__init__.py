"""Grafana's dashboards as code: `./run dashboards` writes `grafana/dashboards/*.json` from here."""
