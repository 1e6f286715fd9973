"""One run: its loop, checkpoints, records and end."""
