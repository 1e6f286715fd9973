"""Megatron-Bridge: a YAML file of overrides."""
