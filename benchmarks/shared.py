"""Public data that is in no repository: the folder ``shared`` beside the clone."""

from pathlib import Path

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
CORPORA = DATA / "corpora"
LANGUAGES = ("code", "en", "es", "ja", "ko", "zh")
"""Folders of ``CORPORA``."""
