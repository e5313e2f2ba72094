"""Measurements, one script each: `python -m benchmarks.NAME`. Each prints a table and writes `benchmarks/NAME.json`."""
