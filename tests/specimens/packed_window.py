"""A window with sinks on packed sequences, and its dK, dV: the same loop with the roles swapped.

    mask: j <= i and (i - j < size or j < sinks)

The backward holds keys and walks rows, for each query head of the key head: the loop goes `around`
the group, so that the sum over the group has one fixed order. It takes the forward's lse and
delta_i = <o_i, do_i> as inputs.
"""

from __future__ import annotations

from spec_builder import X, exp, lift, op, where
from specimen_frame import (
    GROUP,
    KEY_HEAD,
    LN_2,
    LOG2_E,
    SCALE,
    SOME,
    at,
    b,
    bound,
    d,
    dot,
    e,
    g,
    graph_of,
    h,
    hk,
    i,
    j,
    k,
    named,
    output,
    param,
    q,
    schedule_of,
    tensor,
    total,
    v,
)

from attnc.graph import Graph
from attnc.schedule import Schedule
from attnc.schedule.regions import Region, Segment
from attnc.schedule.statements import Carried, Contribution, Let, Packed, Product, Store
from attnc.schedule.streams import StreamKernel, WalkedLoop

ROWS, KEYS = tensor("rows", b, kind="int"), tensor("keys", b, kind="int")
GRAD, LSE, DELTA = tensor("grad", b, h, i, e), tensor("lse", b, h, i), tensor("delta", b, h, i)
OUT, OUT_LSE = output("out", b, h, i, e), output("out_lse", b, h, i)
DK, DV = output("dk", b, hk, j, d), output("dv", b, hk, j, e)
SIZE, SINKS = param("size"), param("sinks")
PARAMS = (("size", "int"), ("sinks", "int"))
HEAD = op("add", op("mul", hk, lift(op("max", GROUP.length, 1))), g)  # the query head of (hk, g)


def visible(row: object, key: object) -> X:
    near = op("lt", op("sub", row, key), SIZE) | op("lt", key, SINKS)
    return op("le", key, row) & near


def graph() -> Graph:
    """The forward, and dK, dV as folds over rows and the heads of the group."""
    x, r, head = bound(j), bound(i), bound(h, 2)
    sums = total("sum", x, exp(dot(i, x)), visible(i, x))
    weighted = total("sum", x, exp(dot(i, x)) * at(v, b, KEY_HEAD, x, e), visible(i, x))
    return graph_of(
        "packed_window",
        (OUT, where(sums.same(0.0), 0.0, weighted / sums)),
        (DV, _over_rows(r, head, lambda p, ds: p * at(GRAD, b, head, r, e))),
        (DK, _over_rows(r, head, lambda p, ds: ds * at(q, b, head, r, d))),
        rows=(i,),
        keys=((j.axis,),),
    )


def _over_rows(r: object, head: object, term: object) -> X:
    c, w = bound(d, 3), bound(e, 3)
    score = total("sum", c, at(q, b, head, r, c) * at(k, b, hk, j, c)) * SCALE
    p = exp(score - at(LSE, b, head, r))
    dp = total("sum", w, at(GRAD, b, head, r, w) * at(v, b, hk, j, w))
    ds = p * (dp - at(DELTA, b, head, r)) * SCALE
    group = op("floordiv", head, lift(op("max", GROUP.length, 1)))
    mask = visible(r, j) & group.same(hk)
    return total("sum", (head, r), term(p, ds), mask)  # type: ignore[operator]


def schedule() -> Schedule:
    """Forward (two spans of tiles: sinks, window), then dK and dV holding keys."""
    kernels = (forward(), backward())
    inputs = (q, k, v, GRAD, LSE, DELTA, ROWS, KEYS)
    outputs = (OUT, OUT_LSE, DK, DV)
    return schedule_of("packed_window", inputs, outputs, kernels, params=PARAMS)


def forward() -> StreamKernel:
    score, weight = named("score", b, h, i, j), named("weight", b, h, i, j)
    product, reference = named("product", b, h, i, j), named("reference", b, h, i)
    row, out = named("total", b, h, i), named("out", b, h, i, e)
    loop = WalkedLoop(
        j,
        (),
        (Product("product", d, lift(at(q, b, h, i, d)), lift(at(k, b, KEY_HEAD, j, d))),),
        (Let("score", lift(product * named("factor"))),),
        lift(visible(i, j)),
        region(),
        lift(score),
        (Let("weight", lift(op("exp2", score - reference))),),
        (
            Contribution("total", lift(weight)),
            Contribution("out", lift(weight), lift(at(v, b, KEY_HEAD, j, e))),
        ),
        access=Packed(KEYS),
    )
    inverse = where(op("ne", row, 0.0), 1.0 / row, 0.0)
    return StreamKernel(
        "forward",
        (b, h),
        i,
        (Let("factor", lift(SCALE * LOG2_E)),),
        (),
        (Carried("total", "sum", None, True), Carried("out", "sum", e, True)),
        (loop,),
        (Let("inverse", lift(inverse)), Let("row", lift(reference * LN_2 + op("log", row)))),
        (
            Store(OUT, e, lift(out * named("inverse", b, h, i))),
            Store(OUT_LSE, None, lift(named("row", b, h, i))),
        ),
        access=Packed(ROWS),
    )


def region() -> Region:
    """Sinks, then the window behind them."""
    low, high = named("held_low", kind="int"), named("held_high", kind="int")
    after = op("add", high, 1)
    window = op("max", op("add", op("sub", low, SIZE), 1), SINKS)
    full = op("max", op("add", op("sub", high, SIZE), 1), SINKS)
    sinks = op("min", SINKS, after)
    seen = op("min", SINKS, op("add", low, 1))
    spans = (
        Segment(*map(lift, (0, 0, seen, sinks))),
        Segment(*map(lift, (window, full, op("add", low, 1), after))),
    )
    return Region(SOME.possible, SOME.certain, (), spans)


def backward() -> StreamKernel:
    """Keys held, rows walked, around the query heads of the group."""
    pair = (b, hk, g, i, j)
    weight, ds = named("weight", *pair), named("ds", *pair)
    loop = WalkedLoop(
        i,
        (
            Let("lse_i", lift(at(LSE, b, HEAD, i))),
            Let("delta_i", lift(at(DELTA, b, HEAD, i))),
        ),
        (
            Product("product", d, lift(at(k, b, hk, j, d)), lift(at(q, b, HEAD, i, d))),
            Product("dp", e, lift(at(v, b, hk, j, e)), lift(at(GRAD, b, HEAD, i, e))),
        ),
        (
            Let("weight", lift(exp(named("product", *pair) * SCALE - named("lse_i", b, hk, g, i)))),
            Let("ds", lift(weight * (named("dp", *pair) - named("delta_i", b, hk, g, i)) * SCALE)),
        ),
        lift(visible(i, j)),
        SOME,
        None,
        (),
        (
            Contribution("dv", lift(weight), lift(at(GRAD, b, HEAD, i, e))),
            Contribution("dk", lift(ds), lift(at(q, b, HEAD, i, d))),
        ),
        access=Packed(ROWS),
        around=(g,),
    )
    return StreamKernel(
        "backward",
        (b, hk),
        j,
        (),
        (),
        (Carried("dk", "sum", d), Carried("dv", "sum", e)),
        (loop,),
        (),
        (
            Store(DK, d, lift(named("dk", b, hk, j, d))),
            Store(DV, e, lift(named("dv", b, hk, j, e))),
        ),
        access=Packed(KEYS),
    )
