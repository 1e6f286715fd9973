"""What a law's variables mean: which of the counts that a plan can give, found from the names of anybody's columns.

A fit keeps for each variable the column it was bound to and, apart from that, what it means: an expression over
``PLAN_COLUMNS``. A name such as ``tokens (B)`` says enough of its own; where one says too little the law's own
declaration is taken, and the user is asked.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice, product

import numpy as np

from fits.errors import UserError, nearest
from fits.laws.expression import Name, Node, Number, Operation, evaluate, names, parse, substitute, written
from fits.laws.law import Variable
from fits.tables.column_words import SCALES, scale_of, words_of
from fits.tables.columns import BY_NAME

_ACTIVE, _TOTAL = "params_active", "params_total"
_ACTIVE_BODY, _TOTAL_BODY = "params_active_non_embedding", "params_total_non_embedding"
_FROM_RUN_TABLE = (
    *(_ACTIVE_BODY, _ACTIVE, _TOTAL, "tokens", "train_bytes", "train_flops", "flops_per_token", "sequence_length"),
    *("vocab_size", "hidden_size", "num_layers", "num_attention_heads", "num_key_value_heads", "num_experts"),
    *("experts_per_token", "num_shared_experts", "expert_ffn_size", "dense_ffn_size", "num_dense_layers"),
    *("activation_ratio", "granularity"),
)
PLAN_COLUMNS: dict[str, str] = {
    **{name: BY_NAME[name].meaning for name in _FROM_RUN_TABLE},
    _ACTIVE: "parameters that one token passes through, embeddings in",
    _ACTIVE_BODY: "parameters that one token passes through, without both embedding matrices",
    _TOTAL_BODY: "trainable parameters, without both embedding matrices",
    "unique_tokens": "different training tokens there are",
    "head_dim": "size of an attention head",
}
"""What a plan can give of a shape and its data, each with its meaning."""

COUNTS = {_ACTIVE_BODY, _ACTIVE, _TOTAL, _TOTAL_BODY, "tokens", "unique_tokens", "train_bytes", "train_flops"}
"""Those that are counted, and may stand in thousands or billions."""
_FEWEST = 1e4
"""No model has fewer parameters, and none is trained on fewer tokens: such numbers are of another unit."""
_USUAL = {
    "N": _ACTIVE_BODY,
    "D": "tokens",
    "H": "train_bytes",
    "C": "train_flops",
    "V": "vocab_size",
    "G": "granularity",
    "U": "unique_tokens",
}
"""What a variable of a user's own formula means when it has one of the literature's names."""
_NEVER = {
    *("seed", "date", "time", "timestamp", "datetime", "created", "started", "ended", "updated", "finished", "at"),
    *("runtime", "walltime", "duration", "seconds", "hours", "minutes", "index", "rank", "host", "gpu", "gpus"),
}
"""Words of what no plan can know."""
_QUALIFIERS = {"active", "activated", "total", "all", "seen", "trained", "count", "size", "number", *SCALES} | {
    *("shared", "routed", "experts", "nonemb", "non", "without", "no", "incl", "emb", "embedding", "embeddings"),
}
_PARTS = {"norm", "attn", "attention", "mlp", "ffn", "head", "layer", "layers", "bias", "router", "frozen", "lora"}
"""Words of parameters that are a part of the model's."""
_ELSE = {
    *("divisible", "multiple", "divisor", "extra", "parallel", "group", "groups", "dropout", "init", "std", "scaling"),
    *("factor", "generation", "sampling", "rope", "eval", "val", "valid", "validation", "test", "warmup", "loss"),
    *("capacity", "balance", "coef", "weight", "offset", "start", "stop", "pad", "path", "file", "interval"),
}
"""Words of settings that only sound like a size: ``make_vocab_size_divisible_by``, ``context_parallel_size``."""
_EXACT = {
    "hidden_size": "hidden_size d_model dmodel n_embd nembd model_dim hidden_dim embed_dim width d_embed dim",
    "num_layers": "num_layers n_layers n_layer nlayers nlayer layers depth num_hidden_layers",
    "num_dense_layers": "num_dense_layers n_dense_layers first_k_dense_replace",
    "num_attention_heads": "num_attention_heads num_heads n_heads n_head heads nheads",
    "num_key_value_heads": "num_key_value_heads num_kv_heads n_kv_heads kv_heads n_kv_head",
    "head_dim": "head_dim d_head dhead head_size",
    "dense_ffn_size": "dense_ffn_size d_ff dff ffn_dim ffn_size intermediate_size ffn_hidden_size mlp_dim",
    "sequence_length": "sequence_length ctx n_positions max_position_embeddings seq seq_len seqlen seq_length "
    "context_length context_size ctx_len n_ctx "
    "max_seq_len max_sequence_length max_seq_length block_size context_window",
    "experts_per_token": "top_k topk",
    "num_shared_experts": "n_shared num_shared shared_experts",
}
_BY_WORDS = {words: column for column, listed in _EXACT.items() for words in listed.split()}


