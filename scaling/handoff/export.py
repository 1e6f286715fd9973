"""A plan written out for the training stacks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fits.errors import UserError, nearest
from fits.files import write_text
from scaling.cluster.faults import faults
from scaling.cluster.run import run_of
from scaling.handoff import huggingface
from scaling.handoff.bridge import write as bridge
from scaling.handoff.megatron import write as megatron
from scaling.handoff.olmo_core import write as olmo_core
from scaling.handoff.torchtitan import write as torchtitan
from scaling.plan import TrainingPlan

STACKS = {stack.NAME: stack for stack in (megatron, huggingface, torchtitan, olmo_core, bridge)}


@dataclass(frozen=True)
class Exported:
    """What was written for one stack, and what of the plan its files do not say, or why there are none."""

    stack: str
    target: str
    files: tuple[Path, ...]
    """Empty when the stack cannot compute the model."""
    omissions: tuple[str, ...]


def export_plan(plan: TrainingPlan, stacks: Sequence[str], out: str | Path) -> list[Exported]:
    """Write the plan for each stack, with the plan itself beside it as ``plan.yaml``.

    One stack is written into ``out``; several are written into a folder each, named after the stack. Of ``all``,
    those that cannot compute the model are left out, with the reason.

    Args:
        plan: the training plan.
        stacks: names in ``STACKS``, or ``("all",)``.
        out: the folder, made when it is not there.

    Raises:
        UserError: an unknown stack, a plan that would not run, a model a stack cannot compute; nothing is written then.
    """
    every = "all" in stacks
    names = list(STACKS) if every else list(dict.fromkeys(stacks))
    for name in names:
        if name not in STACKS:
            known = ", ".join([*STACKS, "all"])
            raise UserError(f"--stack is '{name}'{nearest(name, STACKS)}; known are {known}.")
    for fault in faults(run_of(plan)):
        raise UserError(f"plan '{plan.name}': {fault}.")
    contents: dict[str, dict[str, str]] = {}  # all of them before the first is written
    refusals: dict[str, UserError] = {}
    for name in names:
        try:
            contents[name] = STACKS[name].files(plan)
        except UserError as error:
            refusals[name] = error
    if refusals and not (every and contents):
        raise next(iter(refusals.values()))
    folders = {name: Path(out) / name if len(names) > 1 else Path(out) for name in names}
    done = []
    for name in names:
        stack, content = STACKS[name], contents.get(name, {})
        for file, text in content.items():
            write_text(folders[name] / file, text)
        notes = [str(refusals[name])] if name in refusals else stack.omissions(plan)
        done.append(Exported(name, stack.TARGET, tuple(folders[name] / file for file in content), tuple(notes)))
    plan.save(Path(out) / "plan.yaml")
    return done
