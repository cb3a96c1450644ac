"""What the numbers of a study say: means over replicates, paired effects and what they could have missed, the frontier and how sure it
is, the order of arms, what explains how much, gain for cost, what was tuned, what is missing. docs/statistics.md has the formulas.

Pure functions from `orchestrator.records` to values; nothing here knows where records come from or how they are shown.
"""
