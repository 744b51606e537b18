"""Arguments in other forms: names of emits, NumPy's arrays, the flat list of a torch operator."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch

from attnc.runtime.call import (
    check_call,
    check_number,
    check_position,
    check_seed,
    shown,
)
from attnc.runtime.failures import DtypeError, ValueRangeError
from attnc.runtime.slots import SHIFTS, Call, Signature

DENSE_BYTES = 1 << 30
DENSE_LIMIT = "ATTNC_DENSE_LIMIT"  # of the environment: bytes
SCHEMA_TYPES = {"int": "SymInt?", "real": "float?", "bool": "bool?"}


def checked_emits(signature: Signature, emit: Any) -> tuple[str, ...]:
    """The names asked for by `emit`."""
    names = emit if isinstance(emit, (tuple, list)) else None
    if names is None or not all(isinstance(name, str) for name in names):
        raise ValueRangeError(signature.name, "emit", 'a tuple, as in ("lse",)', shown(emit))
    return tuple(names)


def check_dense(call: Call, wanted: Collection[str]) -> None:
    """Raises ValueRangeError where a number for each pair of row and key would take more memory
    than DENSE_BYTES, or than the environment allows: nothing else of a call grows with their
    product."""
    signature = call.signature
    pair = {signature.rows, signature.keys} - {""}
    for slot in signature.outputs[signature.results :]:
        if slot.name not in wanted or len(pair) < 2 or not pair <= set(slot.axes):
            continue
        shape, dtype = call.shape(slot), call.new_output_dtype(slot)
        check_room(call, "emit", f"`{slot.name}`", shape, dtype)


def check_room(
    call: Call, argument: str, what: str, shape: Sequence[int], dtype: torch.dtype
) -> None:
    """Raises ValueRangeError where numbers for pairs would take more memory than allowed."""
    needed = math.prod(shape) * dtype.itemsize
    most = int(os.environ.get(DENSE_LIMIT, DENSE_BYTES))
    if needed > most:
        room = f"{most / 2**30:.3g} GiB"
        expected = f"at most {room} of numbers for pairs (or another {DENSE_LIMIT}, in bytes)"
        got = f"{what} of {needed / 2**30:.3g} GiB, {' x '.join(map(str, shape))}"
        raise ValueRangeError(call.signature.name, argument, expected, got)


def torched(signature: Signature, values: dict[str, Any]) -> dict[str, Any]:
    """Arrays of NumPy as tensors on the same memory; a copy where torch has no such form (negative
    strides, read-only memory)."""
    given = dict(values)
    for name, value in values.items():
        if not isinstance(value, np.ndarray):
            continue
        plain = value.flags.writeable and all(stride >= 0 for stride in value.strides)
        try:
            given[name] = torch.from_numpy(value if plain else value.copy())
        except TypeError:
            expected = "an array of a dtype that torch has"
            raise DtypeError(signature.name, name, expected, str(value.dtype)) from None
    return given


def flatten(
    signature: Signature,
    tensors: dict[str, Any],
    numbers: dict[str, Any],
    extras: dict[str, Any],
    wanted: int,
) -> tuple[Any, ...]:
    """The arguments in the order of the torch operator's schema (see `schema_of`), each of a type
    that it takes."""
    flat: list[Any] = [tensors.get(tensor.name) for tensor in signature.inputs]
    for number in signature.numbers:
        value = numbers.get(number.name)
        flat.append(None if value is None else check_number(signature, number, value))
    for name in SHIFTS:
        value = extras.get(name, None if name == "key_length" else 0)
        if value is None and name == "key_length":
            flat += [None, None]
        elif isinstance(value, torch.Tensor):
            flat += [value, None]
        else:
            flat += [None, check_position(signature, name, value)]
    flat.append(check_seed(signature, extras.get("seed", 0)))
    if signature.chooses_dtype:
        flat.append(extras.get("dtype"))
    return (*flat, wanted)


def unflatten(
    signature: Signature, flat: Sequence[Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """(tensors, numbers, extras) of a flat argument list."""
    places = iter(flat)
    tensors = {tensor.name: next(places) for tensor in signature.inputs}
    numbers = {number.name: next(places) for number in signature.numbers}
    extras: dict[str, Any] = {}
    for name in SHIFTS:
        on_device, on_host = next(places), next(places)
        if on_device is not None or on_host is not None:
            extras[name] = on_host if on_device is None else on_device
    extras["seed"] = next(places)
    if signature.chooses_dtype:
        extras["dtype"] = next(places)
    present = {name: value for name, value in tensors.items() if value is not None}
    given = {name: value for name, value in numbers.items() if value is not None}
    return present, given, extras


def call_of(signature: Signature, flat: Sequence[Any]) -> Call:
    """The checked call of a flat argument list."""
    return check_call(signature, *unflatten(signature, flat))


def schema_of(signature: Signature) -> str:
    """The arguments and results of the torch operator: `(Tensor? x0, ...) -> (Tensor, ...)`."""
    names = [f"Tensor? x{place}" for place in range(len(signature.inputs))]
    names += [f"{SCHEMA_TYPES[n.kind]} n{place}" for place, n in enumerate(signature.numbers)]
    for name in SHIFTS:
        names += [f"Tensor? {name}s", f"SymInt? {name}"]
    names.append("int seed")
    names += ["ScalarType? dtype"] if signature.chooses_dtype else []
    results = ", ".join("Tensor" for _ in signature.outputs)
    return f"({', '.join(names)}, int wanted) -> ({results})"


def mask_of(signature: Signature, names: Collection[str]) -> int:
    """The outputs of these names as bits."""
    return sum(1 << place for place, one in enumerate(signature.outputs) if one.name in names)


def names_of(signature: Signature, wanted: int) -> frozenset[str]:
    """The outputs whose bits are set."""
    return frozenset(one.name for place, one in enumerate(signature.outputs) if wanted >> place & 1)


def absent(device: torch.device) -> torch.Tensor:
    """What a torch operator returns for an output that is not wanted."""
    return torch.empty(0, device=device)
