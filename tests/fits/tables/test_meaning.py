"""What variables mean to a plan, and what the runs of a table share, whatever their columns are called."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

import fits
from fits.errors import UserError
from fits.fitting.result import Fit
from fits.tables.column_words import scale_of
from fits.tables.meaning import PLAN_COLUMNS, recognised
from fits.tables.runs import filter_rows, usable_runs

BIND = {"N": "config.n_params_nonemb", "D": "train/tokens (B)", "S": "num_exp/top_k", "G": "granularity"}


def foreign(rows: int = 40, seed: int = 0) -> pd.DataFrame:
    """Runs by a law with S = experts / top-k, under a logger's names."""
    rng = np.random.default_rng(seed)
    size = np.exp(rng.uniform(np.log(2e7), np.log(1e9), rows)).round()
    tokens = size * np.exp(rng.uniform(np.log(8), np.log(200), rows))
    experts, visited = rng.choice([8, 16, 32, 64], rows), rng.choice([1, 2, 4], rows)
    loss = 1.6 + 400 * size**-0.34 * (experts / visited) ** -0.1 + 410 * tokens**-0.28
    return pd.DataFrame(
        {
            "Name": [f"run-{row:02d}" for row in range(rows)],
            "State": "finished",
            "config.n_params_nonemb": size,
            "train/tokens (B)": tokens / 1e9,
            "num_exp": experts,
            "top_k": visited,
            "granularity": 4,
            "config.vocab_size": 50304,
            "Seq Len": 2048,
            "eval/loss": loss * np.exp(0.002 * rng.standard_normal(rows)),
        }
    )


def fit_foreign(frame: pd.DataFrame, **settings: Any) -> Fit:
    given: dict[str, Any] = {"bind": BIND, "loss": "eval/loss", "bootstrap": 0} | settings
    return fits.fit("moe-power", frame, **given)


@pytest.mark.parametrize(
    ("name", "means", "unit"),
    [
        ("config.n_params_nonemb", {"params_active_non_embedding", "params_total_non_embedding"}, None),
        ("n_params (active)", {"params_active", "params_active_non_embedding"}, None),
        ("active params w/o emb", {"params_active_non_embedding"}, None),
        ("Total Parameters [M]", {"params_total", "params_total_non_embedding"}, "1e6"),
        ("train/tokens (B)", {"tokens"}, "1e9"),
        ("n_tokens_seen", {"tokens"}, None),
        ("num_exp", {"num_experts"}, None),
        ("moe.num_experts_per_tok", {"experts_per_token"}, None),
        ("top-k", {"experts_per_token"}, "1e3"),
        ("moe_intermediate_size", {"expert_ffn_size"}, None),
        ("nSharedExperts", {"num_shared_experts"}, None),
        ("d_model", {"hidden_size"}, None),
        ("FLOPs", {"train_flops"}, None),
        ("tokens_per_second", set(), None),
        ("batch_tokens", set(), None),
        ("embedding params", set(), None),
        ("params/lr", set(), None),
        ("seed", set(), None),
        ("eval/loss", set(), None),
        ("config.make_vocab_size_divisible_by", set(), None),
        ("config.context_parallel_size", set(), None),
        ("eval.generation.top_k", set(), None),
        ("experts_dropout", set(), None),
        ("moe.num_expert_groups", set(), None),
        ("warmup_tokens", set(), None),
        ("token_loss", set(), None),
        ("tokens_per_param", set(), None),
        ("non_trainable_params", set(), None),
        ("Seq. len", {"sequence_length"}, None),
        ("max_position_embeddings", {"sequence_length"}, None),
    ],
)
def test_names_are_recognised_by_their_words(name: str, means: set[str], unit: str | None) -> None:
    assert set(recognised(name)) == means
    if means:
        assert scale_of(name) == unit


def test_every_column_of_a_plan_is_itself() -> None:
    assert all(recognised(name) == [name] for name in PLAN_COLUMNS)


