"""Solves without a root, told at the call.

A kernel stores NaN where both ends of a bracket lie on one side of the equation, and goes on: what
went wrong is looked for only in a result that holds NaN. The oracle runs the call of one such row
and says what it lacks; a NaN that came with the inputs is none of this. Results on a GPU are not
waited for: there the row stays NaN. A written module asks its own dense formula instead
(attnc/runtime/unsolved).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from attnc.emission.separate import rows_apart
from attnc.errors import CallError, ValueRangeError
from attnc.spec import Spec

MOST = 4  # rows that are looked at


def check_solved(spec: Spec, result: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    """Raises ValueRangeError if a row of the result is NaN because its solve has no root."""
    found = _plain(result[0] if isinstance(result, tuple) else result)
    if found is None:
        return
    given = dict(zip((one.name for one in spec.inputs if one.positional), args, strict=False))
    given |= {name: value for name, value in named.items() if name != "emit"}
    axes = [index.axis for index in spec.root.result.array.indices]
    place = axes.index(spec.root.rows[-1].axis) if spec.root.rows else len(axes) - 1
    rows = np.isnan(found).any(axis=tuple(range(place + 1, found.ndim)))
    for at in np.argwhere(rows)[:MOST]:
        _check_row(spec, given, dict(zip((axis.name for axis in axes), map(int, at), strict=False)))


def _plain(result: Any) -> np.ndarray[Any, Any] | None:
    """A result that holds NaN; None of another, on another device, or a tracer's."""
    import torch

    if torch.compiler.is_compiling():
        return None
    if isinstance(result, np.ndarray):
        return result if np.isnan(result).any() else None
    if not isinstance(result, torch.Tensor) or result.device.type != "cpu":
        return None
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return None
    return result.detach().double().numpy() if bool(result.isnan().any()) else None


def _check_row(spec: Spec, given: Mapping[str, Any], at: Mapping[str, int]) -> None:
    """Asks the oracle about one row, whose batch entry is cut out, and its row where keys are of
    another axis."""
    from attnc.reference import run_reference

    row = spec.root.rows[-1].axis if spec.root.rows else None
    cut = {"b"} | ({row.name} if row is not None and rows_apart(spec) else set())
    call = dict(given)
    for one in spec.inputs:
        if one.name not in call:
            continue
        for place, index in enumerate(one.array.indices):
            if index.axis.name in cut & at.keys():
                first = at[index.axis.name]
                call[one.name] = call[one.name][(slice(None),) * place + (slice(first, first + 1),)]
    for name in ("offset", "key_offset", "key_length"):
        if np.ndim(call.get(name, 0)):
            call[name] = call[name][at["b"] : at["b"] + 1]
    if row is not None and row.name in cut and row.shifted == "offset":
        call["offset"] = call.get("offset", 0) + at[row.name]
    try:
        run_reference(spec, (), call)
    except ValueRangeError as error:
        row_of = ", ".join(f"{name} = {number}" for name, number in at.items())
        came = f"{error.came}, in the row {row_of}"
        raise ValueRangeError(spec.name, error.argument, error.expected, came) from None
    except CallError:
        return


__all__ = ["check_solved"]
