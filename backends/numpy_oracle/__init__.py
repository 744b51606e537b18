"""The NumPy oracle: what the right answer is.

`evaluate` reads a Spec and nothing else: dense, float64 (complex128, int64), every expression on
the whole grid of its indices. It shares nothing with the passes that it judges. The meaning is
section 4 of the language: masked points are outside every fold, a key whose score is -inf counts as
masked, folds over nothing give 0, 1, -inf, inf, and a read outside its array is an error where
somebody asks for it. In detail:

- `key_length` cuts the keys: the result is that of tensors which end there. Emits over the keys are
  filled up with 0 (false; -inf where they are scores).
- argmax and argmin over nothing are -1.
- Offsets and key lengths given per batch are evaluated one batch entry at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from attnc.backends.numpy_oracle import grid as g
from attnc.backends.numpy_oracle.call import axes_of, check_names, input_grid, measure, states_of
from attnc.backends.numpy_oracle.evaluator import Call, Evaluator
from attnc.backends.numpy_oracle.frame import demanded, final
from attnc.backends.numpy_oracle.grid import Grid, Values
from attnc.backends.numpy_oracle.steps import run
from attnc.backends.numpy_oracle.visible import nodes, score_names, with_visible_keys

from attnc.errors import ArgumentUnknown, UnsupportedError
from attnc.expressions.index import Axis
from attnc.expressions.tree import Array
from attnc.spec import Definition, Spec

Per = int | Sequence[int] | npt.NDArray[Any]  # one for all, or one per batch

BATCH = "b"
LARGEST = 1 << 25  # entries of one grid, above which the batch is evaluated entry by entry


def evaluate(
    spec: Spec,
    tensors: Mapping[str, npt.ArrayLike],
    numbers: Mapping[str, Any] | None = None,
    *,
    offset: Per = 0,
    key_offset: Per = 0,
    key_length: Per | None = None,
    seed: int = 0,
    emit: Iterable[str] = (),
    states: Mapping[str, npt.ArrayLike] | None = None,
) -> dict[str, Values]:
    """The operator's result and emits.

    tensors     inputs by name, of the shapes that their axes say; reals of any dtype
    numbers     params and statics by name
    offset      first position of the rows; key_offset: of the keys; key_length: how many keys count
    emit        names of emits, written or offered, and of states (their final values)
    states      initial values of states by name

    Returns "out" and the emits by name: float64, complex128, int64 or bool arrays.
    Raises a CallError for wrong arguments, and for reads outside an axis at a demanded point.
    """
    spec = with_visible_keys(spec)
    arrays = {name: np.asarray(tensor) for name, tensor in tensors.items()}
    given = {name: np.asarray(tensor) for name, tensor in (states or {}).items()}
    check_names(spec, arrays, numbers or {}, given)
    wanted = tuple(emit)
    batch = _batch(spec, arrays)
    each = (offset, key_offset, key_length)
    per_batch = any(np.ndim(value) > 0 for value in each if value is not None)
    with np.errstate(all="ignore"):
        if batch > 0 and (per_batch or _is_large(spec, arrays, batch)) and _separable(spec):
            parts = [
                _evaluate(spec, arrays, numbers or {}, given, seed, wanted, at, _at(each, at))
                for at in range(batch)
            ]
            return _concatenated(spec, parts)
        if per_batch and batch > 0:
            what = "an offset or key length per batch in an operator that folds over the batch"
            raise UnsupportedError(what, "numpy")
        return _evaluate(spec, arrays, numbers or {}, given, seed, wanted, None, _at(each, 0))


def _at(values: tuple[Per | None, ...], entry: int) -> tuple[int | None, ...]:
    """Offsets and lengths of one batch entry."""
    found = [None if value is None else np.atleast_1d(np.asarray(value)) for value in values]
    return tuple(
        None if value is None else int(value[entry if value.size > 1 else 0]) if value.size else 0
        for value in found
    )


def _evaluate(
    spec: Spec,
    tensors: Mapping[str, Values],
    numbers: Mapping[str, Any],
    states: Mapping[str, Values],
    seed: int,
    emit: tuple[str, ...],
    entry: int | None,
    shifts: tuple[int | None, ...],
) -> dict[str, Values]:
    """One evaluation, of the whole call or of one batch entry."""
    offset, key_offset, key_length = shifts
    call = Call({}, {}, dict(numbers), {}, {}, seed)
    cut = {} if key_length is None else {"key_offset": key_length}
    for axis in axes_of(spec):
        call.starts[axis.name] = {"offset": offset, "key_offset": key_offset}.get(axis.shifted) or 0
        if axis.name == BATCH and entry is not None:
            call.starts[axis.name] = entry
    arrays = {given.name: given.array for given in spec.inputs}
    slices = {name: _sliced(arrays[name], tensor, entry, cut) for name, tensor in tensors.items()}
    measure(spec, call, arrays, slices)
    evaluator = Evaluator(spec, call)
    for name, tensor in slices.items():
        call.inputs[name] = input_grid(spec, evaluator, arrays[name], tensor)
    kept = {state.array.name: state.array for _, state in states_of(spec)}
    for name, tensor in states.items():
        part = _sliced(kept[name], tensor, entry, cut)
        call.states[name] = input_grid(spec, evaluator, kept[name], part)
    evaluator.checks()
    results = {"out": _output(spec, evaluator, spec.root.result)}
    for name in emit:
        results[name] = _emitted(spec, evaluator, name)
    if key_length is None:
        return results
    whole = {
        axis.name: tensor.shape[place]
        for name, tensor in tensors.items()
        for place, axis in enumerate(arrays[name].axes)
        if axis.shifted == "key_offset"
    }
    defined = {"out": spec.root.result.array} | {n: _emit_array(spec, n) for n in emit}
    scores = score_names(spec)
    return {
        name: _padded(defined[name], value, whole, -np.inf if defined[name].name in scores else 0)
        for name, value in results.items()
    }


def _sliced(array: Array, tensor: Values, entry: int | None, cut: Mapping[str, int]) -> Values:
    """The tensor of one batch entry, its keys cut to the length that counts."""
    if tensor.ndim != len(array.indices):
        return tensor
    for place, axis in enumerate(array.axes):
        steps = [slice(None)] * tensor.ndim
        if axis.name == BATCH and entry is not None:
            steps[place] = slice(entry, entry + 1)
        elif axis.shifted in cut and axis.form == "measured":
            steps[place] = slice(0, cut[axis.shifted])
        tensor = tensor[tuple(steps)]
    return tensor


def _padded(array: Array, value: Values, whole: Mapping[str, int], fill: float) -> Values:
    """An emit over cut keys, filled up to all of them."""
    width = [
        (0, whole.get(axis.name, size) - size)
        for axis, size in zip(array.axes, value.shape, strict=True)
    ]
    if not any(more for _, more in width):
        return value
    return np.pad(value, width, constant_values=fill)


# results --------------------------------------------------------------------------------


def _output(spec: Spec, evaluator: Evaluator, definition: Definition) -> Values:
    array = definition.array
    if array.name in evaluator.sources.definitions:
        grid = evaluator.array(array)
    else:
        grid = final(evaluator.value(definition.expr))
    return _dense(evaluator, array, demanded(grid, spec.name))


def _dense(evaluator: Evaluator, array: Array, grid: Grid) -> Values:
    """The values of an array over all its axes, in their order."""
    dims = tuple(dict.fromkeys((*grid.dims, *array.indices)))
    values = g.settle(g.over(grid, dims))
    values = np.transpose(values, [dims.index(index) for index in array.indices])
    sizes = tuple(evaluator.size(index) for index in array.indices)
    return np.array(np.broadcast_to(values, sizes))


def _emit_definition(spec: Spec, name: str) -> Definition | None:
    emits = (*spec.root.emits, *spec.root.offered)
    return next((each for each in emits if each.array.name == name), None)


def _emit_array(spec: Spec, name: str) -> Array:
    definition = _emit_definition(spec, name)
    if definition is not None:
        return definition.array
    return next(state.array for _, state in states_of(spec) if state.array.name == name)


def _emitted(spec: Spec, evaluator: Evaluator, name: str) -> Values:
    definition = _emit_definition(spec, name)
    if definition is not None:
        return _output(spec, evaluator, definition)
    for block, state in states_of(spec):
        if state.array.name == name:
            grid = run(evaluator, block, ())[name]
            return _dense(evaluator, state.array, demanded(grid, spec.name))
    known = [d.array.name for d in (*spec.root.emits, *spec.root.offered)]
    known += [state.array.name for _, state in states_of(spec)]
    raise ArgumentUnknown.among(spec.name, name, known)


# entries of a batch ---------------------------------------------------------------------


def _batch(spec: Spec, tensors: Mapping[str, Values]) -> int:
    for given in spec.inputs:
        for place, axis in enumerate(given.array.axes):
            tensor = tensors.get(given.name)
            if axis.name == BATCH and tensor is not None and tensor.ndim > place:
                return int(tensor.shape[place])
    return 0


def _separable(spec: Spec) -> bool:
    """Whether no batch entry looks at another: no fold over the batch, no read of another entry."""
    outputs = (spec.root.result, *spec.root.emits, *spec.root.offered)
    if not all(BATCH in [axis.name for axis in each.array.axes] for each in outputs):
        return False
    for node in nodes(spec):
        if any(index.axis.name == BATCH for index in node.bound):
            return False
        if node.op == "length" and isinstance(node.attr, Axis) and node.attr.name == BATCH:
            return False
        if node.op == "read":
            places = zip(node.array.axes, node.args, strict=True)
            if any(axis.name == BATCH and arg.op != "index" for axis, arg in places):
                return False
    return True


def _is_large(spec: Spec, tensors: Mapping[str, Values], batch: int) -> bool:
    """Whether some grid of the whole batch would be too large to hold a few of at once."""
    lengths: dict[str, int] = {}
    for given in spec.inputs:
        tensor = tensors.get(given.name)
        if tensor is not None and tensor.ndim == len(given.array.axes):
            lengths |= {a.name: n for a, n in zip(given.array.axes, tensor.shape, strict=True)}
    if batch < 2:
        return False
    sizes = (
        np.prod([float(lengths.get(i.axis.name, 1)) for i in node.free]) for node in nodes(spec)
    )
    return bool(max(sizes, default=0.0) > LARGEST)


def _concatenated(spec: Spec, parts: list[dict[str, Values]]) -> dict[str, Values]:
    joined: dict[str, Values] = {}
    for name in parts[0]:
        array = spec.root.result.array if name == "out" else _emit_array(spec, name)
        place = [axis.name for axis in array.axes].index(BATCH)
        joined[name] = np.concatenate([part[name] for part in parts], axis=place)
    return joined