def test_a_law_keeps_what_its_variables_mean_and_what_its_runs_share() -> None:
    law = fit_foreign(foreign())
    assert law.means == {
        "N": "params_active_non_embedding",
        "S": "num_experts/experts_per_token",
        "G": "granularity",
        "D": "tokens/1e9",
    }
    assert law.bind["D"] == "`train/tokens (B)`"
    assert law.constants == {"vocab_size": 50304, "sequence_length": 2048, "granularity": 4}
    assert law.values["delta"] == pytest.approx(0.1, abs=0.02)
    asked = " ".join(law.warnings)
    for words in (
        "--means N=params_total_non_embedding",
        "--means S=1/activation_ratio",
        "tokens/1e9 (training tokens seen, in units of 1e9)",
        "G is 4 on every row",
        "gamma=0 is fixed",
    ):
        assert words in asked, asked


def test_a_meaning_that_is_given_is_taken_and_not_asked_again() -> None:
    law = fit_foreign(foreign(), means={"N": "params_active", "S": "1/activation_ratio", "D": "tokens/1e9"})
    assert law.means["N"] == "params_active"
    assert not any("--means" in warning for warning in law.warnings)
    assert {each.name: each.meaning for each in law.variables}["N"] == PLAN_COLUMNS["params_active"]
    with pytest.raises(UserError, match=r"cannot give 'params_activ' \(did you mean 'params_active'"):
        fit_foreign(foreign(), means={"N": "params_activ"})
    with pytest.raises(UserError, match="no such variable"):
        fit_foreign(foreign(), means={"X": "tokens"})


@pytest.mark.parametrize(("column", "words"), [("seed", "seed"), ("created_at", "created_at")])
def test_what_no_plan_can_know_is_said_when_fitting(column: str, words: str) -> None:
    frame = foreign().rename(columns={"config.n_params_nonemb": column})
    law = fit_foreign(frame, bind=BIND | {"N": column})
    assert "N" not in law.means
    assert any(words in warning and "'scaling plan' cannot use this law" in warning for warning in law.warnings)


def test_dates_are_no_numbers() -> None:
    frame = foreign().assign(started=pd.Timestamp("2026-11-27"))
    with pytest.raises(UserError, match="column 'started' holds dates"):
        fit_foreign(frame, bind=BIND | {"N": "started"})


def test_a_column_in_billions_without_a_name_that_says_so_is_asked_about() -> None:
    frame = foreign().rename(columns={"train/tokens (B)": "D"})
    law = fit_foreign(frame, bind=BIND | {"D": "D"})
    assert "D" not in law.means
    assert any("too few to be training tokens seen" in warning for warning in law.warnings)
    assert fit_foreign(frame, bind=BIND | {"D": "D*1e9"}).means["D"] == "tokens"


def test_units_and_doubts_go_together() -> None:
    frame = foreign()
    frame["Active Params (B)"] = frame["config.n_params_nonemb"] / 1e9
    law = fit_foreign(frame, bind=BIND | {"N": "Active Params (B)"})
    assert law.means["N"] == "params_active_non_embedding/1e9"
    assert any("--means N=params_active/1e9." in warning for warning in law.warnings)


def test_a_variable_s_own_letter_with_a_unit_is_understood() -> None:
    frame = foreign().rename(columns={"train/tokens (B)": "D (B)"})
    assert fit_foreign(frame, bind=BIND | {"D": "D (B)"}).means["D"] == "tokens/1e9"


def test_a_meaning_that_the_numbers_contradict_is_refused() -> None:
    with pytest.raises(UserError, match=r"--means D=tokens: D is at most .*too few.*--means D=tokens/1e9"):
        fit_foreign(foreign(), means={"D": "tokens"})


def test_sizes_and_tokens_in_different_units_are_noticed() -> None:
    frame = foreign().assign(D=lambda each: 1e3 * each["train/tokens (B)"])
    law = fit_foreign(frame, bind=BIND | {"D": "D"})
    assert any("tokens a parameter, which no runs do" in warning for warning in law.warnings)


