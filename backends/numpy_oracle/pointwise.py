"""Pointwise operations of the Spec on grids, by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from attnc.backends.numpy_oracle import grid as g
from attnc.backends.numpy_oracle.grid import Grid, Trouble, Values

from attnc.errors import InternalError

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _function(of: Callable[[Values], Values]) -> Callable[[Grid], Grid]:
    return lambda a: g.real(a.dims, np.asarray(of(g.settle(a))))


def _to_int(of: Callable[[Values], Values]) -> Callable[[Grid], Grid]:
    return lambda a: Grid(a.dims, np.asarray(of(g.settle(a))).astype(np.int64))


def _comparison(op: Callable[[Values, Values], Values]) -> Callable[[Grid, Grid], Grid]:
    return lambda a, b: g.compare(op, a, b)


def _floored(op: Callable[[Values, Values], Values]) -> Callable[[Grid, Grid], Grid]:
    """// or %: floor division, also below 0; real operands without exponents."""

    def apply(a: Grid, b: Grid) -> Grid:
        dims, (a, b) = g.joined(a, b)
        return Grid(dims, np.asarray(op(g.settle(a), g.settle(b))))

    return apply


def _sign(a: Grid) -> Grid:
    return Grid(a.dims, np.sign(a.mantissa))


def _as_real(a: Grid) -> Grid:
    if np.issubdtype(a.mantissa.dtype, np.inexact):
        return a
    return Grid(a.dims, a.mantissa.astype(np.float64), a.exponent)


def _as_complex(a: Grid) -> Grid:
    return Grid(a.dims, a.mantissa.astype(np.complex128), a.exponent)


OPERATIONS: dict[str, Callable[..., Grid]] = {
    "add": g.add,
    "sub": lambda a, b: g.add(a, g.negative(b)),
    "mul": g.multiply,
    "div": g.divide,
    "floordiv": _floored(np.floor_divide),
    "mod": _floored(np.mod),
    "pow": g.power,
    "neg": g.negative,
    "min": g.smaller,
    "max": g.larger,
    "abs": g.absolute,
    "sign": _sign,
    "eq": _comparison(np.equal),
    "ne": _comparison(np.not_equal),
    "lt": _comparison(np.less),
    "le": _comparison(np.less_equal),
    "gt": _comparison(np.greater),
    "ge": _comparison(np.greater_equal),
    "and": g.both,
    "or": g.either,
    "not": g.inverse,
    "exp": g.exp,
    "log": g.log,
    "softplus": _function(lambda x: np.logaddexp(0.0, x)),
    "sqrt": g.sqrt,
    "sin": _function(np.sin),
    "cos": _function(np.cos),
    "asin": _function(np.arcsin),
    "acos": _function(np.arccos),
    "atan": _function(np.arctan),
    "tanh": _function(np.tanh),
    "erf": _function(_erf),
    "floor": _to_int(np.floor),
    "ceil": _to_int(np.ceil),
    "round": _to_int(np.round),
    "re": lambda a: g.part(a, np.real),
    "im": lambda a: g.part(a, np.imag),
    "conj": lambda a: g.part(a, np.conj),
    "stop": lambda a: a,
    "to_int": _to_int(np.trunc),
    "to_real": _as_real,
    "to_complex": _as_complex,
    "where": g.choose,
}


def pointwise(op: str, kind: str, place: str, args: list[Grid]) -> Grid:
    """The operation on whole grids. Its troubles are those of the operands that a point demands:
    of a `where` the branch taken, of `and` and `or` the right side where the left decides
    nothing."""
    if op not in OPERATIONS:
        raise InternalError(f"the oracle has no operation {op!r}")
    result = OPERATIONS[op](*args)
    if kind == "complex":
        result = _as_complex(result)
    elif kind == "real":
        result = _as_real(result)
    troubles = _demanded(op, args)
    if op in ("floordiv", "mod") and kind == "int":
        troubles = (*troubles, *_zero_divisor(args[1], place))
    return replace(result, troubles=g.collected(troubles)) if troubles else result


def _demanded(op: str, args: list[Grid]) -> tuple[Trouble, ...]:
    if not any(arg.troubles for arg in args):
        return ()
    first = args[0]
    if op == "where":
        taken = g.restricted(args[1].troubles, first)
        return (*first.troubles, *taken, *g.restricted(args[2].troubles, g.inverse(first)))
    if op == "and":
        return (*first.troubles, *g.restricted(args[1].troubles, first))
    if op == "or":
        return (*first.troubles, *g.restricted(args[1].troubles, g.inverse(first)))
    return tuple(trouble for arg in args for trouble in arg.troubles)


def _zero_divisor(divisor: Grid, place: str) -> tuple[Trouble, ...]:
    zero = divisor.mantissa == 0
    if not zero.any():
        return ()
    found = Trouble(
        "the divisor", "an integer other than 0", f"0{place}", False, Grid(divisor.dims, zero)
    )
    return (found,)
