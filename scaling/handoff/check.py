"""Is a plan or a folder of exported files what the stacks will run? Our own checks, then the stacks' own code."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fits.errors import UserError, nearest
from fits.files import read_mapping
from fits.progress import Progress, unwatched
from fits.schema import Schema
from scaling.cluster.faults import faults
from scaling.cluster.run import Run, run_of
from scaling.handoff import huggingface
from scaling.handoff.bridge import write as bridge
from scaling.handoff.bridge.read import in_fields, read_bridge
from scaling.handoff.comparison import Proof, differences_of_runs
from scaling.handoff.export import STACKS
from scaling.handoff.huggingface import count_with_transformers
from scaling.handoff.megatron import build as megatron_core
from scaling.handoff.megatron import write as megatron
from scaling.handoff.megatron.read import in_flags, read_megatron
from scaling.handoff.olmo_core import build as olmo_core_build
from scaling.handoff.olmo_core import write as olmo_core
from scaling.handoff.olmo_core.read import read_olmo_core
from scaling.handoff.torchtitan import build as torchtitan_build
from scaling.handoff.torchtitan import write as torchtitan
from scaling.handoff.torchtitan.read import read_torchtitan
from scaling.hf.read import read_hf_config
from scaling.hf.write import differences
from scaling.installation.extras import NotInstalled
from scaling.plan import TrainingPlan
from trainer_small.architecture import Architecture

RATE_TOLERANCE = 1e-9
"""Of the peak rate, to which a stack's schedule must be the plan's."""


class Check(Schema):
    """One thing looked at."""

    subject: str
    """The file."""
    name: str
    status: Literal["ok", "fault", "skipped", "note"]
    detail: str = ""


class Report(Schema):
    """All checks of a plan or folder."""

    ok: bool
    checks: tuple[Check, ...]

    @property
    def faults(self) -> list[Check]:
        return [check for check in self.checks if check.status == "fault"]


@dataclass(frozen=True)
class _Reader:
    """How a stack's file of the whole run is read, compared and proven."""

    name: str
    file: str
    package: str
    """Whose classes prove it."""
    word: str
    """What the file calls its names."""
    read: Callable[[Path, int | None], Run]
    """From the file and the number of GPUs, which most stacks take from their launcher."""
    expressed: Callable[[Run], Run]
    """The plan's run less what the stack cannot hold, which the export named."""
    in_words: Callable[[str], str]
    """A fault of the run in the words of the file."""
    prove: Callable[[Path, Run], Proof]
    rate_at: Callable[[Run, int], float]


_READERS = (
    _Reader(
        megatron.NAME, megatron.FILE, "megatron-core", "flags",
        lambda path, gpus: read_megatron(path), megatron.expressed, in_flags,
        lambda path, run: megatron_core.prove(run), megatron_core.rate_at,
    ),
    _Reader(
        bridge.NAME, bridge.FILE, "megatron-core", "fields",
        lambda path, gpus: read_bridge(path, gpus=gpus), bridge.expressed, in_fields,
        lambda path, run: megatron_core.prove(run), megatron_core.rate_at,
    ),
    _Reader(
        torchtitan.NAME, "config_registry.py", "torchtitan", "constants",
        lambda path, gpus: read_torchtitan(path, gpus=gpus), torchtitan.expressed, str,
        torchtitan_build.prove, torchtitan_build.rate_at,
    ),
    _Reader(
        olmo_core.NAME, olmo_core.FILE, "OLMo-core", "fields",
        lambda path, gpus: read_olmo_core(path, gpus=gpus), olmo_core.expressed, str,
        olmo_core_build.prove, olmo_core_build.rate_at,
    ),
)  # fmt: skip


