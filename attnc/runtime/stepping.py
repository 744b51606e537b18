"""Calls of a recurrence that begin with given states, or give its states back; single rows.

    out, state = op(q, k, v, return_state=True)     the states after the last row
    out, state = op(q, k, v, state=state, ...)      the rows after those
    out, state = op.step(state, q_t, k_t, v_t)      one row: tensors without the axis of time

States are a tuple in the order of the text, or a mapping by name; they come back as they were
given. A step costs the same at any position, and all it keeps is the states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attnc.runtime.arguments import checked_emits
from attnc.runtime.failures import ArgumentUnknown, UnsupportedError, ValueRangeError
from attnc.runtime.slots import Signature


def call_with_states(
    run: Callable[..., Any], signature: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """A call that may say `state` and `return_state`; `run` takes and emits states by name."""
    state, returns = kwargs.pop("state", None), kwargs.pop("return_state", False)
    if not isinstance(returns, bool):
        raise ValueRangeError(signature.name, "return_state", "True or False", repr(returns))
    given = named_states(signature, state)
    if given:
        refuse_lags(signature, "to go on from a state")
    for name in given.keys() & kwargs.keys():
        raise ArgumentUnknown(signature.name, name, "it once", "by name and in `state`")
    kwargs.update(given)
    if not returns:
        return run(*args, **kwargs)
    emit = checked_emits(signature, kwargs.pop("emit", ()))
    added = tuple(name for name in signature.states if name not in emit)
    found = run(*args, **kwargs, emit=(*emit, *added))
    results = len(found) - len(emit) - len(added)
    by_name = dict(zip((*emit, *added), found[results:], strict=True))
    kept = {name: by_name[name] for name in signature.states}
    last: Any = kept if isinstance(state, Mapping) else tuple(kept.values())
    return (*found[: results + len(emit)], last)


def named_states(signature: Signature, state: Any) -> dict[str, Any]:
    """The states of a call by name; none for None."""
    names = signature.states
    if state is None:
        return {}
    if isinstance(state, Mapping):
        for name in state:
            if name not in names:
                raise ArgumentUnknown.among(signature.name, name, list(names))
        return dict(state)
    if not isinstance(state, (tuple, list)) or len(state) != len(names):
        expected = f"the {len(names)} states ({', '.join(names)}), as a tuple or by name"
        came = f"{len(state)} of them" if isinstance(state, (tuple, list)) else type(state).__name__
        raise ValueRangeError(signature.name, "state", expected, came)
    return dict(zip(names, state, strict=True))


def refuse_lags(signature: Signature, what: str) -> None:
    """States alone must say all of the rows before."""
    if signature.lags:
        feature = f"{what}: {signature.lags[0]} reads another row; carry it in a state"
        raise UnsupportedError(feature, "kernel", ())


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
    refuse_lags(signature, "a step")
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
