import subprocess
import sys

import pytest


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "scaling", *arguments], capture_output=True, text=True, timeout=120)


def test_help_names_the_road():
    result = run("--help")
    assert result.returncode == 0
    for word in ("corpus", "vocab", "sweep", "fit", "plan", "export", "report", "demo", "count"):
        assert word in result.stdout


def test_help_and_imports_load_nothing_heavy():
    code = (
        "import sys, fits, scaling, scaling.cli, trainer_small, trainer_small.architecture\n"
        "heavy = {'torch', 'transformers', 'matplotlib', 'altair', 'vl_convert', 'tokenizers'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def test_a_user_error_is_one_sentence_and_exit_code_2():
    result = run("count", "no_such_config.json")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "no_such_config.json" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_file_that_cannot_be_written_is_named(tmp_path):
    folder = tmp_path / "plan.yaml"
    folder.mkdir()
    result = run("plan", "--law", "published:tian", "--flops", "1e21", "--out", str(folder))
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {folder}: is a directory")
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == [folder]


def test_debug_shows_the_traceback():
    result = run("--debug", "count", "no_such_config.json")
    assert result.returncode != 0
    assert "Traceback" in result.stderr
