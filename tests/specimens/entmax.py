"""entmax with a = 1.5: a row threshold that a sum over keys decides.

    tau solves sum(j: relu(s_ij / 2 - tau) ** 2) == 1

The bracket is stored, and halved in rounds that each walk the keys once; the last pass has the
weights. Source: Peters, Niculae, Martins 2019, "Sparse Sequence-to-Sequence Models".
"""

from __future__ import annotations

from spec_builder import X, lift, op, relu, where
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
    space,
    total,
    v,
)

from attnc.expressions import tree
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Expr
from attnc.graph import Graph
from attnc.schedule import RepeatKernels, Schedule
from attnc.schedule.statements import Carried, Contribution, Let, Product, Store
from attnc.schedule.streams import StreamKernel, WalkedLoop

OUT = output("out", b, h, i, e)
LOW, HIGH = space("low", b, h, i), space("high", b, h, i)
ROUND = Index("round", Axis("round", "range", length=tree.number(40)))
ROW, PAIR = (b, h, i), (b, h, i, j)


def graph() -> Graph:
    """A solve node, over the folds of a row."""
    x, m, n = bound(j), bound(j, 2), bound(j, 3)

    def half(key: object) -> X:
        return 0.5 * dot(i, key)

    seen = op("le", n, i)
    top = total("max", n, half(n), seen)
    tau = X(Expr("unknown", (), "tau", "real"))
    mass = total("sum", m, relu(half(m) - tau) ** 2, op("le", m, i))
    args = (lift(top - 1.0), lift(top), lift(mass), lift(1.0))
    solved = X(Expr("solve", args, "tau", "real"))
    weight = relu(half(x) - solved) ** 2
    out = total("sum", x, weight * at(v, b, KEY_HEAD, x, e), op("le", x, i))
    return graph_of("entmax", (OUT, out), rows=(i,), keys=((j.axis,),))


def _loop(terms: tuple[Contribution, ...], lets: tuple[Let, ...] = ()) -> WalkedLoop:
    return WalkedLoop(
        j,
        (),
        (Product("product", d, lift(at(q, b, h, i, d)), lift(at(k, b, KEY_HEAD, j, d))),),
        (Let("half", lift(named("product", *PAIR) * SCALE * 0.5)), *lets),
        lift(op("le", j, i)),
        SOME,
        None,
        (),
        terms,
    )


def schedule() -> Schedule:
    """The bracket, forty halvings, the weights."""
    half, middle = named("half", *PAIR), named("middle", *ROW)
    top = named("highest", *ROW)
    bracket = StreamKernel(
        "bracket", (b, h), i, (), (), (Carried("highest", "max"),),
        (_loop((Contribution("highest", lift(half)),)),), (),
        (Store(LOW, None, lift(top - 1.0)), Store(HIGH, None, lift(top))),
    )  # fmt: skip
    between = Let("middle", lift(0.5 * (at(LOW, *ROW) + at(HIGH, *ROW))))
    beyond = op("ge", named("mass", *ROW), 1.0)
    halve = StreamKernel(
        "halve", (b, h), i, (), (between,), (Carried("mass", "sum"),),
        (_loop((Contribution("mass", lift(relu(half - middle) ** 2)),)),), (),
        (
            Store(LOW, None, lift(where(beyond, middle, at(LOW, *ROW)))),
            Store(HIGH, None, lift(where(beyond, at(HIGH, *ROW), middle))),
        ),
    )  # fmt: skip
    weight = Let("weight", lift(relu(half - middle) ** 2))
    final = Contribution("out", lift(named("weight", *PAIR)), lift(at(v, b, KEY_HEAD, j, e)))
    weigh = StreamKernel(
        "weigh", (b, h), i, (), (between,), (Carried("out", "sum", e),),
        (_loop((final,), (weight,)),), (), (Store(OUT, e, lift(named("out", *ROW, e))),),
    )  # fmt: skip
    rounds = RepeatKernels(ROUND, tree.number(40), (halve,))
    return schedule_of("entmax", (q, k, v), (OUT,), (bracket, rounds, weigh), (LOW, HIGH))
