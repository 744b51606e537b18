"""Solves without a root, told at the call of a written module.

A kernel stores NaN where both ends of a bracket lie on one side of the equation, and goes on. What
went wrong is looked for only in a result on the CPU that holds NaN: the dense formula, in float64,
solves the row again and says which unknown has no root. Under torch.compile, in transforms and on a
GPU, whose results a call does not wait for, the row stays NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from attnc.runtime.eager_calls import asked_roots
from attnc.runtime.eager_slopes import is_traced
from attnc.runtime.failures import CallError, ValueRangeError
from attnc.runtime.forms import levels_live
from attnc.runtime.slots import SHIFTS

MOST_ROWS = 4  # that are looked at


def check_roots(reference: Any, result: Any, given: Mapping[str, Any], apart: bool) -> Any:
    """The result; ValueRangeError if a row of it is NaN because its equation has no root.

    reference   the dense formula as an operator
    given       the arguments by name, without `emit`
    apart       whether a row of queries can be computed without the others"""
    found = result[0] if isinstance(result, tuple) else result
    if is_traced() or levels_live():
        return result
    found = torch.from_numpy(found) if isinstance(found, np.ndarray) else found
    if found.device.type != "cpu" or not bool(found.isnan().any()):
        return result
    signature = reference.signature
    axes = signature.outputs[0].axes
    lead = axes.index(signature.rows) + 1 if signature.rows in axes else len(axes) - 1
    lost = found.detach().isnan().flatten(lead).any(-1) if lead < len(axes) else found.isnan()
    for at in lost.nonzero()[:MOST_ROWS].tolist():
        _ask(reference, given, dict(zip(axes, at, strict=False)), apart)
    return result


def _ask(reference: Any, given: Mapping[str, Any], at: dict[str, int], apart: bool) -> None:
    """Solves one row again, whose batch entry is cut out, and its row where keys are of another
    axis."""
    signature = reference.signature
    cut = {"b"} | ({signature.rows} if apart and signature.rows != signature.keys else set())
    call = {name: value for name, value in given.items() if value is not None}
    for slot in signature.inputs:
        value = call.get(slot.name)
        if value is None:
            continue
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            value = value.detach().double()
        for place, axis in enumerate(slot.axes):
            if axis in cut and axis in at:
                value = value[(slice(None),) * place + (slice(at[axis], at[axis] + 1),)]
        call[slot.name] = value
    for name in SHIFTS:
        if np.ndim(call.get(name, 0)):
            call[name] = call[name][at["b"] : at["b"] + 1]
    if signature.rows in cut and signature.rows in at:
        call["offset"] = call.get("offset", 0) + at[signature.rows]
    try:
        with torch.no_grad(), asked_roots() as roots:
            reference(**call)
    except CallError:
        return
    for name, uncrossed, bracket in roots:
        if bool(uncrossed.any()):
            row = ", ".join(f"{axis} = {place}" for axis, place in at.items())
            expected = "a bracket at whose ends the sides differ in sign"
            low, high, below, above = (float(one[uncrossed][0]) for one in bracket)
            came = f"the same sign at both: left less right is {below:.4g} at {low:.4g} and "
            came += f"{above:.4g} at {high:.4g}, in the row {row}"
            raise ValueRangeError(signature.name, name, expected, came)
