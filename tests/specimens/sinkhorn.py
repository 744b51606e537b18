"""Sinkhorn: rows and columns normalised in turn, two rounds, ending with the rows.

    f_i = -lse_j(s_ij), g_j = 0;  repeat: g_j = -lse_i(s_ij + f_i), f_i = -lse_j(s_ij + g_j)
    A_ij = exp(s_ij + f_i + g_j)

The column pass is the row pass with the roles of i and j swapped.
"""

from __future__ import annotations

from spec_builder import X, exp, lift, log, op
from specimen_frame import (
    KEY_HEAD,
    LN_2,
    LOG2_E,
    SCALE,
    WHOLE,
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
    space,
    total,
    v,
)

from attnc.expressions import tree
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Array
from attnc.graph import Graph, Iteration
from attnc.schedule import RepeatKernels, Schedule
from attnc.schedule.maps import MapKernel
from attnc.schedule.statements import Carried, Contribution, Let, Product, Store
from attnc.schedule.streams import StreamKernel, WalkedLoop

OUT = output("out", b, h, i, e)
ROUND = Index("round", Axis("round", "range", length=tree.number(2)))
F, G = space("f", b, h, i), space("g", b, h, j)


def graph() -> Graph:
    """f and g are replaced together, each from the old values: the text's order is in `next`."""
    f = Array("f", (b, h, i), "real", "definition")
    g = Array("g", (b, h, j), "real", "definition")
    x, r, m = bound(j), bound(i), bound(j, 3)

    def column(key: object) -> X:
        return -log(total("sum", r, exp(dot(r, key) + at(f, b, h, r))))

    row = -log(total("sum", m, exp(dot(i, m) + column(m))))
    first = -log(total("sum", m, exp(dot(i, m))))
    turn = Iteration(
        ROUND, tree.number(2), (g, f), (tree.number(0.0), lift(first)),
        (lift(column(j)), lift(row)),
    )  # fmt: skip
    weight = exp(dot(i, x) + at(f, b, h, i) + at(g, b, h, x))
    out = total("sum", x, weight * at(v, b, KEY_HEAD, x, e))
    return graph_of("sinkhorn", (OUT, out), rows=(i,), keys=((j.axis,),), iterations=(turn,))


def _lse(name: str, held: Index, walked: Index, beside: Array, target: Array) -> StreamKernel:
    """target[held] = -lse over walked of s + beside[walked]."""
    pair, row = (b, h, i, j), (b, h, held)
    read = {i: lift(at(q, b, h, i, d)), j: lift(at(k, b, KEY_HEAD, j, d))}
    along = named("beside", b, h, walked)
    score = named("product", *pair) * named("factor") + along
    reference, sums = named("reference", *row), named("total", *row)
    weight = op("exp2", named("score", *pair) - reference)
    loop = WalkedLoop(
        walked,
        (Let("beside", lift(at(beside, b, h, walked) * LOG2_E)),),
        (Product("product", d, read[held], read[walked]),),
        (Let("score", lift(score)),),
        None,
        WHOLE,
        lift(named("score", *pair)),
        (Let("weight", lift(weight)),),
        (Contribution("total", lift(named("weight", *pair))),),
    )
    done = -(reference * LN_2 + log(sums))
    return StreamKernel(
        name, (b, h), held, (Let("factor", lift(SCALE * LOG2_E)),), (),
        (Carried("total", "sum", None, True),), (loop,), (Let("done", lift(done)),),
        (Store(target, None, lift(named("done", *row))),),
    )  # fmt: skip


def schedule() -> Schedule:
    """g = 0, a row step, two rounds of column and row steps, the weighted sum."""
    zero = MapKernel("zero", (b, h, j), (), (Store(G, None, tree.number(0.0)),))
    rounds = RepeatKernels(
        ROUND, tree.number(2), (_lse("columns", j, i, F, G), _lse("rows", i, j, G, F))
    )
    pair = (b, h, i, j)
    score = named("product", *pair) * SCALE + named("f_i", b, h, i) + named("g_j", b, h, j)
    loop = WalkedLoop(
        j,
        (Let("g_j", lift(at(G, b, h, j))),),
        (Product("product", d, lift(at(q, b, h, i, d)), lift(at(k, b, KEY_HEAD, j, d))),),
        (Let("weight", lift(exp(score))),),
        None,
        WHOLE,
        None,
        (),
        (Contribution("out", lift(named("weight", *pair)), lift(at(v, b, KEY_HEAD, j, e))),),
    )
    weigh = StreamKernel(
        "weigh", (b, h), i, (), (Let("f_i", lift(at(F, b, h, i))),),
        (Carried("out", "sum", e),), (loop,), (),
        (Store(OUT, e, lift(named("out", b, h, i, e))),),
    )  # fmt: skip
    kernels = (zero, _lse("first_rows", i, j, G, F), rounds, weigh)
    return schedule_of("sinkhorn", (q, k, v), (OUT,), kernels, (F, G))
