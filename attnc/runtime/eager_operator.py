"""The dense formula behind the signature of an operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from attnc.runtime.arguments import checked_emits, torched
from attnc.runtime.call import bind_arguments, check_call
from attnc.runtime.failures import DeviceError, UnsupportedError, ValueRangeError
from attnc.runtime.forms import autocast, exact_region
from attnc.runtime.reads import check_reads
from attnc.runtime.slots import Signature
from attnc.runtime.stepping import call_step, call_with_states, going_on


class EagerOperator:
    """The dense formula behind the same signature: differentiable by torch, on any device.

    names      what the function calls its arguments, where that is another name
    continued  makes the operator that goes on from states that the text makes of inputs, or from
               rows before; a written module has none"""

    def __init__(
        self,
        signature: Signature,
        function: Callable[..., Any],
        names: dict[str, str],
        continued: Callable[[], Any] | None = None,
    ) -> None:
        self.signature = signature
        self.function = function
        self.names = names
        self.continued = continued
        self.__name__ = signature.name

    def step(self, state: Any, /, *args: Any, **kwargs: Any) -> Any:
        """One row of a recurrence (see stepping)."""
        return call_step(self._from_state(state), self.signature, state, args, kwargs)

    def _from_state(self, state: Any) -> Callable[..., Any]:
        """What takes this state (see going_on)."""
        return going_on(self, self.signature, state, self._further)

    def _further(self) -> tuple[Any, Signature]:
        if self.continued is None:
            feature = "to go on from this state, by the dense formula of a module"
            raise UnsupportedError(feature, "eager", ("cpu", "triton"))
        found = self.continued()
        return found, found.signature

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        if self.signature.states and ("state" in kwargs or "return_state" in kwargs):
            run = self._from_state(kwargs.get("state"))
            return call_with_states(run, self.signature, args, kwargs)
        emit = checked_emits(self.signature, kwargs.pop("emit", ()))
        args, kwargs = autocast(self.signature, args, kwargs)
        tensors, numbers, extras = bind_arguments(self.signature, args, kwargs)
        arrays = any(isinstance(value, np.ndarray) for value in tensors.values())
        given, extras = torched(self.signature, tensors), torched(self.signature, extras)
        call = check_call(self.signature, given, numbers, extras)
        if call.device.type == "meta":
            name = next(iter(given))
            raise DeviceError(self.signature.name, name, "a tensor with values", "one on meta")
        check_reads(call)
        renamed = {self.names.get(name, name): v for name, v in (given | numbers).items()}
        with exact_region(call.device):
            results = self.function(**renamed, **extras, emit=emit)
        for name in emit:
            if name not in results:
                known = ", ".join(sorted(results.keys() - {"out"})) or "none"
                expected = f"names among: {known}"
                raise ValueRangeError(self.signature.name, "emit", expected, repr(name))
        out = tuple(results[name] for name in ("out", *emit))
        out = tuple(one.numpy() for one in out) if arrays else out
        return out if emit else out[0]
