"""``python -m scaling`` is the ``scaling`` command."""

from scaling.cli import app

app(prog_name="scaling")
