"""Models that `benchmarks/models.py` measures beside each other: ours, and the authors' own from a checkout of their code."""
