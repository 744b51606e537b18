"""vmap of an operator: the mapped dimension becomes part of the batch, or calls are repeated.

Where the entries of a batch never mix and every output that is wanted has a batch, a batch of
batches is one batch. Otherwise (an output without a batch, a mapped tensor without one, random
numbers, whose counter holds the batch) the operator is called once for each entry, as a loop would.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from attnc.runtime.arguments import absent, names_of
from attnc.runtime.slots import SHIFTS, Signature

BATCH = "b"


def call_batched(
    operator: Any, size: int, dims: Sequence[int | None], flat: tuple[Any, ...]
) -> tuple[tuple[Any, ...], tuple[int | None, ...]]:
    """(outputs, their mapped dimensions) of a flat call whose tensors are mapped along `dims`."""
    signature = operator.signature
    moved = [
        value.movedim(dim, 0) if dim is not None else value
        for value, dim in zip(flat, dims, strict=True)
    ]
    mapped = [dim is not None for dim in dims]
    wanted = names_of(signature, flat[-1])
    slots = [slot for slot in signature.outputs if slot.name in wanted]
    if size and foldable(signature, mapped) and all(BATCH in slot.axes[:1] for slot in slots):
        outputs = operator.invoke(tuple(_batch_joined(signature, size, moved, mapped)))
        unfolded = [
            one.reshape(size, one.shape[0] // size, *one.shape[1:]) if slot.name in wanted else one
            for slot, one in zip(signature.outputs, outputs, strict=True)
        ]
    else:
        unfolded = _repeated(operator, size, moved, mapped, wanted)
    places = tuple(0 if slot.name in wanted else None for slot in signature.outputs)
    return tuple(unfolded), places


def foldable(signature: Signature, mapped: list[bool]) -> bool:
    """Whether the mapped dimension can become part of the batch."""
    if not signature.separate or signature.random:
        return False
    return all(
        BATCH in slot.axes[:1] or not own
        for slot, own in zip(signature.inputs, mapped, strict=False)
    )


def _batch_joined(
    signature: Signature, size: int, moved: list[Any], mapped: list[bool]
) -> list[Any]:
    """The flat call with every batch repeated or joined with the mapped dimension."""
    first = len(signature.inputs) + len(signature.numbers)
    shifts = {first + 2 * place for place in range(len(SHIFTS))}
    batched = [
        place
        for place, slot in enumerate(signature.inputs)
        if BATCH in slot.axes[:1] and moved[place] is not None
    ]
    batch = moved[batched[0]].shape[1 if mapped[batched[0]] else 0]
    folded = []
    for place, (value, own) in enumerate(zip(moved, mapped, strict=True)):
        if not isinstance(value, torch.Tensor) or place not in (*batched, *shifts):
            folded.append(value)
            continue
        if place in shifts:
            value = value[..., None] if value.dim() == own else value
            value = value.expand(*value.shape[:-1], batch)
        value = value if own else value.expand(size, *value.shape)
        folded.append(value.reshape(size * batch, *value.shape[2:]))
    return folded


def _repeated(
    operator: Any, size: int, moved: list[Any], mapped: list[bool], wanted: frozenset[str]
) -> list[Any]:
    """One call for each entry of the mapped dimension."""
    calls = [
        operator.invoke(
            tuple(value[n] if own else value for value, own in zip(moved, mapped, strict=True))
        )
        for n in range(size)
    ]
    stacked = []
    for place, slot in enumerate(operator.signature.outputs):
        if slot.name in wanted:
            stacked.append(torch.stack([outputs[place] for outputs in calls]))
        else:
            stacked.append(absent(moved[mapped.index(True)].device))
    return stacked
