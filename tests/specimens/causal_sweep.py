"""The backward of causal softmax attention in one sweep: keys are held, rows walked, and what the
rows get is deposited.

    p_ij  = exp(score_ij - lse_i)                 ds_ij = p_ij (<g_i, v_j> - delta_i)
    dv_j  = sum_i p_ij g_i                        delta_i = <g_i, out_i>
    dk_j  = sum_i ds_ij q_i * scale               dq_i = sum_j ds_ij k_j * scale

Five products for each pair of tiles. The sums over the heads of a group and over rows have one
order: held tiles of an instance run one after another.
"""

from __future__ import annotations

from dataclasses import replace

from spec_builder import X, exp, lift, op
from specimen_frame import (
    GROUP,
    KEY_HEAD,
    LOG2_E,
    SCALE,
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
    q,
    schedule_of,
    space,
    tensor,
    total,
    v,
)

from attnc.graph import Graph
from attnc.schedule import Schedule
from attnc.schedule.maps import MapKernel
from attnc.schedule.regions import Region
from attnc.schedule.statements import Carried, Contribution, Deposit, Let, Product, Store
from attnc.schedule.streams import StreamKernel, WalkedLoop
from attnc.signature import TensorArgument

OUT, GRAD = tensor("out", b, h, i, e), tensor("out_grad", b, h, i, e)
LSE = tensor("lse", b, h, i)
DQ, DK, DV = (
    output("q_grad", b, h, i, d),
    output("k_grad", b, hk, j, d),
    output("v_grad", b, hk, j, e),
)
DELTA, ROWS = space("delta", b, h, i), space("rows", b, hk, g, i, d)
HEAD = op("add", op("mul", hk, lift(op("max", GROUP.length, 1))), g)  # the query head of (hk, g)
PAIR = (b, hk, g, i, j)


def graph() -> Graph:
    """The three gradients as folds over pairs."""
    x, r, head = bound(j), bound(i), bound(h, 2)
    mine = op("floordiv", head, lift(op("max", GROUP.length, 1))).same(hk)
    dq = total("sum", x, _slope(h, i, x, KEY_HEAD) * at(k, b, KEY_HEAD, x, d), op("le", x, i))
    rows = op("le", j, r) & mine
    dk = total("sum", (head, r), _slope(head, r, j, hk) * at(q, b, head, r, d), rows)
    weight = exp(_score(head, r, j, hk) - at(LSE, b, head, r))
    dv = total("sum", (head, r), weight * at(GRAD, b, head, r, e), rows)
    return graph_of("causal_sweep", (DQ, dq), (DK, dk), (DV, dv), rows=(i,), keys=((j.axis,),))


def _score(head: object, row: object, key: object, key_head: object) -> X:
    if head is h:
        return dot(row, key)
    c = bound(d, 3)
    return total("sum", c, at(q, b, head, row, c) * at(k, b, key_head, key, c)) * SCALE


def _slope(head: object, row: object, key: object, key_head: object) -> X:
    """The gradient of a score, times the scale."""
    w, y = bound(e, 3), bound(e, 4)
    dp = total("sum", w, at(GRAD, b, head, row, w) * at(v, b, key_head, key, w))
    delta = total("sum", y, at(GRAD, b, head, row, y) * at(OUT, b, head, row, y))
    return exp(_score(head, row, key, key_head) - at(LSE, b, head, row)) * (dp - delta) * SCALE


def schedule() -> Schedule:
    inputs, outputs = (q, k, v, OUT, GRAD, LSE), (DQ, DK, DV)
    made = schedule_of("causal_sweep", inputs, outputs, (delta(), sweep(), gather()), (DELTA, ROWS))
    saved = TensorArgument(LSE, "accumulate", "input", True)
    signature = replace(made.signature, inputs=(*made.signature.inputs[:-1], saved))
    return replace(made, signature=signature)


def delta() -> MapKernel:
    w = bound(e)
    product = total("sum", w, at(GRAD, b, h, i, w) * at(OUT, b, h, i, w))
    return MapKernel("delta", (b, h, i), (), (Store(DELTA, None, lift(product)),))


def gather() -> MapKernel:
    """Rows of a head, from where its group left them."""
    size = lift(op("max", GROUP.length, 1))
    rows = at(ROWS, b, op("floordiv", h, size), op("mod", h, size), i, d)
    return MapKernel("gather", (b, h, i), (), (Store(DQ, d, lift(rows)),))


def region() -> Region:
    """Keys are held: a tile is seen where its first key is not after the last row."""
    low, high = named("held_low", kind="int"), named("held_high", kind="int")
    first, last = named("walked_low", kind="int"), named("walked_high", kind="int")
    return Region(lift(op("le", low, last)), lift(op("le", high, first)))


def sweep() -> StreamKernel:
    weight, slope = named("weight", *PAIR), named("slope", *PAIR)
    exponent = named("product", *PAIR) * named("factor") - named("lse_i", b, hk, g, i)
    dp = named("dp", *PAIR) - named("delta_i", b, hk, g, i)
    loop = WalkedLoop(
        i,
        (
            Let("lse_i", lift(at(LSE, b, HEAD, i) * LOG2_E)),
            Let("delta_i", lift(at(DELTA, b, HEAD, i))),
        ),
        (
            Product("product", d, lift(at(k, b, hk, j, d)), lift(at(q, b, HEAD, i, d))),
            Product("dp", e, lift(at(v, b, hk, j, e)), lift(at(GRAD, b, HEAD, i, e))),
        ),
        (Let("weight", lift(op("exp2", exponent))), Let("slope", lift(weight * dp))),
        lift(op("le", j, i)),
        region(),
        None,
        (),
        (
            Contribution("dv", lift(weight), lift(at(GRAD, b, HEAD, i, e))),
            Contribution("dk", lift(slope * SCALE), lift(at(q, b, HEAD, i, d))),
        ),
        around=(g,),
        deposits=(Deposit(ROWS, lift(slope * SCALE), d, lift(at(k, b, hk, j, d))),),
    )
    return StreamKernel(
        "sweep",
        (b, hk),
        j,
        (Let("factor", lift(SCALE * LOG2_E)),),
        (),
        (Carried("dk", "sum", d), Carried("dv", "sum", e)),
        (loop,),
        (),
        (
            Store(DK, d, lift(named("dk", b, hk, j, d))),
            Store(DV, e, lift(named("dv", b, hk, j, e))),
        ),
    )
