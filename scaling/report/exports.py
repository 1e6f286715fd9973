"""The configs that were exported for training stacks, each read back and counted against the plan."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fits.errors import UserError
from scaling.handoff.export import STACKS
from scaling.handoff.megatron import write as megatron
from scaling.handoff.megatron.read import read_megatron
from scaling.handoff.torchtitan.read import read_torchtitan
from scaling.hf.read import read_hf_config
from scaling.plan import TrainingPlan
from scaling.report.numbers import whole

_READERS: dict[str, Callable[[Path], int]] = {
    "config.json": lambda path: read_hf_config(path).architecture.params_total,
    "config_registry.py": lambda path: read_torchtitan(path).model.params_total,
    megatron.FILE: lambda path: read_megatron(path).model.params_total,
}
"""File of a stack -> the parameters of the model that it describes."""


@dataclass(frozen=True)
class ExportedConfig:
    """What was written for one stack."""

    stack: str
    target: str
    files: tuple[str, ...]
    count: str
    """The total counted from the files, and whether it is the plan's."""
    omissions: tuple[str, ...]
    """What the plan says and the stack's files cannot."""


def read_exports(directory: Path) -> Iterator[ExportedConfig]:
    """The stacks that have a folder in ``directory``, compared with the ``plan.yaml`` beside them.

    A stack without a folder is listed when it cannot compute the plan's model, with the reason.
    """
    plan = TrainingPlan.load(directory / "plan.yaml") if (directory / "plan.yaml").is_file() else None
    for name, stack in STACKS.items():
        files = sorted(path for path in (directory / name).rglob("*") if path.is_file())
        if files:
            shown = tuple(str(path.relative_to(directory)) for path in files)
            omissions = tuple(stack.omissions(plan)) if plan else ()
            yield ExportedConfig(name, stack.TARGET, shown, _count(files, plan), omissions)
        elif plan is not None:
            try:
                stack.files(plan)
            except UserError as error:
                yield ExportedConfig(name, stack.TARGET, (), f"not written: {error}", ())


def _count(files: list[Path], plan: TrainingPlan | None) -> str:
    for path in files:
        reader = _READERS.get(path.name)
        if reader is None:
            continue
        try:
            total = reader(path)
        except UserError as error:
            return f"could not be read back: {error}"
        if plan is None:
            return whole(total)
        off = total - plan.model.params_total
        return f"{whole(total)}, " + ("the plan's to the last one" if not off else f"{off:+,} from the plan's")
    return "no file of it holds the model"
