"""The gradient of a learned table of relative biases: a scatter by i - j.

    score: dot(q[i], k[j]) * scale + table[i - j]
    dtable[h, r] = sum of ds_ij over b and the visible pairs with i - j == r

Each share of the held tiles adds its pairs into a slice of its own, tile after tile; a map sums the
slices in order.
"""

from __future__ import annotations

from spec_builder import X, exp, lift, op
from specimen_frame import (
    KEY_HEAD,
    SCALE,
    SOME,
    at,
    b,
    bound,
    d,
    e,
    graph_of,
    h,
    i,
    j,
    k,
    lag,
    named,
    output,
    q,
    schedule_of,
    space,
    tensor,
    total,
    v,
)

from attnc.expressions.index import Axis, Index
from attnc.graph import Graph
from attnc.schedule import Schedule
from attnc.schedule.maps import MapKernel
from attnc.schedule.statements import Carried, Contribution, Let, Product, Scatter, Store
from attnc.schedule.streams import StreamKernel, WalkedLoop

TABLE, GRAD = tensor("table", h, lag), tensor("grad", b, h, i, e)
LSE, DELTA = tensor("lse", b, h, i), tensor("delta", b, h, i)
DTABLE = output("dtable", h, lag)
SHARE = Index("share", Axis("share"))  # of the held tiles
PARTS = space("dtable_parts", SHARE, b, h, lag)


def _score(batch: object, row: object, key: object) -> X:
    c = bound(d)
    product = total("sum", c, at(q, batch, h, row, c) * at(k, batch, KEY_HEAD, key, c))
    return product * SCALE + at(TABLE, h, op("sub", row, key))


def graph() -> Graph:
    """One fold over all pairs, pinned by `i - j == lag`: a scatter."""
    s, r, c, w = bound(b), bound(i), bound(j), bound(e)
    p = exp(_score(s, r, c) - at(LSE, s, h, r))
    dp = total("sum", w, at(GRAD, s, h, r, w) * at(v, s, KEY_HEAD, c, w))
    ds = p * (dp - at(DELTA, s, h, r))
    mask = op("eq", lag, op("sub", r, c)) & op("le", c, r)
    return graph_of("table_gradient", (DTABLE, total("sum", (s, r, c), ds, mask)))


def schedule() -> Schedule:
    pair = (b, h, i, j)
    ds = named("weight", *pair) * (named("dp", *pair) - named("delta_i", b, h, i))
    score = named("product", *pair) * SCALE + at(TABLE, h, op("sub", i, j))
    loop = WalkedLoop(
        j,
        (),
        (
            Product("product", d, lift(at(q, b, h, i, d)), lift(at(k, b, KEY_HEAD, j, d))),
            Product("dp", e, lift(at(GRAD, b, h, i, e)), lift(at(v, b, KEY_HEAD, j, e))),
        ),
        (Let("weight", lift(exp(score - named("lse_i", b, h, i)))), Let("ds", lift(ds))),
        lift(op("le", j, i)),
        SOME,
        None,
        (),
        (Contribution("row", lift(named("ds", *pair))),),
        scatters=(Scatter(PARTS, lift(op("sub", i, j)), lift(named("ds", *pair))),),
    )
    walk = StreamKernel(
        "table_gradient",
        (SHARE, b, h),
        i,
        (),
        (Let("lse_i", lift(at(LSE, b, h, i))), Let("delta_i", lift(at(DELTA, b, h, i)))),
        (Carried("row", "sum"),),
        (loop,),
        (),
        (Store(space("row_sum", b, h, i), None, lift(named("row", b, h, i))),),
        split=SHARE,
    )
    s, share = bound(b), Index("share", SHARE.axis, 1)
    sums = total("sum", (s, share), at(PARTS, share, s, h, lag))
    gather = MapKernel("sum_parts", (h, lag), (), (Store(DTABLE, None, lift(sums)),))
    inputs = (q, k, v, TABLE, GRAD, LSE, DELTA)
    spaces = (PARTS, space("row_sum", b, h, i))
    return schedule_of("table_gradient", inputs, (DTABLE,), (walk, gather), spaces)