def test_advice_in_flops_does_not_depend_on_the_units_of_the_columns() -> None:
    billions, frame = fit_foreign(foreign()), foreign()
    frame["tokens"] = 1e9 * frame["train/tokens (B)"]
    units = fit_foreign(frame, bind=BIND | {"D": "tokens"})
    for name in ("N", "D", "D/N"):
        answers = [fits.decide(law, {"C": 1e22, "S": 8.0})[name]["value"] for law in (billions, units)]
        assert answers[0] == pytest.approx(answers[1], rel=0.02)
    predicted = [fits.decide(law, {"N": 1e9, "D": 2e10, "S": 8.0})["loss"]["value"] for law in (billions, units)]
    assert predicted[0] == pytest.approx(predicted[1], rel=1e-3)


def test_a_granularity_that_never_changes_is_fixed_and_said_or_can_be_left_unbound() -> None:
    held = fit_foreign(foreign())
    asked = fit_foreign(foreign(), fix={"gamma": 0.0})
    unbound = fit_foreign(foreign().drop(columns="granularity"), bind={k: BIND[k] for k in "NDS"}, fix={"gamma": 0.0})
    for law in (held, asked, unbound):
        assert law.parameters["gamma"].how == "fixed"
        assert law.values == pytest.approx(held.values)
        assert law.predict(N=1e8, D=10.0, S=8.0) == pytest.approx(held.predict(N=1e8, D=10.0, S=8.0, G=4.0))


def test_a_granularity_that_is_bound_as_a_number_is_kept() -> None:
    law = fit_foreign(foreign().drop(columns="granularity"), bind=BIND | {"G": "4"})
    assert law.means["G"] == "granularity"
    assert law.constants["granularity"] == 4
    assert law.parameters["gamma"].how == "fixed"


def test_data_that_never_change_are_refused_with_a_mend() -> None:
    frame = foreign().assign(**{"train/tokens (B)": 5.0})
    with pytest.raises(UserError, match=r"D .* is 5 on every row.*add runs at other D, or choose a law without it"):
        fit_foreign(frame)


def test_a_formula_of_one_s_own_is_told_which_parameter_to_fix() -> None:
    law = fits.custom_law("E + A*N**-a*G**-g + B*D**-b", ["N", "G", "D"], domains={"g": "real"})
    bind = {"N": BIND["N"], "D": BIND["D"], "G": "granularity"}
    with pytest.raises(UserError, match=r"G \(granularity\) is 4 on every row.*leave its effect out with --fix g=0"):
        fits.fit(law, foreign(), bind=bind, loss="eval/loss", bootstrap=0)


def test_a_constant_with_another_value_in_one_row_is_named() -> None:
    frame = foreign()
    frame.loc[16, "config.vocab_size"] = 32000
    law = fit_foreign(frame)
    assert "vocab_size" not in law.constants
    assert law.commonest["vocab_size"] == 50304
    assert any("the vocabulary (vocab_size) is 50304, but 32000 in row 17" in warning for warning in law.warnings)


def test_a_constant_with_two_values_in_one_cell_is_named() -> None:
    frame = foreign().astype({"config.vocab_size": object})
    frame.loc[3, "config.vocab_size"] = "50304/50257"
    law = fit_foreign(frame)
    assert "vocab_size" not in law.constants | law.commonest
    assert any("'50304/50257' in row 4" in warning for warning in law.warnings)


def test_two_columns_for_one_constant_that_differ_are_named() -> None:
    frame = foreign().assign(padded_vocab_size=50304)
    assert fit_foreign(frame).constants["vocab_size"] == 50304
    frame.loc[6, "padded_vocab_size"] = 50432
    law = fit_foreign(frame)
    assert "vocab_size" not in law.constants
    assert any("differ in row 7 (50304 and 50432)" in warning for warning in law.warnings)
    ours = fit_foreign(frame.rename(columns={"config.vocab_size": "vocab_size"}))
    assert ours.constants["vocab_size"] == 50304
    assert any("differ in row 7" in warning and "'vocab_size' is taken" in warning for warning in ours.warnings)


