"""Keys of selected blocks: the best blocks by a coarse score, then attention on their keys only.

    chosen[hk, i] = topk(s if s <= i // block: coarse, keep)
    mask: j <= i and chosen[i, j // block]

The selection is a kernel; its result is a list of tiles for the walk, and a term of the mask.
"""

from __future__ import annotations

from spec_builder import X, exp, lift, op, where
from specimen_frame import (
    J_AXIS,
    KEY_HEAD,
    LOG2_E,
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
    hk,
    i,
    j,
    k,
    named,
    output,
    param,
    q,
    schedule_of,
    space,
    tensor,
    total,
    v,
)

from attnc.expressions import tree
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Expr
from attnc.graph import Graph
from attnc.schedule import Schedule
from attnc.schedule.maps import SelectKernel
from attnc.schedule.regions import TileList
from attnc.schedule.statements import Carried, Contribution, Let, Product, Store
from attnc.schedule.streams import StreamKernel, WalkedLoop

BLOCK = 64
BLOCKS = Axis(
    "s", "range",
    length=tree.call(
        "floordiv", tree.call("add", tree.length(J_AXIS), tree.number(BLOCK - 1)),
        tree.number(BLOCK),
    ),
)  # fmt: skip
s = Index("s", BLOCKS)
COARSE = tensor("coarse", b, hk, i, s)
CHOSEN = space("chosen", b, hk, i, s, kind="bool")
OUT = output("out", b, h, i, e)
KEEP = param("keep")


def graph() -> Graph:
    """topk stands in the mask."""
    x, c = bound(j, 2), bound(s, 3)
    near = op("le", c, op("floordiv", i, BLOCK))
    group = op("floordiv", x, BLOCK)
    args = (lift(near), lift(at(COARSE, b, KEY_HEAD, i, c)), lift(KEEP), lift(group))
    picked = X(Expr("topk", args, (c,), "bool"))
    mask = op("le", x, i) & picked
    sums = total("sum", x, exp(dot(i, x)), mask)
    weighted = total("sum", x, exp(dot(i, x)) * at(v, b, KEY_HEAD, x, e), mask)
    out = where(sums.same(0.0), 0.0, weighted / sums)
    return graph_of("selected_blocks", (OUT, out), rows=(i,), keys=((j.axis,),))


def schedule() -> Schedule:
    near = op("le", s, op("floordiv", i, BLOCK))
    select = SelectKernel(
        "choose", (b, hk, i), s, lift(near), lift(at(COARSE, b, hk, i, s)), lift(KEEP), CHOSEN
    )
    pair, row = (b, h, i, j), (b, h, i)
    weight = op("exp2", named("score", *pair) - named("reference", *row))
    picked = at(CHOSEN, b, KEY_HEAD, i, op("floordiv", j, BLOCK))
    loop = WalkedLoop(
        j,
        (),
        (Product("product", d, lift(at(q, b, h, i, d)), lift(at(k, b, KEY_HEAD, j, d))),),
        (Let("score", lift(named("product", *pair) * SCALE * LOG2_E)),),
        lift(op("le", j, i) & picked),
        SOME,
        lift(named("score", *pair)),
        (Let("weight", lift(weight)),),
        (
            Contribution("total", lift(named("weight", *pair))),
            Contribution("out", lift(named("weight", *pair)), lift(at(v, b, KEY_HEAD, j, e))),
        ),
        chosen=TileList(CHOSEN, tree.number(1), tree.number(BLOCK)),
    )
    sums = named("total", *row)
    kernel = StreamKernel(
        "attend", (b, h), i, (), (),
        (Carried("total", "sum", None, True), Carried("out", "sum", e, True)), (loop,),
        (Let("inverse", lift(where(op("ne", sums, 0.0), 1.0 / sums, 0.0))),),
        (Store(OUT, e, lift(named("out", *row, e) * named("inverse", *row))),),
    )  # fmt: skip
    return schedule_of(
        "selected_blocks", (q, k, v, COARSE), (OUT,), (select, kernel), (CHOSEN,),
        (("keep", "int"),),
    )  # fmt: skip
