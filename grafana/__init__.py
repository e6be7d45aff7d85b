"""Dashboards as code: `python -m grafana.build` writes `dashboards/*.json` from the table in `build.py`."""
