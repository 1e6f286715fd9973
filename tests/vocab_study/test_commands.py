import json
import math
import shlex

import pandas as pd
import pytest
import typer
from tokenizers import Tokenizer
from transformers import AutoTokenizer
from typer.testing import CliRunner, Result

from scaling.cli import Commands
from scaling.commands import corpus, sweep, vocab
from trainer_small.sweeps.sweep import Sweep


@pytest.fixture
def run(tmp_path, monkeypatch, small_corpus):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus").symlink_to(small_corpus)
    app = typer.Typer(cls=Commands, rich_markup_mode=None)
    corpus.register(app)
    vocab.register(app)
    sweep.register(app)

    def call(line: str) -> Result:
        return CliRunner().invoke(app, shlex.split(line))

    return call


def test_corpus_to_tokenizer(run, tmp_path):
    made = run("vocab study corpus --max-size 1000 --sizes 512 --out study")
    assert made.exit_code == 0 and "512" in made.output
    told = json.loads(run("vocab study corpus --max-size 1000 --sizes 300 --out study --json").stdout)
    assert told["largest_size"] == 1000 and set(told["bytes_per_token"]) == {"code", "english", "all"}
    assert run("vocab tokenizer --study study --size 333 --out tokenizer").exit_code == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    text = "def naïve(x):\n\treturn '안녕 😀'"
    assert len(tokenizer) == 333 and tokenizer.eos_token_id == 0
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_sweep_s_design_takes_any_size_of_a_study(run, tmp_path):
    assert run("vocab study corpus --max-size 1000 --out study").exit_code == 0
    line = "sweep design --corpus corpus --study study --vocab-sizes 300,600 --budget-flops 2e13 --out sweep.yaml"
    assert run(line).exit_code == 0
    files = Sweep.load(tmp_path / "sweep.yaml").tokenizers
    assert {size: Tokenizer.from_file(str(tmp_path / file)).get_vocab_size() for size, file in files.items()} == {
        300: 300,
        600: 600,
    }
    refused = run(line.replace("300,600", "300,2000"))
    assert refused.exit_code == 2 and "2000 is above 1000" in refused.output


def test_corpus(run, tmp_path):
    (tmp_path / "texts").mkdir()
    for name in "abc":
        (tmp_path / "texts" / f"{name}.txt").write_text(f"text {name}")
    assert run("corpus texts --out made").exit_code == 0
    manifest = json.loads(run("corpus texts --out made --json").stdout)
    assert manifest["train"]["documents"] + manifest["validation"]["documents"] == 3
    (tmp_path / "texts" / "bad.txt").write_bytes(b"ab\xff")
    failed = run("corpus texts --out other")
    assert failed.exit_code == 2 and "byte 2 is not UTF-8" in failed.output
    assert "1 skipped" in run("corpus texts --out other --on-error skip").output


@pytest.mark.parametrize("line", ["vocab study corpus --sizes many --out study", "vocab study . --out study"])
def test_faults_are_one_sentence(run, line):
    result = run(line)
    assert result.exit_code == 2 and result.output.startswith("error: ") and "Traceback" not in result.output


def test_choose(run):
    told = json.loads(
        run("vocab choose --params-active-non-embedding 30.65e9 --hidden-size 7168 --compare 163840 --json").stdout
    )
    assert [law["vocab_size"] for law in told["laws"]][:3] == pytest.approx([121_722, 132_347, 121_967], abs=1)
    assert run("vocab study corpus --max-size 2000 --out study").exit_code == 0
    shown = run("vocab choose --study study --params-active 2e6 --hidden-size 64 --mix code=0.5,english=0.5")
    assert shown.exit_code == 0 and "within 0.1 %" in shown.output


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--params-active 1e9", "--hidden-size is missing"),
        ("--hidden-size 64", "--params-active is missing"),
        ("--params-active -1 --hidden-size 64", "must be above 0"),
        ("--params-active 1e9 --hidden-size 64 --mix a=1", "give --study"),
        ("--params-active 1e9 --hidden-size 64 --mix a", "--mix 'a' is not NAME=VALUE"),
        ("--params-active 1e9 --hidden-size 64 --compare 100", "below 257"),
        ("--params-active 1e9 --hidden-size 2048 --vocab-size 1000000", "must be above 0"),
    ],
)
def test_choose_refuses(run, options, reason):
    result = run(f"vocab choose {options}")
    assert result.exit_code == 2 and reason in result.output


