"""Byte-level tokenizers whose smaller sizes are prefixes of the largest, and how well each compresses."""
