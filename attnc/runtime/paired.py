"""An operator of the parts of complex numbers, behind the complex numbers of its text.

Kernels know reals alone: `A` is `A_re` and `A_im` there. Tensors come in as views of their parts
(nothing is copied), results and states go out as complex tensors; torch differentiates through
both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from attnc.runtime.arguments import checked_emits
from attnc.runtime.call import by_place
from attnc.runtime.failures import ArgumentUnknown, DtypeError, ValueRangeError


class PairedOperator:
    """The operator of a text with complex numbers. What it does not say itself is that of `parts`.

    parts    the operator of the parts
    pairs    by the name of a complex input, state or output the names of its parts
    """

    def __init__(self, parts: Any, pairs: Mapping[str, tuple[str, str]]) -> None:
        self.parts = parts
        self.pairs = dict(pairs)
        self.whole = {part: name for name, both in self.pairs.items() for part in both}
        self.__name__ = parts.__name__

    def __getattr__(self, name: str) -> Any:
        if name == "parts":  # not there yet: a copy in the making
            raise AttributeError(name)
        return getattr(self.parts, name)

    def __repr__(self) -> str:
        return repr(self.parts)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        state, given = kwargs.get("state"), self._given(args, kwargs)
        if "state" in given:
            given["state"] = self._state(state)
        emit, given["emit"] = self._emits(kwargs)
        found = self.parts(**given)
        return self._joined(found, emit, state, bool(kwargs.get("return_state", False)))

    def step(self, state: Any, /, *args: Any, **kwargs: Any) -> Any:
        """One row of a recurrence (see stepping)."""
        given = self._given(args, kwargs)
        emit, given["emit"] = self._emits(kwargs)
        found = self.parts.step(self._state(state), **given)
        return self._joined(found, emit, state, True)

    def partial(self, /, *args: Any, **kwargs: Any) -> Any:
        """What a shard of the keys contributes."""
        return self.parts.partial(**self._given(args, kwargs))

    def _given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments by name, complex ones as their parts."""
        slots = (slot.name for slot in self.parts.signature.inputs if slot.positional)
        places = list(dict.fromkeys(self.whole.get(name, name) for name in slots))
        if len(args) > len(places):
            came = str(len(args))
            raise ArgumentUnknown(self.__name__, f"#{len(places) + 1}", by_place(places), came)
        named = dict(zip(places, args, strict=False))
        for name, value in kwargs.items():
            if name in named:
                raise ArgumentUnknown(self.__name__, name, "it once", "it by place and by name")
            if name in self.whole:
                raise ArgumentUnknown.among(self.__name__, name, list(self.pairs))
            named[name] = value
        found: dict[str, Any] = {}
        for name, value in named.items():
            if name not in self.pairs:
                found[name] = value
            elif value is not None:
                found.update(zip(self.pairs[name], self._parts(name, value), strict=True))
        known = {slot.name for slot in self.parts.signature.inputs}
        loose = set(self.whole) - known  # a part that nothing reads
        return {name: value for name, value in found.items() if name not in loose}

    def _parts(self, name: str, value: Any) -> tuple[Any, Any]:
        if isinstance(value, torch.Tensor) and value.is_complex():
            plain = value.resolve_conj()
            return plain.real, plain.imag
        if isinstance(value, np.ndarray) and np.iscomplexobj(value):
            return value.real, value.imag
        came = str(getattr(value, "dtype", type(value).__name__))
        raise DtypeError(self.__name__, name, "complex64 or complex128", came)

    def _emits(self, kwargs: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The emits as asked for, and as the parts have them."""
        results = self._results()
        own = tuple(kwargs.get("emit", ()))
        for name in own:
            if name in self.whole:
                raise ValueRangeError(self.__name__, "emit", f"`{self.whole[name]}`", repr(name))
        asked = (part for name in own for part in self.pairs.get(name, (name,)))
        emit = checked_emits(self.parts.signature, (*results[1:], *asked))
        return own, emit

    def _results(self) -> tuple[str, ...]:
        """The outputs of the parts that every call gives."""
        first = self.parts.signature.outputs[0].name
        return self.pairs[self.whole[first]] if first in self.whole else (first,)

    def _joined(self, found: Any, emit: tuple[str, ...], state: Any, returns: bool) -> Any:
        """What the parts gave, as the text has it."""
        values = iter(found if type(found) is tuple else (found,))
        first = self._results()
        out = [_complex(*(next(values) for _ in first)) if len(first) > 1 else next(values)]
        for name in emit:
            out.append(_complex(next(values), next(values)) if name in self.pairs else next(values))
        if returns:
            last = next(values)
            held = self._held()
            by_name = last if isinstance(last, Mapping) else dict(zip(held, last, strict=True))
            whole = {
                name: _complex(*(by_name[part] for part in parts))
                if len(parts) > 1
                else by_name[parts[0]]
                for name, parts in self._layout().items()
            }
            out.append(whole if isinstance(state, Mapping) else tuple(whole.values()))
        return out[0] if len(out) == 1 else tuple(out)

    # --- states ---------------------------------------------------------------------------------

    def _held(self) -> tuple[str, ...]:
        """What a state of the parts holds, in order."""
        signature = self.parts.signature
        return (*signature.states, *(name for name, _ in signature.lags))

    def _layout(self) -> dict[str, tuple[str, ...]]:
        """What a state holds, in order, and what of the parts that is."""
        held = self._held()
        found: dict[str, tuple[str, ...]] = {}
        for name in held:
            both = self.pairs.get(self.whole.get(name, ""), ())
            if both and all(part in held for part in both):
                found[self.whole[name]] = both
            else:
                found[name] = (name,)
        return found

    def _state(self, state: Any) -> Any:
        """A state as the parts take it."""
        layout = self._layout()
        if isinstance(state, Mapping):
            named = dict(state)
        elif isinstance(state, (tuple, list)) and len(state) == len(layout):
            named = dict(zip(layout, state, strict=True))
        else:
            return state if state is None else self._wrong(state, layout)
        found: dict[str, Any] = {}
        for name, value in named.items():
            parts = layout.get(name, (name,))
            values = self._parts(name, value) if len(parts) > 1 else (value,)
            found.update(zip(parts, values, strict=True))
        return found

    def _wrong(self, state: Any, layout: Mapping[str, Any]) -> Any:
        expected = f"the {len(layout)} parts ({', '.join(layout)}), as a tuple or by name"
        sized = isinstance(state, (tuple, list))
        came = f"{len(state)} of them" if sized else type(state).__name__
        raise ValueRangeError(self.__name__, "state", expected, came)


def _complex(re: Any, im: Any) -> Any:
    """The numbers of these parts."""
    if isinstance(re, np.ndarray):
        return re + 1j * im
    dtype = torch.promote_types(re.dtype, torch.float32)
    return torch.complex(re.to(dtype), im.to(dtype))
