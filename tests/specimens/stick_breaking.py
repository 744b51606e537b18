"""Stick-breaking weights: each key takes its share of what later keys left.

    A_ij = sigmoid(s_ij) * prod(l if j < l <= i: 1 - sigmoid(s_il))

Keys are walked from the last to the first; `left` is the logarithm of what the keys before (in that
order) left, a value that runs along the walk. Source: Tan et al. 2024, "Stick-breaking Attention".
"""

from __future__ import annotations

from spec_builder import exp, lift, op
from specimen_frame import (
    KEY_HEAD,
    SCALE,
    SOME,
    at,
    b,
    bound,
    d,
    dot,
    e,
    graph_of,
    h,
    i,
    j,
    k,
    named,
    output,
    q,
    schedule_of,
    total,
    v,
)

from attnc.graph import Graph
from attnc.schedule import Schedule
from attnc.schedule.statements import Carried, Contribution, Let, Product, Running, Store
from attnc.schedule.streams import StreamKernel, WalkedLoop

OUT = output("out", b, h, i, e)
ROW, PAIR = (b, h, i), (b, h, i, j)


def graph() -> Graph:
    """A product over the keys after each key: a scan."""
    x, after = bound(j, 2), bound(j)
    rest = total(
        "prod", after, 1.0 - op("sigmoid", dot(i, after)), op("gt", after, x) & op("le", after, i)
    )
    weight = op("sigmoid", dot(i, x)) * rest
    out = total("sum", x, weight * at(v, b, KEY_HEAD, x, e), op("le", x, i))
    return graph_of("stick_breaking", (OUT, out), rows=(i,), keys=((j.axis,),))


def schedule() -> Schedule:
    score, left = named("score", *PAIR), named("left", *PAIR)
    share = op("sigmoid", score) * exp(left)
    loop = WalkedLoop(
        j,
        (),
        (Product("product", d, lift(at(q, b, h, i, d)), lift(at(k, b, KEY_HEAD, j, d))),),
        (
            Let("score", lift(named("product", *PAIR) * SCALE)),
            Running("left", lift(-op("softplus", score)), "sum"),
            Let("weight", lift(share)),
        ),
        lift(op("le", j, i)),
        SOME,
        None,
        (),
        (Contribution("out", lift(named("weight", *PAIR)), lift(at(v, b, KEY_HEAD, j, e))),),
        backward=True,
    )
    kernel = StreamKernel(
        "stick_breaking", (b, h), i, (), (),
        (Carried("out", "sum", e),), (loop,), (),
        (Store(OUT, e, lift(named("out", *ROW, e))),),
    )  # fmt: skip
    return schedule_of("stick_breaking", (q, k, v), (OUT,), (kernel,))