def check_configs(path: str | Path, stacks: Sequence[str] = ("all",), *, progress: Progress = unwatched) -> Report:
    """Check a plan, a stack's file, or a folder of them.

    A file is compared, number by number, with the nearest ``plan.yaml`` of the folder it is in or of those above.

    Args:
        path: the plan, the file or the folder.
        stacks: names in ``STACKS`` whose files and classes are asked, or ``("all",)``.
        progress: called after every file.

    Raises:
        UserError: an unknown stack, or there is nothing to check.
    """
    for name in stacks:
        if name not in (*STACKS, "all"):
            known = ", ".join([*STACKS, "all"])
            raise UserError(f"--stack is '{name}'{nearest(name, STACKS)}; known are {known}.")
    asked = tuple(STACKS) if "all" in stacks else tuple(stacks)
    path = Path(path)
    found = _files(path)
    plans: dict[Path, TrainingPlan] = {}
    checks: list[Check] = []
    made = found.get("plan.yaml", [])
    exported = [(file, checker) for name, checker in _checkers(asked).items() for file in found.get(name, [])]
    total = len(made) + len(exported)
    for done, file in enumerate(made, start=1):
        plan, results = _plan(file, asked)
        checks += results
        progress(done, total)
        if plan is not None:
            plans[file.parent] = plan
    for done, (file, checker) in enumerate(exported, start=len(made) + 1):
        folder = next((folder for folder in file.parents if folder in plans), None)
        checks += checker(file, plans[folder] if folder else None)
        progress(done, total)
    return Report(ok=all(item.status != "fault" for item in checks), checks=tuple(checks))


def _checkers(stacks: Sequence[str]) -> dict[str, Callable[[Path, TrainingPlan | None], list[Check]]]:
    """File name -> how it is checked."""
    found: dict[str, Callable[[Path, TrainingPlan | None], list[Check]]] = {}
    if huggingface.NAME in stacks:
        found["config.json"] = _hf
    for reader in _READERS:
        if reader.name in stacks:
            found[reader.file] = lambda path, plan, reader=reader: _run_file(reader, path, plan)
    return found


def _files(path: Path) -> dict[str, list[Path]]:
    """The files to check, by the name that says what they are."""
    names = ["plan.yaml", "config.json", *(reader.file for reader in _READERS)]
    if path.is_dir():
        found = {name: sorted(path.rglob(name)) for name in names}
        if not any(found.values()):
            raise UserError(f"{path} has none of {', '.join(names)}; export a plan there first.")
        return found
    if path.name in names:
        return {path.name: [path]}
    content = read_mapping(path)
    marks = {"MODEL_ARGS": megatron.FILE, "train_module": olmo_core.FILE, "scheduler": bridge.FILE}
    marks["model_type"] = "config.json"
    name = next((name for mark, name in marks.items() if mark in content), "plan.yaml")
    return {name: [path]}


def _plan(path: Path, stacks: Sequence[str]) -> tuple[TrainingPlan | None, list[Check]]:
    subject = str(path)
    try:
        plan = TrainingPlan.load(path)
    except UserError as error:
        return None, [Check(subject=subject, name="keys and values", status="fault", detail=str(error))]
    checks = [Check(subject=subject, name="keys and values", status="ok")]
    checks += _judged(subject, "sizes across keys", faults(run_of(plan)))
    for name in stacks:
        stack = STACKS[name]
        try:
            stack.files(plan)
            checks.append(Check(subject=subject, name=f"can be written for {name}", status="ok", detail=stack.TARGET))
        except UserError as error:
            checks.append(Check(subject=subject, name=f"can be written for {name}", status="note", detail=str(error)))
    return plan, checks + (list(_transformers(subject, plan)) if huggingface.NAME in stacks else [])


def _transformers(subject: str, plan: TrainingPlan) -> Iterator[Check]:
    try:
        config = huggingface.config(plan)
    except UserError:
        return  # already noted
    yield _counted(subject, "transformers", plan.model.params_total, lambda: count_with_transformers(config, subject))


def _hf(path: Path, plan: TrainingPlan | None) -> list[Check]:
    subject = str(path)
    try:
        model = read_hf_config(path)
    except UserError as error:
        return [Check(subject=subject, name="keys and values", status="fault", detail=str(error))]
    checks = _judged(subject, "keys and values", list(model.misspelt))
    notes = [warning for warning in model.warnings if warning not in model.misspelt]
    checks += [Check(subject=subject, name="keys and values", status="note", detail=note) for note in notes]
    if plan is not None:
        checks += _judged(subject, "the same as the plan", _changed(model.architecture, plan.model))
    config = read_mapping(path)
    total = model.architecture.params_total
    return [*checks, _counted(subject, "transformers", total, lambda: count_with_transformers(config, subject))]


