"""The loops that store values of keys, before those of the rows (see column_values)."""

from __future__ import annotations

from collections.abc import Callable

from attnc.passes.finish import Lowering, Target
from attnc.passes.reductions import Reductions
from attnc.schedule import Workspace

Emit = Callable[[Lowering, str, tuple[Target, ...]], None]


def emit_columns(lowering: Lowering, name: str, emit: Emit) -> None:
    """The kernels of values of keys that nothing has stored yet. `emit` makes the kernels of
    targets, those of what they need first."""
    done = {space.array.name for space in lowering.workspaces}
    for column in tuple(lowering.reductions.columns.values()):
        if column.mantissa.name in done:
            continue
        part = part_of(lowering, column.part)
        targets = [Target(column.mantissa, None, column.formula)]
        if column.exponent is not None:
            targets[0] = Target(column.mantissa, None, column.formula, "mantissa")
            targets.append(Target(column.exponent, None, column.formula, "exponent"))
        names = [target.array.name for target in targets]
        lowering.workspaces.extend(Workspace(target.array, "accumulate") for target in targets)
        lowering.preparations.finished.update(names)
        emit(part, f"{name}_{column.mantissa.name}", tuple(targets))
        held, walked = part.frame.held, part.frame.walked[0]
        lowering.notes.append(
            f"A pass that holds {held} and walks {walked} finishes {' and '.join(names)}."
        )


def part_of(lowering: Lowering, reductions: Reductions) -> Lowering:
    """A lowering in another frame, or of other folds, that adds to the same kernels."""
    return Lowering(
        reductions.frame, reductions, lowering.preparations,
        lowering.kernels, lowering.workspaces, lowering.notes,
    )  # fmt: skip


__all__ = ["Emit", "emit_columns", "part_of"]
