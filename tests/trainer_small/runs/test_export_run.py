"""A trained run, opened by transformers from the folder that `scaling export-run` writes, has the run's own loss."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from fits.errors import UserError
from scaling.cli import app
from scaling.handoff.export_run import export_run
from trainer_small.data.tokens import END_OF_TEXT
from trainer_small.data.validation_tokens import ValidationTokens
from trainer_small.runs.run import run_one

transformers = pytest.importorskip("transformers", reason="needs the extra [hf]")

AXK1 = {
    "attention": "mla",
    "q_lora_rank": 12,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "num_key_value_heads": 4,
    "moe_output_norm": True,
}
"""A.X K1's form."""


@pytest.mark.parametrize("changes", [{}, AXK1])
def test_transformers_finds_the_loss_that_the_run_reports(
    run_folder: Callable[..., Path], corpus: Path, tokens: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    folder = run_folder(architecture=changes)
    result = run_one(folder)
    assert result.losses is not None
    out = tmp_path / "hf"
    arguments = ["export-run", str(folder), "--out", str(out), "--tokenizer", str(corpus / "tokenizer.json"), "--json"]
    printed = CliRunner().invoke(app, arguments)
    assert printed.exit_code == 0, printed.output
    assert json.loads(printed.output)["step"] == result.steps

    model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    text = ValidationTokens(tokens, 4000)
    inputs, targets = (torch.from_numpy(part) for part in (text.inputs, text.targets))
    whole = len(inputs) // 32 * 32
    pieces = [(inputs[:whole].view(-1, 32), targets[:whole]), (inputs[whole:].view(1, -1), targets[whole:])]
    with torch.no_grad():
        nats = sum(
            torch.nn.functional.cross_entropy(model(part).logits.flatten(0, 1), wanted, reduction="sum").item()
            for part, wanted in pieces
        )
    assert nats / len(targets) == pytest.approx(result.losses.loss, rel=1e-5)

    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert tokenizer.eos_token == END_OF_TEXT and tokenizer.eos_token_id == model.config.eos_token_id


def test_what_cannot_be_written_is_said(run_folder: Callable[..., Path], corpus: Path, tmp_path: Path) -> None:
    folder = run_folder()
    with pytest.raises(UserError, match="has no checkpoint"):
        export_run(folder, tmp_path / "hf")
    run_one(folder)
    (tmp_path / "other.json").write_text((corpus / "tokenizer.json").read_text() + "\n")
    with pytest.raises(UserError, match="not the tokenizer"):
        export_run(folder, tmp_path / "hf", tokenizer=tmp_path / "other.json")
    assert not (tmp_path / "hf").exists() and not list(tmp_path.glob(".hf*"))
    export_run(folder, tmp_path / "hf", dtype="bfloat16")
    with pytest.raises(UserError, match="there already"):
        export_run(folder, tmp_path / "hf")
