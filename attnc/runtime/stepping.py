"""Calls of a recurrence that begin with given states, or give its states back; single rows.

    out, state = op(q, k, v, return_state=True)     the states after the last row
    out, state = op(q, k, v, state=state, ...)      the rows after those
    out, state = op.step(state, q_t, k_t, v_t)      one row: tensors without the axis of time

A state is a tuple, or a mapping by name; it comes back as it was given. It holds the states in the
order of the text, then for each input that is read at other rows (`k[t - window]`) the last of its
rows, in the order of the signature: a tensor of the input's axes with `window` rows on the axis of
time, or all rows so far while there are fewer. A step costs the same at any position, and all it
keeps is the state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from attnc.runtime.arguments import checked_emits
from attnc.runtime.call import check_number, measure_axes
from attnc.runtime.failures import (
    ArgumentMissing,
    ArgumentUnknown,
    ShapeError,
    UnsupportedError,
    ValueRangeError,
)
from attnc.runtime.slots import Signature


def call_with_states(
    run: Callable[..., Any], signature: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """A call that may say `state` and `return_state`; `run` takes and emits states by name, and
    where it goes on from a state the rows before too (see `Held`)."""
    state, returns = kwargs.pop("state", None), kwargs.pop("return_state", False)
    if not isinstance(returns, bool):
        raise ValueRangeError(signature.name, "return_state", "True or False", repr(returns))
    given = named_states(signature, state)
    if given:
        refuse_unbounded(signature, "to go on from a state")
    held = Held(signature, args, kwargs, given) if given or returns else None
    for name in given.keys() & kwargs.keys():
        raise ArgumentUnknown(signature.name, name, "it once", "by name and in `state`")
    kwargs.update(given)
    kwargs.update(held.taken if held else {})
    if not returns or held is None:
        return run(*args, **kwargs)
    emit = checked_emits(signature, kwargs.pop("emit", ()))
    added = tuple(name for name in signature.states if name not in emit)
    found = run(*args, **kwargs, emit=(*emit, *added))
    results = len(found) - len(emit) - len(added)
    by_name = dict(zip((*emit, *added), found[results:], strict=True))
    kept = {name: by_name[name] for name in signature.states} | held.last()
    last: Any = kept if isinstance(state, Mapping) else tuple(kept.values())
    return (*found[: results + len(emit)], last)


def going_on(
    run: Any, own: Signature, state: Any, continued: Callable[[], tuple[Any, Signature]]
) -> Callable[..., Any]:
    """What runs a call of `run`, an operator of signature `own`, that begins with a state: itself;
    or what `continued` gives with its signature, where a first state is made of other inputs,
    which that does not take, or where rows before are read."""
    names = {slot.name for slot in own.inputs}
    if state is None or own.unbounded or (names.issuperset(own.states) and not own.lags):
        return run  # type: ignore[no-any-return]
    other, form = continued()
    loose = names - {slot.name for slot in form.inputs}

    def call(*args: Any, **kwargs: Any) -> Any:
        return other(*args, **{name: one for name, one in kwargs.items() if name not in loose})

    return call


def named_states(signature: Signature, state: Any) -> dict[str, Any]:
    """The states of a call by name; none for None."""
    names = (*signature.states, *(name for name, _ in signature.lags))
    if state is None:
        return {}
    if isinstance(state, Mapping):
        for name in state:
            if name not in names:
                raise ArgumentUnknown.among(signature.name, name, list(names))
        return dict(state)
    if not isinstance(state, (tuple, list)) or len(state) != len(names):
        expected = f"the {len(names)} parts ({', '.join(names)}), as a tuple or by name"
        came = f"{len(state)} of them" if isinstance(state, (tuple, list)) else type(state).__name__
        raise ValueRangeError(signature.name, "state", expected, came)
    return dict(zip(names, state, strict=True))


def refuse_unbounded(signature: Signature, what: str) -> None:
    """States and a bounded number of rows must say all of the rows before."""
    if signature.unbounded:
        why = "may read any row before its own, or rows after it; carry that in a state"
        raise UnsupportedError(f"{what}: {signature.unbounded} {why}", "kernel", ())


class Held:
    """The rows that are read again later, of one call.

    given     the state of the call by name; the rows before are taken out of it
    taken     where the call goes on: by the name of the input that takes them, the rows before and
              the call's own
    """

    def __init__(
        self,
        signature: Signature,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        given: dict[str, Any],
    ) -> None:
        self.signature = signature
        self.taken: dict[str, Any] = {}
        self.reach: dict[str, int] = {}
        self.rows: dict[str, Any] = {}
        if not signature.lags or signature.unbounded:
            return
        places = (slot.name for slot in signature.inputs if slot.positional)
        named = {**dict(zip(places, args, strict=False)), **kwargs}
        self.reach = _reach_of(signature, named)
        slots = {slot.name: slot for slot in signature.inputs}
        self.places = {n: slots[n].axes.index(signature.time) for n, _ in signature.lags}
        for name, taker in signature.lags:
            rows = named.get(name)
            if rows is None:
                expected = "a tensor, since a state holds its last rows"
                raise ArgumentMissing(signature.name, name, expected)
            if given:
                rows = self.taken[taker] = self._joined(name, given.pop(name), rows)
            self.rows[name] = rows

    def _joined(self, name: str, before: Any, rows: Any) -> Any:
        """The rows before, as many as are read, and the call's own."""
        place = self.places[name]
        shape, own = tuple(getattr(before, "shape", ())), tuple(rows.shape)
        others = [size for at, size in enumerate(own) if at != place]
        if len(shape) != len(own) or [n for at, n in enumerate(shape) if at != place] != others:
            axes = [*own[:place], f"up to {self.reach[name]}", *own[place + 1 :]]
            expected = f"the rows before as [{', '.join(map(str, axes))}]"
            raise ShapeError(self.signature.name, name, expected, f"shape {shape}")
        return _concatenated(_last(before, place, self.reach[name]), rows, place)

    def last(self) -> dict[str, Any]:
        """The rows that the next call reads, by the name of the input."""
        return {
            name: _copied(_last(rows, self.places[name], self.reach[name]))
            for name, rows in self.rows.items()
        }


