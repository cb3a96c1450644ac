"""Rules that end a trial early: pure functions from what it reported to a decision."""
