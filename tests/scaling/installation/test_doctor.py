"""`scaling doctor` tells what is here and how to get what is not."""

import importlib.metadata
import json

import pytest
from typer.testing import CliRunner

from scaling.cli import app
from scaling.installation.doctor import EXTRAS
from scaling.installation.extras import how_to_install


def findings() -> dict[str, dict[str, str]]:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0, result.stderr
    return {each["what"]: each for each in json.loads(result.stdout)}


def test_it_names_the_machine_and_the_versions_in_use() -> None:
    found = findings()
    assert "usable" in found["cores"]["found"] and "GiB" in found["memory"]["found"]
    assert found["numpy"]["found"] == importlib.metadata.version("numpy") and not found["numpy"]["mend"]
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0


def test_a_missing_extra_comes_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "ray":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = findings()["[ray] sweeps on a Ray cluster"]
    assert found["found"] == "no ray" and found["mend"].startswith("pip install") and "[ray]'" in found["mend"]
    assert not found["needed"]
    printed = CliRunner().invoke(app, ["doctor"]).stdout
    assert "ray: pip install" in printed and "All that is needed is here" in printed


def test_a_missing_requirement_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "pyarrow":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    printed = CliRunner().invoke(app, ["doctor"]).stdout
    assert "! pyarrow: pip install 'pyarrow" in printed and "All that is needed" not in printed


def test_every_extra_says_what_it_is_for() -> None:
    extras = set(importlib.metadata.metadata("moe-scaling").get_all("Provides-Extra") or [])
    assert extras == set(EXTRAS)


@pytest.mark.parametrize("origin", ['{"url": "file:///my%20clone", "dir_info": {"editable": true}}', None])
def test_an_extra_is_installed_from_where_the_package_came(origin: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata.PathDistribution, "read_text", lambda self, name: origin)
    expected = "pip install -e '/my clone[hf]'" if origin else "pip install 'moe-scaling[hf]'"
    assert how_to_install("hf") == expected
