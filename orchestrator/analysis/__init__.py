"""What the numbers of a study say: means over replicates, paired effects, the frontier, what was tuned, what is missing.

Pure functions from `orchestrator.records` to values; nothing here knows where records come from or how they are shown.
"""