def test_a_study_of_text_as_it_lies_there(run, tmp_path):
    (tmp_path / "texts" / "a").mkdir(parents=True)
    for number in range(40):
        (tmp_path / "texts" / "a" / f"{number}.txt").write_text(f"some words, number {number}, and others " * 20)
    (tmp_path / "texts" / "a" / "bad.txt").write_bytes(b"ab\xff")
    failed = run("vocab study texts --max-size 300 --out mine")
    assert failed.exit_code == 2 and "byte 2 is not UTF-8" in failed.output
    made = run("vocab study texts --max-size 300 --on-error skip --by folder --pretokenizer o200k --out mine")
    assert made.exit_code == 0 and "skipped 1 inputs" in made.output, made.output
    assert (tmp_path / "mine" / "compression.svg").read_text().startswith("<?xml")
    told = json.loads(run("vocab study mine/corpus --max-size 300 --pretokenizer o200k --out mine --json").stdout)
    assert told["details"]["300"]["a"]["tokens_per_word"] > 1
    refused = run("vocab study corpus --by folder --out other")
    assert refused.exit_code == 2 and "is a finished corpus" in refused.output
    refused = run("vocab study corpus --pretokenizer gpt3 --out other")
    assert refused.exit_code == 2 and "did you mean 'gpt2'" in refused.output


def test_runs_and_a_law_of_ones_own(run, tmp_path):
    """A sweep whose losses have a known best size: V d = 20 N**0.7."""
    assert run("vocab study corpus --max-size 3000 --out study").exit_code == 0
    line = "vocab design --corpus corpus --study study --sizes 300,600,1200,2400 --budget-flops 6e12 --out v.yaml"
    assert run(line).exit_code == 0
    runs = []
    for spec in Sweep.load(tmp_path / "v.yaml").runs:
        shape = spec.architecture
        best = math.log(20 * shape.params_active_non_embedding**0.7 / shape.hidden_size)
        off = math.log(shape.vocab_size) - best
        row = {name: getattr(shape, name) for name in ("params_active_non_embedding", "hidden_size", "vocab_size")}
        row |= {"activation_ratio": shape.activation_ratio, "granularity": shape.granularity}
        row |= {"status": "done", "seed": spec.seed, "tokens": spec.training.tokens, "train_flops": spec.train_flops}
        row |= {"loss": 3.0, "unigram_loss": 6 - 0.02 * off**2, "train_bytes": 3.0 * spec.training.tokens}
        runs.append(row | {"bits_per_byte": 2 + 0.02 * off**2 + 1e-5 * spec.seed})
    pd.DataFrame(runs).to_csv(tmp_path / "runs.csv", index=False)
    question = "vocab choose --study study --params-active-non-embedding 2e5 --hidden-size 64 --runs runs.csv"
    told = json.loads(run(f"{question} --json --out choice").stdout)
    assert told["runs"]["vocab_size"] == pytest.approx(20 * 2e5**0.7 / 64, rel=0.01)
    assert all(model["low"] <= model["vocab_size"] <= model["high"] for model in told["run_models"])
    names = {"choice.json", "predictors.svg", "compute.svg", "loss.svg"}
    assert {path.name for path in (tmp_path / "choice").iterdir()} == names
    other = json.loads(run(f"{question} --metric unigram-normalised --json").stdout)
    assert other["runs"]["vocab_size"] == pytest.approx(told["runs"]["vocab_size"], rel=0.01)
