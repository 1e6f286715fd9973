"""Is a plan or a folder of exported files what the stacks will run? Our own checks, then the stacks' own code."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from fits.errors import UserError
from fits.files import read_mapping
from fits.schema import Schema
from scaling.export import STACKS
from scaling.extras import NotInstalled
from scaling.hf.build import count_with_transformers
from scaling.hf.read import read_hf_config
from scaling.hf.write import differences
from scaling.plan import TrainingPlan
from scaling.stacks import huggingface, megatron, megatron_core, torchtitan_build
from scaling.stacks.faults import faults
from scaling.stacks.megatron_read import in_flags, read_megatron
from scaling.stacks.run import Run, run_of
from scaling.stacks.torchtitan_read import read_torchtitan
from trainer_small.architecture import Architecture


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


def check(path: str | Path) -> Report:
    """Check a plan, a stack's file, or a folder of them.

    A file is compared, number by number, with the nearest ``plan.yaml`` of the folder it is in or of those above.

    Raises:
        UserError: there is nothing to check.
    """
    path = Path(path)
    found = _files(path)
    plans: dict[Path, TrainingPlan] = {}
    checks: list[Check] = []
    for file in found.get("plan.yaml", []):
        plan, results = _plan(file)
        checks += results
        if plan is not None:
            plans[file.parent] = plan
    for name, checker in _CHECKERS.items():
        for file in found.get(name, []):
            nearest = next((folder for folder in file.parents if folder in plans), None)
            checks += checker(file, plans[nearest] if nearest else None)
    return Report(ok=all(item.status != "fault" for item in checks), checks=tuple(checks))


def _files(path: Path) -> dict[str, list[Path]]:
    """The files to check, by the name that says what they are."""
    names = ["plan.yaml", *_CHECKERS]
    if path.is_dir():
        found = {name: sorted(path.rglob(name)) for name in names}
        if not any(found.values()):
            raise UserError(f"{path} has none of {', '.join(names)}; export a plan there first.")
        return found
    if path.name in _CHECKERS:
        return {path.name: [path]}
    content = read_mapping(path)
    if "MODEL_ARGS" in content:
        return {megatron.FILE: [path]}
    return {"config.json" if "model_type" in content else "plan.yaml": [path]}


def _plan(path: Path) -> tuple[TrainingPlan | None, list[Check]]:
    subject = str(path)
    try:
        plan = TrainingPlan.load(path)
    except UserError as error:
        return None, [Check(subject=subject, name="keys and values", status="fault", detail=str(error))]
    checks = [Check(subject=subject, name="keys and values", status="ok")]
    checks += _judged(subject, "sizes across keys", faults(run_of(plan)))
    for name, stack in STACKS.items():
        try:
            stack.files(plan)
            checks.append(Check(subject=subject, name=f"can be written for {name}", status="ok", detail=stack.TARGET))
        except UserError as error:
            checks.append(Check(subject=subject, name=f"can be written for {name}", status="note", detail=str(error)))
    return plan, checks + list(_transformers(subject, plan))


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


def _megatron(path: Path, plan: TrainingPlan | None) -> list[Check]:
    subject = str(path)
    try:
        run = read_megatron(path)
    except UserError as error:
        return [Check(subject=subject, name="flags and values", status="fault", detail=str(error))]
    checks = [Check(subject=subject, name="flags and values", status="ok")]
    checks += _judged(subject, "sizes across flags", [in_flags(fault) for fault in faults(run)])
    if plan is not None:
        wanted = run_of(plan)
        model = wanted.model.model_copy(update={"moe_output_norm": False})  # an omission that the file names
        wanted = dataclasses.replace(wanted, model=model)
        checks += _judged(subject, "the same as the plan", _changed_run(run, wanted))
    return [*checks, _counted(subject, "megatron-core", run.model.params_total, lambda: megatron_core.count(run))]


def _torchtitan(path: Path, plan: TrainingPlan | None) -> list[Check]:
    subject = str(path)
    layout = plan.layout if plan else None
    try:
        run = read_torchtitan(path, gpus=layout.gpus if layout else None)
    except UserError as error:
        return [Check(subject=subject, name="constants", status="fault", detail=str(error))]
    checks = [Check(subject=subject, name="constants", status="ok")]
    checks += _judged(subject, "sizes across constants", faults(run))
    if plan is not None:
        precision = "fp32" if plan.precision == "fp32" else "bf16"
        wanted = dataclasses.replace(run_of(plan), precision=precision)
        checks += _judged(subject, "the same as the plan", _changed_run(run, wanted))
    return [
        *checks,
        _counted(
            subject,
            "torchtitan",
            run.model.params_total,
            lambda: torchtitan_build.count(path, gpus=layout.gpus if layout else None),
        ),
    ]


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
    for field in dataclasses.fields(Run):
        value, wanted = getattr(written, field.name), getattr(planned, field.name)
        if field.name != "model" and value != wanted:
            found.append(f"{field.name} is {value!r}, the plan says {wanted!r}; export again or change the plan")
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
    if total != expected:
        detail = f"{package} builds {total:,} parameters, the file says {expected:,}"
        return Check(subject=subject, name=name, status="fault", detail=detail)
    return Check(subject=subject, name=name, status="ok", detail=f"{total:,}")


_CHECKERS: dict[str, Callable[[Path, TrainingPlan | None], list[Check]]] = {
    "config.json": _hf,
    megatron.FILE: _megatron,
    "config_registry.py": _torchtitan,
}


check_configs = check
"""Its public name: ``scaling.check`` is this module."""
