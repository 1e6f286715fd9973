"""Measurements by what is measured; a script runs as ``python benchmarks/FOLDER/NAME.py`` from an editable install."""
