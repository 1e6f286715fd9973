"""The public names: they load, they are listed in docs/api.md, and importing a package loads nothing heavy."""

import importlib
import pkgutil
import re
import subprocess
import sys

import pytest

from tests.places import ROOT

PAGE = ROOT / "docs" / "api.md"
PACKAGES = ("fits", "trainer_small", "vocab_study", "scaling")
HEAVY = ("torch", "transformers", "matplotlib", "altair", "pandas", "scipy")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_loads_and_is_documented(package: str) -> None:
    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name).__doc__, f"{package}.{name} has no docstring"
    assert dir(module) == module.__all__
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = module.absent


@pytest.mark.parametrize("package", PACKAGES)
def test_no_public_name_is_hidden_by_a_module(package: str) -> None:
    module = importlib.import_module(package)
    assert not {each.name for each in pkgutil.iter_modules(module.__path__)} & set(module.__all__)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_page_lists_exactly_the_public_names(package: str) -> None:
    section = re.search(rf"^## {package}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S)
    assert section
    names = re.findall(r"^\| `(\w+)` \|", section[1], re.M)
    assert names == importlib.import_module(package).__all__, "write it again: python docs/make_api.py"


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_loads_nothing_heavy(package: str) -> None:
    code = f"import sys, {package}; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""
