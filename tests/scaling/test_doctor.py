"""`scaling doctor` tells what is here and how to get what is not."""

import importlib.metadata
import json

import pytest
from typer.testing import CliRunner

from scaling.cli import app


def findings() -> dict[str, dict[str, str]]:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0, result.stderr
    return {each["what"]: each for each in json.loads(result.stdout)}


def test_it_names_the_machine_and_the_versions_in_use() -> None:
    found = findings()
    assert "usable" in found["cores"]["found"] and "GiB" in found["memory"]["found"]
    assert found["numpy"] == {"what": "numpy", "found": importlib.metadata.version("numpy"), "mend": ""}
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0


def test_a_missing_extra_comes_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "ray":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert findings()["ray (ray)"]["mend"] == "pip install 'moe-scaling[ray]'"
