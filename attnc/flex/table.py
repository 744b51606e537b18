"""The table of handlers: what a function of PyTorch is in the language, by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from attnc.flex.terms import Term
from attnc.flex.trace import Tracer, Value

Handler = Callable[..., Any]
Entered = TypeVar("Entered", bound=Handler)
TABLE: dict[str, Handler] = {}


def enter(*names: str) -> Callable[[Entered], Entered]:
    """Enters a handler under these names."""

    def keep(handler: Entered) -> Entered:
        for name in names:
            TABLE[name] = handler
        return handler

    return keep


def pointwise(tracer: Tracer, build: Callable[..., Term], *given: Any) -> Value:
    """A function of numbers at each point."""
    terms, dims = tracer.broadcast([tracer.operand(one) for one in given])
    return Value(build(*terms), dims)