def test_granularity_and_bytes_a_token_are_found_from_their_parts() -> None:
    frame = foreign().drop(columns="granularity")
    frame["d_model"] = 512
    frame["moe_intermediate_size"] = 256
    frame["n_bytes"] = 4.2 * 1e9 * frame["train/tokens (B)"]
    law = fit_foreign(frame, bind={k: BIND[k] for k in "NDS"}, fix={"gamma": 0.0})
    assert law.constants["granularity"] == 4
    known = fit_foreign(frame.assign(tokens=1e9 * frame["train/tokens (B)"]), bind={k: BIND[k] for k in "NDS"},
                        fix={"gamma": 0.0})  # fmt: skip
    assert known.bytes_per_token[50304] == pytest.approx(4.2)


def test_a_loss_in_bits_a_byte_is_known_by_its_name_or_by_the_user() -> None:
    frame = foreign()
    assert fit_foreign(frame).unit == "nats/token"
    assert fit_foreign(frame.rename(columns={"eval/loss": "val/bpb"}), loss="val/bpb").unit == "bits/byte"
    assert fit_foreign(frame, means={"loss": "bits_per_byte"}).unit == "bits/byte"
    with pytest.raises(UserError, match=r"is perplexity by its name.*bind loss='log\(`val/ppl`\)'"):
        fit_foreign(frame.assign(**{"val/ppl": np.exp(frame["eval/loss"])}), loss="val/ppl")
    scaled = fit_foreign(frame, loss="`eval/loss`/log(2)/4.2")
    assert any("--means loss=bits_per_byte" in warning for warning in scaled.warnings)


def test_a_law_file_from_before_meanings_is_read(tmp_path: Any) -> None:
    law = fit_foreign(foreign())
    law.save(tmp_path / "law.json")
    data = json.loads((tmp_path / "law.json").read_text())
    for each in data["variables"]:
        del each["means"]
        each["bound_to"] = {"N": "config.n_params_nonemb", "D": "tokens", "S": "1/activation_ratio"}.get(
            each["name"], each["bound_to"]
        )
        if each["name"] == "D":
            each["high"] = 1e12
    for key in ("constants", "commonest", "bytes_per_token"):
        del data[key]
    (tmp_path / "old.json").write_text(json.dumps(data))
    old = Fit.load(tmp_path / "old.json")
    assert old.means == {
        "N": "params_active_non_embedding",
        "D": "tokens",
        "S": "1/activation_ratio",
        "G": "granularity",
    }
    assert old.constants == {}
    assert any("of an earlier version" in warning for warning in old.warnings)


@pytest.mark.parametrize(
    ("column", "words", "kept"),
    [
        ("State", ["finished", "crashed", "failed", "running"], 1),
        ("status", ["FINISHED", "KILLED", "SCHEDULED", "done"], 2),
        ("run.state", ["COMPLETED", "TIMEOUT", "OUT_OF_MEMORY", "CANCELLED"], 1),
        ("state", ["Texas", "Ohio", "Utah", "Iowa"], 4),
    ],
)
def test_the_words_of_loggers_are_known(column: str, words: list[str], kept: int) -> None:
    usable, note = usable_runs(pd.DataFrame({column: words, "loss": [1.0, 2.0, 3.0, 4.0]}))
    assert len(usable) == kept
    assert all(word in note for word in words if word not in usable[column].tolist())


def test_a_crashed_run_is_left_out_and_said() -> None:
    frame = foreign()
    frame.loc[5, ["State", "eval/loss"]] = "crashed", 7.91
    law = fit_foreign(frame)
    assert law.n_runs == 39
    assert law.values["E"] == pytest.approx(1.6, abs=0.05)
    assert any("left out: 1 crashed" in warning for warning in law.warnings)


