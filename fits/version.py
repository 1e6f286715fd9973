"""The version of this program."""

import importlib.metadata

DISTRIBUTION = "moe-scaling"


def program_version() -> str:
    """As it was installed; ``not installed`` where it runs from a checkout on the path."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
