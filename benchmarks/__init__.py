"""Figures, not verdicts: `make bench` runs everything here; README.md says how to read it."""