def test_an_unknown_status_is_named_and_a_condition_on_it_decides() -> None:
    frame = pd.DataFrame({"status": ["done", "zorgled"], "loss": [1.0, 2.0]})
    with pytest.raises(UserError, match="row 2: status is 'zorgled'"):
        usable_runs(frame)
    failed = pd.DataFrame({"State": ["failed", "failed"], "loss": [1.0, 2.0]})
    with pytest.raises(UserError, match=r"no run is done \(2 failed\).*--where"):
        usable_runs(failed)
    assert len(usable_runs(filter_rows(failed, "State != 'queued'"))[0]) == 2


def test_conspicuous_runs_have_the_row_of_the_file_and_their_name() -> None:
    frame = foreign()
    frame.loc[29, "eval/loss"] *= 1.2
    frame.loc[[2, 3], "State"] = "crashed"
    kept = filter_rows(frame, "num_exp > 8")
    law = fit_foreign(kept)
    worst = fits.influence(law, kept).iloc[0]
    assert (worst["row"], worst["run"]) == (30, "run-29")
    with pytest.raises(UserError, match="row 30: loss"):
        fit_foreign(
            filter_rows(frame.assign(**{"eval/loss": frame["eval/loss"].mask(frame.index == 29)}), "num_exp > 8")
        )


def test_names_need_backquotes_only_inside_arithmetic() -> None:
    frame = foreign().assign(**{"tokens [1e9]": foreign()["train/tokens (B)"]})
    one = fit_foreign(frame, bind=BIND | {"D": "`tokens [1e9]` * 1e9", "N": "config.n_params_nonemb * 1"})
    assert one.means["D"] == "tokens"
    with pytest.raises(UserError, match=r"write the column in backquotes, as `tokens \[1e9\]`"):
        fit_foreign(frame, bind=BIND | {"D": "tokens [1e9] * 1e9"})
    with pytest.raises(UserError, match="as `train/tokens \\(B\\)`"):
        fit_foreign(frame, bind=BIND | {"D": "train/tokens (B) * 1e9"})


def test_advice_in_flops_is_not_given_while_units_are_unknown() -> None:
    frame = foreign().rename(columns={"train/tokens (B)": "D"})
    law = fit_foreign(frame, bind=BIND | {"D": "D"})
    with pytest.raises(UserError, match=r"what D \(bound to D\) counts is not known; say it with --means D="):
        fits.decide(law, {"C": 1e22, "S": 8.0})


def test_units_inside_arithmetic_are_known() -> None:
    frame = foreign().assign(n_params_nonemb_m=lambda each: each["config.n_params_nonemb"] / 1e6)
    law = fit_foreign(frame, bind=BIND | {"N": "n_params_nonemb_m/1000"})
    assert law.unit_of("N") == pytest.approx(1e9)
    known = fits.decide(fit_foreign(foreign()), {"C": 1e22, "S": 8.0})["N"]["value"]
    assert fits.decide(law, {"C": 1e22, "S": 8.0})["N"]["value"] == pytest.approx(known, rel=0.02)


@pytest.mark.parametrize(
    ("column", "factor"), [("tokens (units of 10^9)", 1e9), ("D in Mrd", 1e9), ("tok (1000s)", 1e3)]
)
def test_a_factor_on_a_column_of_an_unknown_unit_is_a_conversion(column: str, factor: float) -> None:
    frame = foreign()
    frame[column] = 1e9 * frame["train/tokens (B)"] / factor
    law = fit_foreign(frame, bind=BIND | {"D": f"`{column}`*{factor:g}"})
    assert law.means["D"] == "tokens"


def test_a_number_that_a_name_only_sounds_like_is_no_setting() -> None:
    frame = foreign().drop(columns="config.vocab_size").assign(**{"vocab": 7, "seq len": 2})
    law = fit_foreign(frame.drop(columns="Seq Len"))
    assert not {"vocab_size", "sequence_length"} & set(law.constants)


def test_a_formula_without_its_variables_is_refused() -> None:
    with pytest.raises(UserError, match=r"No variable of .* is bound"):
        fits.custom_law("E + A*N**-a + B*D**-b", [])
    with pytest.raises(UserError, match=r"D of .* is bound to no column"):
        fits.custom_law("E + A*N**-a + B*D**-b", ["N"])
