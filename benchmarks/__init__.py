"""Measures kodou beside what its users would otherwise do. `make bench` or `python -m benchmarks --help`."""
