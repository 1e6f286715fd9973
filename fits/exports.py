"""A package's public names are those that its stub ``__init__.pyi`` imports. Each loads on first use, so that
``import fits`` costs nothing and ``import scaling`` loads no torch."""

import ast
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

Exports = tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]


def lazy(package: str, init_file: str) -> Exports:
    """``__all__``, ``__getattr__`` and ``__dir__`` of a package, from the stub beside its ``__init__.py``."""
    homes = _homes(Path(init_file).with_suffix(".pyi"))

    def load(public: str) -> Any:
        if public not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{public}'")
        module, name = homes[public]
        return getattr(importlib.import_module(module), name)

    return sorted(homes), load, lambda: sorted(homes)


def _homes(stub: Path) -> dict[str, tuple[str, str]]:
    """Public name -> the module that defines it and its name there."""
    statements = ast.parse(stub.read_text()).body
    imports = [each for each in statements if isinstance(each, ast.ImportFrom)]
    return {alias.asname or alias.name: (str(each.module), alias.name) for each in imports for alias in each.names}
