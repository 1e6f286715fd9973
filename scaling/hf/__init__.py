"""Hugging Face config.json: read into an architecture, written from one, and counted."""
