"""torchtitan: a Python package with a config registry."""