@dataclass(frozen=True)
class Meaning:
    """What a variable means to a plan.

    ``expression`` is over ``PLAN_COLUMNS``, None when no plan can know it; ``question`` is what the user should be
    asked or told, empty when nothing is doubtful.
    """

    expression: str | None
    text: str
    question: str = ""


def given_meaning(name: str, text: str, largest: float) -> Meaning:
    """A meaning as the user states it.

    Raises:
        UserError: it is no expression over ``PLAN_COLUMNS``, or the numbers are too small for it.
    """
    for column in names(parse(text)):
        if column not in PLAN_COLUMNS:
            raise UserError(
                f"--means {name}={text}: a plan cannot give '{column}'{nearest(column, PLAN_COLUMNS)}; "
                f"it gives {', '.join(PLAN_COLUMNS)}."
            )
    if text in COUNTS and largest < _FEWEST:
        raise UserError(
            f"--means {name}={text}: {name} is at most {largest:.4g}, too few to be {PLAN_COLUMNS[text]}; say the "
            f"unit, as in --means {name}={text}/1e9 for billions."
        )
    return Meaning(text, _text_of(text))


def meaning_of(variable: Variable, bound_to: str, *, of: str, largest: float | None = None) -> Meaning:
    """What a variable means, by the law's declaration and by the names it was bound to.

    Args:
        bound_to: an expression over the table's columns.
        of: the law's name, for what is said.
        largest: the variable's largest value, which tells units apart.
    """
    declared = _declared(variable)
    bound = parse(bound_to)
    if not names(bound):  # a constant
        return Meaning(declared or bound_to, variable.meaning or _text_of(declared or bound_to))
    about = f"{variable.name} (bound to {bound_to})"
    if all(_never(name) for name in names(bound)):
        return Meaning(
            None,
            variable.meaning,
            f"{about} is nothing that a plan can know, so 'scaling plan' cannot use this law; bind {variable.name} to "
            f"a column of the model or its data, or say what it is with --means {variable.name}=COLUMN.",
        )
    readings = [_converted(each, largest) for each in _readings(bound)]
    if bound == Name(variable.name) and (declared or variable.name in _USUAL):  # in the law's own notation
        taken, question = declared or _USUAL[variable.name], ""
    else:
        taken, question = _choose(of, variable, declared, readings, _unit(bound, largest, variable), about)
    if taken in COUNTS and largest is not None and largest < _FEWEST:
        return Meaning(
            None,
            variable.meaning,
            f"{about} is at most {largest:.4g}, too few to be {PLAN_COLUMNS[taken]}: until its unit is said, as in "
            f"--means {variable.name}={taken}/1e9 for billions, 'scaling plan' cannot use this law.",
        )
    if taken is None:
        return Meaning(None, variable.meaning, question)
    return Meaning(taken, variable.meaning if taken == declared else _text_of(taken), question)


def _choose(
    law: str, variable: Variable, declared: str | None, readings: list[str], unit: str, about: str
) -> tuple[str | None, str]:
    """Which reading is taken, in its unit (``/1e9`` or nothing), and what is said of it."""
    ask = f"if it counts something else, say so with --means {variable.name}="
    expected = declared or _USUAL.get(variable.name)
    agreeing = [each for each in readings if expected and _same(each, expected)]
    if expected and (agreeing or not readings):
        others = [each for each in readings if not _same(each, expected)]
        if agreeing and not others and not unit:
            return expected, ""
        other = f"{others[0]}{unit}" if others else expected if unit else "COLUMN"
        return f"{expected}{unit}", f"{about} is taken as {_named(expected + unit)}; {ask}{other}."
    if not readings:
        return None, (
            f"{about} means nothing that a plan knows, so 'scaling plan' cannot use this law; "
            f"say what it is with --means {variable.name}=COLUMN."
        )
    taken = readings[0] + unit
    if declared and variable.meaning:
        return taken, (
            f"{about} is taken as {_named(taken)} by its name, where law '{law}' itself counts "
            f"{_named(declared)}; if it is that, say so with --means {variable.name}={declared}{unit}."
        )
    return taken, f"{about} is taken as {_named(taken)}; {ask}{readings[1]}{unit}." if len(readings) > 1 else ""


