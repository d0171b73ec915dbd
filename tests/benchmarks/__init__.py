"""What the design promises, measured on real processes: `python -m tests.benchmarks [names …] [--quick]`."""