def _reach_of(signature: Signature, named: dict[str, Any]) -> dict[str, int]:
    """How many rows back each input is read by this call."""
    known: dict[str, Any] = dict(signature.statics)
    for number in signature.numbers:
        if named.get(number.name) is not None:
            known[number.name] = check_number(signature, number, named[number.name])
    slots = (slot.name for slot in signature.inputs)
    measure_axes(signature, {n: named[n] for n in slots if named.get(n) is not None}, known)
    signature.lengths(known)
    found = {}
    for (name, _), (least, most) in zip(signature.lags, signature.reach(known), strict=True):
        if least < 0:
            expected = f"reads of rows before; {-least} rows ahead nothing can be held"
            raise ValueRangeError(signature.name, name, expected, "such a read")
        found[name] = most
    return found


def _last(rows: Any, place: int, count: int) -> Any:
    """The last `count` rows, or all of fewer."""
    begin = max(rows.shape[place] - count, 0)
    return rows[(slice(None),) * place + (slice(begin, None),)]


def _concatenated(one: Any, other: Any, place: int) -> Any:
    if isinstance(one, torch.Tensor):
        return torch.cat((one, other), place)
    return np.concatenate((one, other), place)


def _copied(rows: Any) -> Any:
    """Rows that do not hold the memory of all others."""
    return rows.clone() if isinstance(rows, torch.Tensor) else rows.copy()


def call_step(
    run: Callable[..., Any],
    signature: Signature,
    state: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """One row: (result, emits asked for, states after it). Tensors lack the axis of time."""
    if not signature.states:
        raise UnsupportedError("a step of an operator without states", "kernel", ())
    refuse_unbounded(signature, "a step")
    emit = checked_emits(signature, kwargs.get("emit", ()))
    slots = {slot.name: slot for slot in signature.inputs}
    places = [slot.name for slot in signature.inputs if slot.positional]
    named = zip(places, args, strict=False)  # too many are told of by the call
    row = [_with_row(value, slots, name, signature) for name, value in named]
    more = {name: _with_row(value, slots, name, signature) for name, value in kwargs.items()}
    *found, last = call_with_states(
        run, signature, (*row, *args[len(row) :]), {**more, "state": state, "return_state": True}
    )
    axes = {slot.name: slot.axes for slot in signature.outputs}
    names = (*(slot.name for slot in signature.outputs[: len(found) - len(emit)]), *emit)
    pairs = zip(names, found, strict=True)
    return (*(_without_row(one, axes[name], signature) for name, one in pairs), last)


def _with_row(value: Any, slots: dict[str, Any], name: str, signature: Signature) -> Any:
    """A tensor of one row with the axis of time."""
    axes = slots[name].axes if name in slots else ()
    if signature.time not in axes or not hasattr(value, "shape"):
        return value
    place = axes.index(signature.time)
    if value.ndim != len(axes) - 1:
        expected = f"one row: {len(axes) - 1} dimensions [{', '.join(_row_axes(axes, place))}]"
        raise ValueRangeError(signature.name, name, expected, f"shape {tuple(value.shape)}")
    return value[(slice(None),) * place + (None,)]


def _row_axes(axes: tuple[str, ...], place: int) -> tuple[str, ...]:
    return (*axes[:place], *axes[place + 1 :])


def _without_row(value: Any, axes: tuple[str, ...], signature: Signature) -> Any:
    return value.squeeze(axes.index(signature.time)) if signature.time in axes else value