def _declared(variable: Variable) -> str | None:
    """The law's own column for the variable, when a plan can give it."""
    column = variable.column
    return column if column and set(names(parse(column))) <= set(PLAN_COLUMNS) else None


def _named(expression: str) -> str:
    meaning = _text_of(expression)
    return expression if meaning == expression else f"{expression} ({meaning})"


def _text_of(expression: str) -> str:
    column, _, unit = expression.partition("/")
    if unit and column in COUNTS:
        return f"{PLAN_COLUMNS[column]}, in units of {unit}"
    return PLAN_COLUMNS.get(expression, expression)


def _unit(bound: Node, largest: float | None, variable: Variable) -> str:
    """``/1e9`` where a column's name says billions and its numbers may be."""
    if isinstance(bound, Name) and words_of(bound.name)[:-1] == (variable.name.lower(),) and scale_of(bound.name):
        return f"/{scale_of(bound.name)}"  # D (B)
    if not isinstance(bound, Name) or bound.name in PLAN_COLUMNS or (largest is not None and largest >= 1e7):
        return ""
    found, unit = recognised(bound.name), scale_of(bound.name)
    return f"/{unit}" if unit and found and found[0] in COUNTS else ""


def _readings(bound: Node) -> list[str]:
    """Every way to write what was bound over the plan's columns, the likeliest first; empty where a name is unknown.

    A unit in the names is written out inside arithmetic (``tokens/1e9*1e9`` is tokens), and left to ``_unit`` else.
    """
    if isinstance(bound, Name):
        return recognised(bound.name)
    choices = []
    for name in names(bound):
        found, unit = recognised(name), scale_of(name) if name not in PLAN_COLUMNS else None
        if not found:
            return []
        inside = f"/{unit}" if unit and found[0] in COUNTS else ""
        choices.append([(name, parse(column + inside)) for column in found])
    return [written(_cancelled(substitute(bound, dict(choice)))) for choice in islice(product(*choices), 64)]


def _converted(reading: str, largest: float | None) -> str:
    """``tokens*1e9`` of a column that held billions without saying so: what was bound is the tokens themselves."""
    node = parse(reading)
    if largest is None or names(node)[1:] or names(node)[0] not in COUNTS:
        return reading
    one, two = (float(evaluate(node, {names(node)[0]: count})) for count in (1.0, 2.0))
    return names(node)[0] if two == 2 * one and one > 1 and largest / one < _FEWEST else reading


def _cancelled(node: Node) -> Node:
    """``tokens/1e9*1e9`` as ``tokens``."""
    match node:
        case Operation("*", (Operation("/", (inner, Number(below))), Number(factor))) if below == factor:
            return inner
        case Operation("*", (Number(factor), Operation("/", (inner, Number(below))))) if below == factor:
            return inner
        case Operation(operator, operands):
            return Operation(operator, tuple(_cancelled(each) for each in operands))
    return node


@cache
def _sample() -> dict[str, np.ndarray]:
    """Values of every column of a plan that hang together as those of real shapes do."""
    rng = np.random.default_rng(0)
    sample: dict[str, np.ndarray] = {name: np.exp(rng.uniform(0, 5, 40)) for name in PLAN_COLUMNS}
    shared, experts = sample["num_shared_experts"], sample["num_experts"]
    sample["activation_ratio"] = (sample["experts_per_token"] + shared) / (experts + shared)
    sample["granularity"] = 2 * sample["hidden_size"] / sample["expert_ffn_size"]
    sample["train_flops"] = sample["flops_per_token"] * sample["tokens"]
    return sample


def _same(one: str, other: str) -> bool:
    """Whether two expressions say the same of every shape."""
    return bool(np.allclose(*(evaluate(parse(each), _sample()) for each in (one, other)), rtol=1e-9))