def _run_file(reader: _Reader, path: Path, plan: TrainingPlan | None) -> list[Check]:
    subject, layout = str(path), plan.layout if plan else None
    try:
        run = reader.read(path, layout.gpus if layout else None)
    except UserError as error:
        return [Check(subject=subject, name=f"{reader.word} and values", status="fault", detail=str(error))]
    checks = [Check(subject=subject, name=f"{reader.word} and values", status="ok")]
    found = [reader.in_words(fault) for fault in faults(run)]
    checks += _judged(subject, f"sizes across {reader.word}", found)
    if plan is not None:
        checks += _judged(subject, "the same as the plan", _changed_run(run, reader.expressed(run_of(plan))))
    return checks + _proven(subject, reader, path, run)


def _proven(subject: str, reader: _Reader, path: Path, run: Run) -> list[Check]:
    """Parameters to the last one and the learning rate at many steps, by the stack's own classes."""
    counts, rates = f"parameters by {reader.package}", f"learning rate by {reader.package}"
    try:
        proof = reader.prove(path, run)
    except NotInstalled as error:
        return [Check(subject=subject, name=name, status="skipped", detail=str(error)) for name in (counts, rates)]
    except UserError as error:
        return [Check(subject=subject, name=counts, status="fault", detail=f"{reader.package} refuses it: {error}")]
    pairs = [("", proof.parameters, run.model.params_total)]
    if proof.active_parameters is not None:
        pairs.append(("active ", proof.active_parameters, run.model.params_active))
    checks = [_compared(subject, kind + counts, reader.package, kind, built, ours) for kind, built, ours in pairs]
    worst = max(proof.rates, key=lambda step: abs(proof.rates[step] - reader.rate_at(run, step)))
    theirs, ours = proof.rates[worst], reader.rate_at(run, worst)
    if abs(theirs - ours) > RATE_TOLERANCE * run.learning_rate:
        detail = f"at step {worst} {reader.package} has {theirs:.10g}, the plan's curve {ours:.10g}"
        return [*checks, Check(subject=subject, name=rates, status="fault", detail=detail)]
    return [*checks, Check(subject=subject, name=rates, status="ok", detail=f"{len(proof.rates)} steps")]


def _judged(subject: str, name: str, found: list[str]) -> list[Check]:
    """One fault a sentence, or one line that says it is right."""
    if not found:
        return [Check(subject=subject, name=name, status="ok")]
    return [Check(subject=subject, name=name, status="fault", detail=text) for text in found]


def _changed(written: Architecture, planned: Architecture) -> list[str]:
    return [
        f"model.{key} is {getattr(written, key)!r}, the plan says {value!r}; export again or change the plan"
        for key, value in differences(planned, written).items()
    ]


def _changed_run(written: Run, planned: Run) -> list[str]:
    found = _changed(written.model, planned.model)
    for name, (value, wanted) in differences_of_runs(written, planned).items():
        found.append(f"{name} is {value!r}, the plan says {wanted!r}; export again or change the plan")
    return found


def _counted(subject: str, package: str, expected: int, counter: Callable[[], int]) -> Check:
    """The parameters by the stack's own classes against ours, to the last one."""
    name = f"parameters by {package}"
    try:
        total = counter()
    except NotInstalled as error:
        return Check(subject=subject, name=name, status="skipped", detail=str(error))
    except UserError as error:
        return Check(subject=subject, name=name, status="fault", detail=str(error))
    return _compared(subject, name, package, "", total, expected)


def _compared(subject: str, name: str, package: str, kind: str, total: int, expected: int) -> Check:
    if total != expected:
        detail = f"{package} builds {total:,} {kind}parameters, the file says {expected:,}"
        return Check(subject=subject, name=name, status="fault", detail=detail)
    return Check(subject=subject, name=name, status="ok", detail=f"{total:,}")
