"""zstore beside what people use, on this machine: `python -m benchmarks --help`."""
