"""Megatron-LM: a shell script of flags."""
