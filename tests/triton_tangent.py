"""The tangent of causal softmax attention by hand: one kernel, three products, four carried sums.

With s the score, w = exp(s - m), s' = scale * (<q', k> + <q, k'>), N = sum w v, Z = sum w:
out = N / Z and out' = (sum w (s' v + v') - out * sum w s') / Z.
"""

from __future__ import annotations

from typing import Any

import torch
from triton_cases import (
    CAUSAL,
    DOT,
    LOG2E,
    NUMBERS,
    OUT,
    SCALE,
    D,
    E,
    K,
    Q,
    V,
    add,
    at,
    b,
    d,
    e,
    h,
    hk,
    i,
    j,
    mul,
    pair,
    row,
    signature,
    sub,
)  # fmt: skip

from attnc.expressions.tree import Array, call, number, value
from attnc.schedule import Schedule
from attnc.schedule.statements import Carried, Contribution, Let, Product, Store
from attnc.schedule.streams import StreamKernel, WalkedLoop
from attnc.signature_of import lengths_of

Q_DOT = Array("q_dot", (b, h, i, d), "real", "input")
K_DOT = Array("k_dot", (b, hk, j, d), "real", "input")
V_DOT = Array("v_dot", (b, hk, j, e), "real", "input")
OUT_DOT = Array("out_dot", (b, h, i, e), "real", "output")
REFERENCE = value("reference", "real", (b, h, i))
SUM, SUM_DOT = value("acc", "real", (b, h, i, e)), value("acc_dot", "real", (b, h, i, e))


def _divided(x: Any) -> Any:
    return call("where", call("eq", row("total"), number(0.0)), number(0.0), mul(x, row("inverse")))


def _tangent() -> Schedule:
    score, weight, change = pair("score"), pair("weight"), pair("change")
    loop = WalkedLoop(
        j,
        (),
        (
            Product("dot", d, at(Q), at(K)),
            Product("dot_q", d, at(Q_DOT), at(K)),
            Product("dot_k", d, at(Q), at(K_DOT)),
        ),
        (
            Let("score", mul(DOT, SCALE, number(LOG2E))),
            Let("score_dot", mul(add(pair("dot_q"), pair("dot_k")), SCALE)),
        ),
        CAUSAL.visible,
        CAUSAL.region,
        score,
        (
            Let("weight", call("exp2", sub(score, REFERENCE))),
            Let("change", mul(weight, pair("score_dot"))),
        ),
        (
            Contribution("total", weight),
            Contribution("total_dot", change),
            Contribution("acc", weight, at(V)),
            Contribution("acc_dot", change, at(V)),
            Contribution("acc_dot", weight, at(V_DOT)),
        ),
    )
    carried = tuple(
        Carried(name, "sum", width, True)
        for name, width in (("total", None), ("total_dot", None), ("acc", e), ("acc_dot", e))
    )
    slope = mul(row("total_dot"), row("inverse"))
    kernel = StreamKernel(
        "tangent", (b, h), i, (), (), carried, (loop,),
        (Let("inverse", call("div", number(1.0), row("total"))), Let("slope", slope)),
        (
            Store(OUT, e, _divided(SUM)),
            Store(OUT_DOT, e, _divided(sub(SUM_DOT, mul(SUM, row("slope"))))),
        ),
    )  # fmt: skip
    inputs = (Q, K, V, Q_DOT, K_DOT, V_DOT)
    declared = signature("tangent", inputs, NUMBERS, (OUT, OUT_DOT))
    given = tuple(type(a)(a.array, "query", "input") for a in declared.inputs)
    made = tuple(type(a)(a.array, "query", "output") for a in declared.outputs)
    declared = type(declared)(
        declared.name,
        given,
        made,
        declared.numbers,
        lengths_of(inputs),
        declared.rows,
        declared.keys,
    )
    return Schedule("tangent", declared, (kernel,), (), (D, E))


TANGENT = _tangent()


def tangent_tensors(
    dtype: torch.dtype, rows: int, keys: int, width: int, across: int
) -> dict[str, torch.Tensor]:
    """Random inputs and directions: two batches, four heads, two key heads."""
    generator = torch.Generator().manual_seed(3)
    shapes = {"q": (2, 4, rows, width), "k": (2, 2, keys, width), "v": (2, 2, keys, across)}
    return {
        f"{name}{suffix}": torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for suffix in ("", "_dot")
        for name, shape in shapes.items()
    }


def tangents(
    tensors: dict[str, torch.Tensor], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out, out') of the dense formula in `dtype`, by torch.func.jvp."""

    def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        k, v = (x.repeat_interleave(2, 1) for x in (k, v))
        score = q @ k.mT * 0.3
        seen = torch.arange(k.shape[2]) <= torch.arange(q.shape[2])[:, None]
        return torch.softmax(score.masked_fill(~seen, -torch.inf), -1) @ v

    given = {name: x.to(dtype) for name, x in tensors.items()}
    primals = tuple(given[name] for name in "qkv")
    directions = tuple(given[f"{name}_dot"] for name in "qkv")
    out, out_dot = torch.func.jvp(dense, primals, directions)
    return out, out_dot
