"""What the functions of PyTorch are in the language, by name.

Each handler takes the tracer and the arguments of the call and gives a Value (a term with its free
dimensions). A function that is not here has no form in the language, and tracing says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from attnc.flex import bits, views  # noqa: F401  (views enters its own)
from attnc.flex.pointwise import truncated
from attnc.flex.table import TABLE, Handler, enter, pointwise
from attnc.flex.terms import Term
from attnc.flex.trace import Tracer, Value


def resolve(func: Any) -> tuple[str, Handler | None]:
    """The plain name of a function of PyTorch, and its handler; no handler for others'."""
    name = getattr(func, "__name__", type(func).__name__)
    packet = getattr(func, "overloadpacket", func)
    space = getattr(packet, "_qualified_op_name", "")
    if space:
        space, _, name = space.partition("::")
        if space != "aten":
            return f"{space}::{name}", None
    elif not _is_torch(func, name):
        return name, None
    plain = name.removeprefix("__").removesuffix("__") if name.startswith("__") else name
    for candidate in (name, plain, name.removesuffix("_"), plain.removeprefix("i")):
        if candidate in TABLE:
            return name, TABLE[candidate]
    return name, None


def _is_torch(func: Any, name: str) -> bool:
    homes = (torch.Tensor, torch, torch.nn.functional, torch.special, torch._C._nn)
    if name == "__get__" or any(getattr(home, name, None) is func for home in homes):
        return True
    return str(getattr(func, "__module__", "") or "").partition(".")[0] == "torch"


# --- arithmetic -----------------------------------------------------------------------------------


def _arithmetic(op: str, turned: bool = False) -> Callable[..., Value]:
    def handler(tracer: Tracer, left: Any, right: Any, *, alpha: Any = 1) -> Value:
        terms = tracer.terms

        def build(one: Term, two: Term) -> Term:
            if op == "add" and one.kind == two.kind == "bool":
                return terms.either(one, two)
            if op == "mul" and one.kind == two.kind == "bool":
                return terms.both(one, two)
            one, two = terms.counted(one), terms.counted(two)
            if alpha != 1:
                two = terms.arithmetic("mul", tracer.operand(alpha).term, two)
            if op in ("floordiv", "mod") and "real" in (one.kind, two.kind):
                whole = terms.call("floor", terms.arithmetic("div", one, two), kind="int")
                if op == "floordiv":
                    return whole
                return terms.arithmetic("sub", one, terms.arithmetic("mul", whole, two))
            return terms.arithmetic(op, one, two)

        return pointwise(tracer, build, *((right, left) if turned else (left, right)))

    return handler


for _names, _op in (
    (("add",), "add"), (("sub", "subtract"), "sub"), (("mul", "multiply"), "mul"),
    (("floordiv", "floor_divide"), "floordiv"), (("mod", "remainder"), "mod"), (("pow",), "pow"),
):  # fmt: skip
    enter(*_names)(_arithmetic(_op))
    enter(f"r{_names[0]}", *(["rsub"] if _op == "sub" else []))(_arithmetic(_op, turned=True))


@enter("div", "divide", "true_divide", "truediv")
def _divide(tracer: Tracer, left: Any, right: Any, *, rounding_mode: str | None = None) -> Value:
    if rounding_mode == "floor":
        return _arithmetic("floordiv")(tracer, left, right)
    divided = _arithmetic("div")(tracer, left, right)
    if rounding_mode is None:
        return divided
    whole = truncated(tracer, divided.term)
    return Value(whole, divided.dims)


enter("rtruediv", "rdiv")(_arithmetic("div", turned=True))


@enter("fmod")
def _fmod(tracer: Tracer, left: Any, right: Any) -> Value:
    terms = tracer.terms

    def build(one: Term, two: Term) -> Term:
        whole = truncated(tracer, terms.arithmetic("div", one, two))
        return terms.arithmetic("sub", one, terms.arithmetic("mul", whole, two))

    return pointwise(tracer, build, left, right)


@enter("neg", "negative")
def _negative(tracer: Tracer, x: Any) -> Value:
    return pointwise(tracer, tracer.terms.negative, x)


@enter("pos", "positive", "clone", "detach", "contiguous", "alias")
def _same(tracer: Tracer, x: Any, **_: Any) -> Value:
    return tracer.operand(x)


# --- truths ---------------------------------------------------------------------------------------


def _comparison(op: str) -> Handler:
    def handler(tracer: Tracer, left: Any, right: Any) -> Value:
        terms = tracer.terms

        def build(one: Term, two: Term) -> Term:
            if one.kind != two.kind or op not in ("eq", "ne"):
                one, two = terms.counted(one), terms.counted(two)
            return terms.compare(op, one, two)

        return pointwise(tracer, build, left, right)

    return handler


for _names, _op in (
    (("eq",), "eq"), (("ne", "not_equal"), "ne"), (("lt", "less"), "lt"),
    (("le", "less_equal"), "le"), (("gt", "greater"), "gt"), (("ge", "greater_equal"), "ge"),
):  # fmt: skip
    enter(*_names)(_comparison(_op))


def _logic(op: str, on_bits: bool) -> Handler:
    def handler(tracer: Tracer, left: Any, right: Any) -> Value:
        terms = tracer.terms

        def build(one: Term, two: Term) -> Term:
            if on_bits and not one.kind == two.kind == "bool":
                return bits.bitwise(tracer, op, one, two)
            one, two = terms.truth(one), terms.truth(two)
            if op == "xor":
                return terms.compare("ne", one, two)
            return terms.both(one, two) if op == "and" else terms.either(one, two)

        return pointwise(tracer, build, left, right)

    return handler


for _op in ("and", "or", "xor"):
    enter(f"bitwise_{_op}", _op, f"r{_op}")(_logic(_op, on_bits=True))
    enter(f"logical_{_op}")(_logic(_op, on_bits=False))


@enter("bitwise_not", "invert")
def _invert(tracer: Tracer, x: Any) -> Value:
    terms = tracer.terms

    def build(one: Term) -> Term:
        if one.kind == "bool":
            return terms.negation(one)
        return terms.arithmetic("sub", terms.negative(one), terms.number(1))

    return pointwise(tracer, build, x)


@enter("logical_not")
def _not(tracer: Tracer, x: Any) -> Value:
    return pointwise(tracer, lambda one: tracer.terms.negation(tracer.terms.truth(one)), x)


def _shift(left: bool) -> Handler:
    def handler(tracer: Tracer, x: Any, by: Any) -> Value:
        return pointwise(tracer, lambda one, two: bits.shifted(tracer, one, two, left), x, by)

    return handler


enter("lshift", "bitwise_left_shift")(_shift(True))
enter("rshift", "bitwise_right_shift")(_shift(False))


@enter("where")
def _where(tracer: Tracer, condition: Any, yes: Any, no: Any) -> Value:
    def build(c: Term, a: Term, b: Term) -> Term:
        return tracer.terms.where(tracer.terms.truth(c), a, b)

    return pointwise(tracer, build, condition, yes, no)


@enter("masked_fill")
def _masked_fill(tracer: Tracer, x: Any, mask: Any, value: Any) -> Value:
    return _where(tracer, mask, value, x)


@enter("isinf", "isneginf", "isposinf")
def _is_infinite(tracer: Tracer, x: Any) -> Value:
    terms = tracer.terms
    return pointwise(
        tracer, lambda one: terms.compare("eq", terms.call("abs", one), terms.number(math.inf)), x
    )
