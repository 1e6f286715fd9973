"""`scaling data`: fetched whole and verified, or one sentence that says what to download and where to put it."""

import hashlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fits.errors import UserError
from fits.tables import public_tables
from fits.tables.public_tables import PublicTable, find_table, get_table
from scaling.cli import app
from tests.places import SHARED_DATA as SHARED

CONTENT = b"N,D,loss\n1,2,3\n"


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """One table, published in a folder instead of on a site; returns the site."""
    table = PublicTable.model_validate(
        {
            **{"name": "tiny", "what": "two runs", "repository": "who/what", "commit": "abc", "licence": "MIT"},
            "files": [{"name": "runs.csv", "path": "data/the runs.csv", "sha256": hashlib.sha256(CONTENT).hexdigest()}],
        }
    )
    monkeypatch.setattr(public_tables, "list_tables", lambda: (table,))
    monkeypatch.setenv("SCALING_DATA", str(tmp_path / "cache"))
    path = tmp_path / "site" / "who" / "what" / "abc" / "data" / "the runs.csv"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    return (tmp_path / "site").as_uri()


def test_a_table_is_fetched_once_and_mended_when_damaged(published: str, tmp_path: Path) -> None:
    assert find_table("tiny") is None
    folder = get_table("tiny", base=published)
    assert find_table("tiny") == folder
    assert folder == tmp_path / "cache" / "tiny" and (folder / "runs.csv").read_bytes() == CONTENT
    assert get_table("tiny", base="file:///nowhere") == folder
    (folder / "runs.csv").write_bytes(b"half")
    assert (get_table("tiny", base=published) / "runs.csv").read_bytes() == CONTENT


def test_offline_says_what_to_download_and_where_to_put_it(published: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the%20runs\.csv.*put it at .*cache/tiny/runs\.csv"):
        get_table("tiny", base=(tmp_path / "elsewhere").as_uri())
    assert not (tmp_path / "cache" / "tiny" / "runs.csv").exists()


def test_another_content_is_refused(published: str, tmp_path: Path) -> None:
    (tmp_path / "site" / "who" / "what" / "abc" / "data" / "the runs.csv").write_bytes(b"changed")
    with pytest.raises(UserError, match="not the table"):
        get_table("tiny", base=published)
    assert not (tmp_path / "cache" / "tiny").exists()


def test_an_unknown_table_names_the_nearest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SCALING_DATA", str(tmp_path))
    result = CliRunner().invoke(app, ["data", "get", "epoch_chinchila"])
    assert result.exit_code == 2 and "did you mean 'epoch_chinchilla'" in result.stderr
    listed = json.loads(CliRunner().invoke(app, ["data", "list", "--json"]).stdout)
    assert {"epoch_chinchilla", "gemstones"} <= {each["name"] for each in listed}
    assert not any(each["here"] for each in listed)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public run tables are not beside the repository")
def test_a_folder_of_tables_is_taken_as_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALING_DATA", str(SHARED))
    for table in public_tables.list_tables():
        assert get_table(table.name, base="file:///nowhere") == SHARED / table.name
