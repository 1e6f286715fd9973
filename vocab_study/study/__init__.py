"""A vocabulary study: made from a corpus, kept in a folder, and the sweep that goes with it."""
