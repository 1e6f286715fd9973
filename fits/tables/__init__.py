"""Run tables: their files, the columns that we know, and what other people's columns mean."""
