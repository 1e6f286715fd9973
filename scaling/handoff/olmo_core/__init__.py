"""OLMo-core: its configuration as dictionaries."""
