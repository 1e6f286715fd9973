import os

import pytest

from fits import files
from fits.errors import UserError


def test_a_failed_write_leaves_the_old_file_and_no_temporary(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    files.write_json(path, {"a": 1})

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        files.write_json(path, {"a": 2})
    assert files.read_json(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["result.json"]


def test_nan_is_not_written_as_json(tmp_path):
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"{", "not JSON"), (b"\xff\xfe", "byte 0 is not UTF-8"), (b"[1]", "top level is a list"), (b"null", "is empty")],
)
def test_malformed_files_are_named(tmp_path, content, words):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        files.read_mapping(path)
    assert str(path) in str(caught.value)


def test_missing_file_and_directory_are_named(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        files.read_text(tmp_path / "absent.yaml")
    with pytest.raises(UserError, match="is a directory"):
        files.read_text(tmp_path)
