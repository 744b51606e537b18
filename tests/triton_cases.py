"""Schedules built by hand for the Triton backend, with dense references in float64."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from attnc.backends.triton import emit

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import (
    TRUE,
    Array,
    Expr,
    call,
    length,
    number,
    param,
    position,
    read,
    value,
)
from attnc.runtime.call import Call, NumberSlot, Signature, TensorSlot, check_call
from attnc.runtime.triton_launch import TritonBackend
from attnc.schedule import Schedule
from attnc.schedule.regions import Region, Segment
from attnc.schedule.statements import Carried, Contribution, Let, Product, Store
from attnc.schedule.streams import StreamKernel, WalkedLoop
from attnc.signature import NumberArgument, TensorArgument
from attnc.signature import Signature as Declared

LOG2E = math.log2(math.e)
B, H = Axis("b"), Axis("h")
HK = Axis("hk", "coarse", of=H)
ROWS, KEYS = Axis("i", shifted="offset"), Axis("j", shifted="key_offset")
D, E = Axis("d"), Axis("e")
SLOTS = Axis("m")
b, h, hk, i, j, d, e, m = (Index(axis.name, axis) for axis in (B, H, HK, ROWS, KEYS, D, E, SLOTS))
Q = Array("q", (b, h, i, d), "real", "input")
K = Array("k", (b, hk, j, d), "real", "input")
V = Array("v", (b, hk, j, e), "real", "input")
OUT = Array("out", (b, h, i, e), "real", "output")
LSE = Array("lse", (b, h, i), "real", "output")
I, J = position(i), position(j)  # noqa: E741
GROUP = call("floordiv", position(h), call("floordiv", length(H), length(HK)))
SCALE = param("scale", "real")
LOW, HIGH = value("held_low", "int"), value("held_high", "int")
WALKED_LOW, WALKED_HIGH = value("walked_low", "int"), value("walked_high", "int")


def add(*args: Expr) -> Expr:
    total = args[0]
    for arg in args[1:]:
        total = call("add", total, arg)
    return total


def sub(x: Expr, y: Expr) -> Expr:
    return call("sub", x, y)


def mul(*args: Expr) -> Expr:
    total = args[0]
    for arg in args[1:]:
        total = call("mul", total, arg)
    return total


def both(*args: Expr) -> Expr:
    total = args[0]
    for arg in args[1:]:
        total = call("and", total, arg)
    return total


def either(x: Expr, y: Expr) -> Expr:
    return call("or", x, y)


def le(x: Expr, y: Expr) -> Expr:
    return call("le", x, y)


def lt(x: Expr, y: Expr) -> Expr:
    return call("lt", x, y)


def eq(x: Expr, y: Expr) -> Expr:
    return call("eq", x, y)


def real(x: Expr) -> Expr:
    return call("to_real", x)


def at(array: Array) -> Expr:
    """An array at its own indices, key heads by their group."""
    return read(array, [GROUP if index == hk else position(index) for index in array.indices])


def pair(name: str, kind: str = "real") -> Expr:
    return value(name, kind, (b, h, i, j))  # type: ignore[arg-type]


def row(name: str) -> Expr:
    return value(name, "real", (b, h, i))


DOT = pair("dot")
DENSE = Region(TRUE, TRUE)


@dataclass(frozen=True)
class Mask:
    """visible(i, j), its region, and the same as a tensor."""

    visible: Expr | None
    region: Region
    dense: Callable[..., torch.Tensor]


def causal_region() -> Region:
    stop = add(HIGH, number(1))
    segment = Segment(number(-(2**20)), number(-(2**20)), add(LOW, number(1)), stop)
    return Region(le(WALKED_LOW, HIGH), le(WALKED_HIGH, LOW), (), (segment,))


CAUSAL = Mask(le(J, I), causal_region(), lambda i, j, **_: j <= i)
FULL = Mask(None, DENSE, lambda i, j, **_: (i == i) & (j == j))

SIZE, SINKS = param("size", "int"), param("sinks", "int")


def window_region() -> Region:
    """j <= i and (i - j < size or j < sinks): two spans."""
    near_start, near_full = sub(LOW, sub(SIZE, number(1))), sub(HIGH, sub(SIZE, number(1)))
    stop, full_stop = add(HIGH, number(1)), add(LOW, number(1))
    near = Segment(call("max", near_start, SINKS), call("max", near_full, SINKS), full_stop, stop)
    sinks = Segment(
        number(-(2**20)),
        number(-(2**20)),
        call("min", SINKS, full_stop),
        call("min", SINKS, stop),
    )
    possible = both(
        le(WALKED_LOW, HIGH),
        either(lt(sub(LOW, WALKED_HIGH), SIZE), lt(WALKED_LOW, SINKS)),
    )
    certain = both(
        le(WALKED_HIGH, LOW),
        either(lt(sub(HIGH, WALKED_LOW), SIZE), lt(WALKED_HIGH, SINKS)),
    )
    return Region(possible, certain, (), (sinks, near))


WINDOW = Mask(
    both(le(J, I), either(lt(sub(I, J), SIZE), lt(J, SINKS))),
    window_region(),
    lambda i, j, size, sinks, **_: (j <= i) & ((i - j < size) | (j < sinks)),
)


def signature(
    name: str,
    arrays: tuple[Array, ...],
    numbers: tuple[NumberArgument, ...],
    outputs: tuple[Array, ...],
) -> Declared:
    """What a schedule says of its arguments."""
    kinds = {"real": "real", "int": "int", "bool": "bool"}
    inputs = tuple(
        TensorArgument(a, "query" if a.name in "qkv" else kinds[a.kind], "input")  # type: ignore[arg-type]
        for a in arrays
    )
    results = tuple(
        TensorArgument(a, "query" if n == 0 else "accumulate", "output")
        for n, a in enumerate(outputs)
    )
    return Declared(name, inputs, results, numbers, (), ROWS, KEYS)


NUMBERS = (NumberArgument("scale", "real"),)
EMPTY = call("eq", row("total"), number(0.0))
DIVIDED = call(
    "where", EMPTY, number(0.0), call("div", value("acc", "real", (b, h, i, e)), row("total"))
)
LSE_EXPR = mul(
    add(value("reference", "real", (b, h, i)), call("log2", row("total"))), number(1 / LOG2E)
)


def softmax_kernel(
    name: str,
    mask: Mask,
    score: Expr,
    *,
    grid_values: tuple[Let, ...] = (),
    held_values: tuple[Let, ...] = (),
    finish: tuple[Let, ...] = (),
    result: Expr = DIVIDED,
    lse: Expr = LSE_EXPR,
    products: tuple[Product, ...] | None = None,
    loops: tuple[WalkedLoop, ...] | None = None,
) -> StreamKernel:
    """One pass with a running maximum; `score` is in base 2."""
    return StreamKernel(
        name,
        (b, h),
        i,
        grid_values,
        held_values,
        (Carried("total", "sum", None, True), Carried("acc", "sum", e, True)),
        loops or (softmax_loop(mask, score, products),),
        finish,
        (Store(OUT, e, result), Store(LSE, None, lse)),
    )


def softmax_loop(
    mask: Mask,
    score: Expr,
    products: tuple[Product, ...] | None = None,
    keys: Index = j,
    v: Array = V,
) -> WalkedLoop:
    pairs = (b, h, i, keys)
    score2, weight = value("score", "real", pairs), value("weight", "real", pairs)
    products = (Product("dot", d, at(Q), at(K)),) if products is None else products
    return WalkedLoop(
        keys,
        (),
        products,
        (Let("score", score),),
        mask.visible,
        mask.region,
        score2,
        (Let("weight", call("exp2", sub(score2, value("reference", "real", (b, h, i))))),),
        (Contribution("total", weight), Contribution("acc", weight, at(v))),
    )


def schedule(
    name: str,
    kernel: StreamKernel,
    arrays: tuple[Array, ...] = (),
    numbers: tuple[NumberArgument, ...] = (),
    **more: Any,
) -> Schedule:
    declared = signature(name, (Q, K, V, *arrays), (*NUMBERS, *numbers), (OUT, LSE))
    kernels = (*more.pop("before", ()), kernel)
    return Schedule(name, declared, kernels, more.pop("workspaces", ()), (D, E), **more)


def call_signature(case: Schedule) -> Signature:
    """The run-time signature of a schedule."""
    declared = case.signature

    def tensor(argument: TensorArgument) -> TensorSlot:
        return TensorSlot(argument.name, tuple(a.name for a in argument.array.axes), argument.dtype)

    return Signature(
        declared.name,
        tuple(map(tensor, declared.inputs)),
        tuple(map(tensor, declared.outputs)),
        tuple(NumberSlot(n.name, n.kind) for n in declared.numbers),
        coarse=(("hk", "h"),),
        rows="i",
        keys="j",
    )


def bind(case: Schedule, tensors: dict[str, Any], numbers: dict[str, Any], **extras: Any) -> Call:
    return check_call(call_signature(case), tensors, numbers, extras)


_loaded: dict[str, Any] = {}
HEAD = (
    "from __future__ import annotations\n\nfrom attnc.runtime.triton_launch import triton_jit\n\n\n"
)


def load(case: Schedule, folder: Path) -> Any:
    """The emitted module of a schedule."""
    text = HEAD + emit(case)
    if text not in _loaded:
        name = f"emitted_{case.name}_{len(_loaded)}"
        path = folder / f"{name}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        _loaded[text] = module
    return _loaded[text]


def backend(case: Schedule, folder: Path, **forced: Any) -> TritonBackend:
    module = load(case, folder)
    made = TritonBackend(module.TRITON_KERNELS, vars(module))
    made.forced = forced
    return made


def dense_softmax(
    score: torch.Tensor, seen: torch.Tensor, v: torch.Tensor, sink: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(output, lse) of scores [b, h, i, j], values [b, h, j, e]; rows that see nothing give 0."""
    score = torch.where(seen, score, -torch.inf)
    lse = torch.logsumexp(score, -1) if score.shape[-1] else score.sum(-1) - torch.inf
    below = lse if sink is None else torch.logaddexp(lse, sink)
    weight = torch.exp(score - torch.where(below == -torch.inf, 0.0, below)[..., None])
    return torch.where(seen, weight, 0.0) @ v, lse


def grouped(x: torch.Tensor, heads: int) -> torch.Tensor:
    """Key heads repeated for the heads of their group."""
    return x.double().repeat_interleave(heads // x.shape[1], 1)


__all__ = [name for name in globals() if not name.startswith("_")]
