"""What it costs to keep the books of trials that take no time: one module for each that `benchmarks/overhead.py` compares."""
