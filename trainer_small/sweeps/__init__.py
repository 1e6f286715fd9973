"""A list of runs: its cost, its state, its table."""
