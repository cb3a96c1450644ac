"""What `benchmarks/kill_audit.py` is made of."""
