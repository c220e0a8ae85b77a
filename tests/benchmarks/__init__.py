"""How fast and how large the report is, beside others that do the same; run by hand: `python -m tests.benchmarks`."""
