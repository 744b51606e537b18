"""Binding a call: names, ranks, lengths and dtypes of what was given, as grids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from attnc.backends.numpy_oracle import grid as g
from attnc.backends.numpy_oracle.dependence import blocks
from attnc.backends.numpy_oracle.evaluator import Call, Evaluator
from attnc.backends.numpy_oracle.grid import Grid, Values

from attnc.errors import ArgumentMissing, ArgumentUnknown, DtypeError, ShapeError
from attnc.expressions.index import Axis
from attnc.expressions.tree import Array
from attnc.spec import Block, Spec, State


def axes_of(spec: Spec) -> list[Axis]:
    """Every axis by name: the declared ones, those of arrays, those that expressions mention."""
    found = {axis.name: axis for axis in spec.axes}
    for given in spec.inputs:
        found |= {axis.name: axis for axis in given.array.axes}
    return list(found.values())


def states_of(spec: Spec) -> list[tuple[Block, State]]:
    """Every state with its block."""
    return [(block, state) for block in blocks(spec.root) for state in block.states]


def check_names(
    spec: Spec,
    tensors: Mapping[str, Values],
    numbers: Mapping[str, Any],
    states: Mapping[str, Values],
) -> None:
    """Every name is known, and every input that must be given is."""
    params = [number.name for number in spec.numbers]
    for name in numbers:
        if name not in params:
            raise ArgumentUnknown.among(spec.name, name, params)
    inputs = [given.name for given in spec.inputs]
    for name in tensors:
        if name not in inputs:
            raise ArgumentUnknown.among(spec.name, name, inputs)
    for given in spec.inputs:
        if given.default is None and given.name not in tensors:
            raise ArgumentMissing(spec.name, given.name, "a tensor")
    known = [state.array.name for _, state in states_of(spec)]
    for name in states:
        if name not in known:
            raise ArgumentUnknown.among(spec.name, name, known)


def measure(
    spec: Spec, call: Call, arrays: Mapping[str, Array], tensors: Mapping[str, Values]
) -> None:
    """The lengths of measured axes; all tensors that have an axis must agree."""
    for name, tensor in tensors.items():
        axes = arrays[name].axes
        if tensor.ndim != len(axes):
            wanted = f"{len(axes)} axes ({', '.join(axis.name for axis in axes)})"
            raise ShapeError(spec.name, name, wanted, f"shape {tensor.shape}")
        for axis, size in zip(axes, tensor.shape, strict=True):
            if axis.form not in ("measured", "coarse"):
                continue
            known = call.lengths.setdefault(axis.name, size)
            if known != size:
                came = f"length {size} on `{axis.name}`, which is {known} elsewhere"
                raise ShapeError(spec.name, name, f"one length of `{axis.name}`", came)
    for axis in axes_of(spec):
        if axis.form == "coarse" and axis.of is not None:
            _check_coarse(spec, call, axis, axis.of)


def _check_coarse(spec: Spec, call: Call, coarse: Axis, fine: Axis) -> None:
    few, many = call.lengths.get(coarse.name), call.lengths.get(fine.name)
    if few is None or many is None or (few > 0 and many % few == 0) or few == many:
        return
    wanted = f"a divisor of the length of `{fine.name}` ({many}) on `{coarse.name}`"
    raise ShapeError(spec.name, coarse.name, wanted, str(few))


DTYPES: dict[str, Any] = {"bool": np.bool_, "int": np.int64, "complex": np.complex128}


def input_grid(spec: Spec, evaluator: Evaluator, array: Array, tensor: Values) -> Grid:
    """An input as a grid, of the lengths that its axes say and the dtype of its kind."""
    sizes = tuple(evaluator.length(axis) for axis in array.axes)
    if tensor.shape != sizes:
        names = ", ".join(axis.name for axis in array.axes)
        raise ShapeError(spec.name, array.name, f"shape {sizes} ({names})", str(tensor.shape))
    found = tensor.dtype.kind
    legal = {"bool": "b", "int": "iu", "real": "fiuV", "complex": "fciuV"}[array.kind]
    if found not in legal and tensor.size:
        raise DtypeError(spec.name, array.name, f"{array.kind} values", str(tensor.dtype))
    converted = tensor.astype(DTYPES.get(array.kind, np.float64))
    if array.kind in ("real", "complex"):
        return g.real(array.indices, converted)
    return Grid(array.indices, converted)