def recognised(name: str) -> list[str]:
    """The plan's columns that a name can mean, the likeliest first; empty when it says nothing."""
    if name in PLAN_COLUMNS:
        return [name]
    if set(words_of(name)) & _ELSE:
        return []
    last = re.split(r"[./](?=\S)", name.replace("w/o", "without"))[-1]
    found = _by_words(words_of(last))
    if found or not set(words_of(last)) <= _QUALIFIERS:
        return found
    return _by_words(words_of(name))


def _never(name: str) -> bool:
    return name not in PLAN_COLUMNS and not recognised(name) and bool(set(words_of(name)) & _NEVER)


def _by_words(words: Sequence[str]) -> list[str]:
    if "_".join(words) in _BY_WORDS:
        return [_BY_WORDS["_".join(words)]]
    own = [word for word in words if word not in ("config", "cfg", "model", "args", "hparams")]
    plain = [word for word in own if word not in SCALES or len(own) == 1]
    joined, has = "_".join(plain), set(plain)
    if joined in PLAN_COLUMNS:
        return [joined]
    if joined in _BY_WORDS:
        return [_BY_WORDS[joined]]
    if has & {"expert", "experts", "exp", "moe"} and not has & {"loss", "balance", "parallel", "bias", "capacity"}:
        return _experts(has)
    if has & {"topk"} or {"top", "k"} <= set(own):
        return ["experts_per_token"]
    if has & {"params", "param", "parameters", "parameter", "nparams"} or words == ["model", "size"]:
        return _params(joined, has)
    if has & {"flops", "flop"} or joined in ("compute", "train_compute", "training_compute"):
        if "token" in has:
            return ["flops_per_token"]
        return [] if has & {"per", "s", "sec", "second", "gpu", "utilization", "utilisation"} else ["train_flops"]
    if has & {"vocab", "vocabulary", "vocabsize"}:
        return [] if has & {"loss", "params", "file", "parallel"} else ["vocab_size"]
    if has & {"tokens", "token", "toks", "ntokens"}:
        if has & {"per", "s", "sec", "second", "batch", "micro", "step", "length", "id", "rate", "gpu", "max"}:
            return []
        return ["unique_tokens"] if has & {"unique", "distinct"} else ["tokens"]
    if has & {"bytes", "byte"}:
        return [] if has & {"per", "bits", "memory", "mem", "gpu", "kv"} else ["train_bytes"]
    if has & {"seq", "sequence", "context"} and has & {"len", "length", "size", "window"}:
        return ["sequence_length"]
    if "granularity" in has:
        return ["granularity", "2*granularity"]
    if "sparsity" in has:
        return ["1/activation_ratio", "1-activation_ratio"]
    if has & {"activation", "active", "activated"} and "ratio" in has:
        return ["activation_ratio"]
    return []


def _experts(has: set[str]) -> list[str]:
    wide = has & {"ffn", "dim", "hidden", "intermediate", "size", "width", "inner", "d"}
    if "shared" in has:
        return [] if wide else ["num_shared_experts"]
    if wide and has & {"expert", "experts", "moe"}:
        return ["expert_ffn_size"]
    if has & {"top", "topk", "tok", "token", "per", "active", "activated", "selected"}:
        return ["experts_per_token"]
    many = has & {"n", "num", "number", "routed", "local", "count", "total"}
    if "experts" in has or (has & {"expert", "exp"} and many):
        return ["num_experts"]
    return []


def _params(joined: str, has: set[str]) -> list[str]:
    if has & _PARTS or "per" in has or {"non", "trainable"} <= has:
        return []
    body = re.search(r"(non|no|without|wo|w_o|ex|excl|excluding|minus|sans)_?emb", joined)
    if not body and any(word.startswith("emb") for word in has) and not has & {"with", "incl", "including", "w"}:
        return []  # the embedding's own
    whole = bool(re.search(r"(with|incl|including|w)_?emb", joined)) and not body
    kinds = [True] if has & {"active", "activated", "act", "activ"} else [False] if "total" in has else [True, False]
    found = []
    for active in kinds:
        with_embedding, without = (_ACTIVE, _ACTIVE_BODY) if active else (_TOTAL, _TOTAL_BODY)
        found += [without] if body else [with_embedding] if whole else [with_embedding, without]
    return found
