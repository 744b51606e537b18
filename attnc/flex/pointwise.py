"""Functions of one number, extremes and casts: the rest of the table of `functions`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from attnc.flex.failures import refuse
from attnc.flex.table import Handler, enter, pointwise
from attnc.flex.terms import Dim, Kind, Term
from attnc.flex.trace import Tracer, Value


def truncated(tracer: Tracer, term: Term) -> Term:
    """Towards 0."""
    terms = tracer.terms
    below = terms.compare("lt", term, terms.number(0))
    return terms.where(
        below, terms.call("ceil", term, kind="int"), terms.call("floor", term, kind="int")
    )


# --- functions of one number ----------------------------------------------------------------------


def _function(name: str, keep: bool = False, kind: Kind = "real") -> Callable[..., Value]:
    def handler(tracer: Tracer, x: Any, **_: Any) -> Value:
        def build(one: Term) -> Term:
            one = tracer.terms.counted(one)
            return tracer.terms.call(name, one, kind=one.kind if keep else kind)

        return pointwise(tracer, build, x)

    return handler


for _name in ("exp", "log", "sqrt", "sin", "cos", "asin", "acos", "atan", "tanh", "erf"):
    enter(_name)(_function(_name))
for _name in ("abs", "sign", "relu"):
    enter(_name)(_function(_name, keep=True))
for _name in ("asin", "acos", "atan"):
    enter(f"arc{_name[1:]}")(_function(_name))
enter("absolute")(_function("abs", keep=True))
for _name in ("floor", "ceil", "round"):
    enter(_name)(_function(_name, kind="int"))
enter("sigmoid", "expit")(_function("sigmoid"))
enter("silu")(_function("silu"))


def _formula(text: Callable[[Tracer, Term], Term]) -> Handler:
    def handler(tracer: Tracer, x: Any, **_: Any) -> Value:
        return pointwise(tracer, lambda one: text(tracer, tracer.terms.counted(one)), x)

    return handler


def _over(tracer: Tracer, name: str, divisor: float) -> Callable[[Term], Term]:
    """log to another base: the logarithm over that of the base."""
    base = tracer.terms.call("log", tracer.terms.number(divisor))
    return lambda x: tracer.terms.arithmetic("div", tracer.terms.call(name, x), base)


def _of(op: str, number: float, turned: bool = False) -> Callable[[Tracer, Term], Term]:
    def text(tracer: Tracer, x: Term) -> Term:
        constant = tracer.terms.number(number)
        return tracer.terms.arithmetic(op, *((constant, x) if turned else (x, constant)))

    return text


enter("exp2")(_formula(_of("pow", 2, turned=True)))
enter("square")(_formula(_of("pow", 2)))
enter("reciprocal")(_formula(_of("div", 1, turned=True)))
enter("log2")(_formula(lambda tracer, x: _over(tracer, "log", 2)(x)))
enter("log10")(_formula(lambda tracer, x: _over(tracer, "log", 10)(x)))
enter("log1p")(_formula(lambda t, x: t.terms.call("log", _of("add", 1, turned=True)(t, x))))
enter("expm1")(_formula(lambda t, x: _of("sub", 1)(t, t.terms.call("exp", x))))
enter("rsqrt")(_formula(lambda t, x: _of("div", 1, turned=True)(t, t.terms.call("sqrt", x))))
enter("tan")(
    _formula(lambda t, x: t.terms.arithmetic("div", t.terms.call("sin", x), t.terms.call("cos", x)))
)
enter("trunc", "fix")(_formula(truncated))
enter("logsigmoid")(
    _formula(lambda t, x: t.terms.negative(t.terms.call("softplus", t.terms.negative(x))))
)


@enter("softplus")
def _softplus(tracer: Tracer, x: Any, beta: Any = 1, threshold: Any = 20) -> Value:
    if (beta, threshold) != (1, 20):
        raise refuse("softplus", "only beta=1 and threshold=20 have a name in the language")
    return _function("softplus")(tracer, x)


@enter("gelu")
def _gelu(tracer: Tracer, x: Any, approximate: str = "none") -> Value:
    if approximate == "none":
        return _function("gelu")(tracer, x)
    terms = tracer.terms

    def build(one: Term) -> Term:
        cube = terms.arithmetic("pow", one, terms.number(3))
        inner = terms.arithmetic("add", one, terms.arithmetic("mul", terms.number(0.044715), cube))
        root = terms.call("sqrt", terms.arithmetic("div", terms.number(2), terms.call("pi")))
        bent = terms.call("tanh", terms.arithmetic("mul", root, inner))
        raised = terms.arithmetic("add", terms.number(1), bent)
        return terms.arithmetic("div", terms.arithmetic("mul", one, raised), terms.number(2))

    return pointwise(tracer, build, x)


@enter("leaky_relu")
def _leaky(tracer: Tracer, x: Any, negative_slope: Any = 0.01, inplace: bool = False) -> Value:
    def build(one: Term, slope: Term) -> Term:
        return tracer.terms.call("leaky", one, slope)

    return pointwise(tracer, build, x, negative_slope)


@enter("elu")
def _elu(tracer: Tracer, x: Any, alpha: Any = 1.0, inplace: bool = False) -> Value:
    terms = tracer.terms

    def build(one: Term, factor: Term) -> Term:
        bent = terms.arithmetic("sub", terms.call("exp", one), terms.number(1))
        above = terms.compare("gt", one, terms.number(0))
        return terms.where(above, one, terms.arithmetic("mul", factor, bent))

    return pointwise(tracer, build, x, alpha)


# --- extremes -------------------------------------------------------------------------------------


def _extreme(tracer: Tracer, name: str, *given: Any) -> Value:
    def build(*parts: Term) -> Term:
        parts = tuple(map(tracer.terms.counted, parts))
        kind: Kind = "real" if any(part.kind == "real" for part in parts) else "int"
        return tracer.terms.call(name, *parts, kind=kind)

    return pointwise(tracer, build, *given)


@enter("clamp", "clip", "hardtanh")
def _clamp(tracer: Tracer, x: Any, min: Any = None, max: Any = None) -> Value:
    if min is None:
        return _extreme(tracer, "min", x, max)
    return (
        _extreme(tracer, "max", x, min) if max is None else _extreme(tracer, "clamp", x, min, max)
    )


@enter("clamp_min")
def _clamp_min(tracer: Tracer, x: Any, min: Any) -> Value:
    return _extreme(tracer, "max", x, min)


@enter("clamp_max")
def _clamp_max(tracer: Tracer, x: Any, max: Any) -> Value:
    return _extreme(tracer, "min", x, max)


enter("maximum", "fmax")(lambda tracer, x, y: _extreme(tracer, "max", x, y))
enter("minimum", "fmin")(lambda tracer, x, y: _extreme(tracer, "min", x, y))


# --- casts ----------------------------------------------------------------------------------------


def _cast(name: str) -> Handler:
    def handler(tracer: Tracer, x: Any, *args: Any, **kwargs: Any) -> Value:
        dtype = tracer.meta(getattr(torch.Tensor, name), (x, *args), kwargs).dtype
        return cast_to(tracer, tracer.operand(x), dtype)

    return handler


for _name in ("to", "type", "type_as", "float", "double", "int", "long", "short", "bool", "half",
              "bfloat16"):  # fmt: skip
    enter(_name)(_cast(_name))


def cast_to(tracer: Tracer, value: Value, dtype: torch.dtype) -> Value:
    """A value in another dtype."""
    terms = tracer.terms
    if dtype is torch.bool:
        return Value(terms.truth(value.term), value.dims)
    if dtype in (torch.float16, torch.bfloat16):
        raise refuse(str(dtype), "equations are of real numbers, which are not rounded to 16 bits")
    term = terms.counted(value.term)
    if not dtype.is_floating_point and term.kind == "real":
        term = term if term.name in ("floor", "ceil", "round") else truncated(tracer, term)
    return Value(term, value.dims)


@enter("full_like")
def _full_like(tracer: Tracer, x: Any, fill_value: Any, **_: Any) -> Value:
    return Value(tracer.operand(fill_value).term, tracer.operand(x).dims)


enter("zeros_like")(lambda tracer, x, **_: _full_like(tracer, x, 0))
enter("ones_like")(lambda tracer, x, **_: _full_like(tracer, x, 1))


def _new(number: float | None) -> Handler:
    def handler(tracer: Tracer, x: Any, size: Any, fill: Any = number, **more: Any) -> Value:
        fill = more.get("fill_value", fill)
        value = tracer.operand(fill)
        if more.get("dtype", x.dtype) is torch.bool:
            value = Value(tracer.terms.truth(value.term))
        sizes = (size,) if isinstance(size, int) else tuple(size)
        return Value(value.term, tuple(Dim(tracer.book.plain(one)) for one in sizes))

    return handler


enter("new_zeros")(_new(0))
enter("new_ones")(_new(1))
enter("new_full")(_new(None))
