"""The gated delta rule, in chunks and as a step.

    S <- exp(g_t) S;  S <- S + beta_t k_t (v_t - k_t S);  o_t = scale * q_t S

In a chunk, with G the running sum of g, the corrected values u solve a unit triangular system:
    (1 + A) u = beta (v - exp(G) k S0),   A_ts = beta_t exp(G_t - G_s) <k_t, k_s>  for s < t
    o_t = scale (exp(G_t) q_t S0 + sum_{s <= t} exp(G_t - G_s) <q_t, k_s> u_s)
    S   = exp(G_C) S0 + sum_s exp(G_C - G_s) k_s u_s
Every exponential is of a difference that is never positive, as g <= 0. Source: Yang et al. 2024,
"Gated Delta Networks".
"""

from __future__ import annotations

from spec_builder import X, exp, lift, op, where
from specimen_frame import (
    SCALE,
    at,
    b,
    bound,
    d,
    e,
    graph_of,
    h,
    named,
    output,
    schedule_of,
    tensor,
    total,
)

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Array
from attnc.graph import Graph, Recurrence
from attnc.schedule import Schedule
from attnc.schedule.maps import StepKernel
from attnc.schedule.scans import ScanKernel, ScanLoop
from attnc.schedule.statements import Let, Product, Store, TriangularSolve

T = Axis("t", shifted="offset")
t, s = Index("t", T), Index("s", T)
last = Index("last", T)
Q, K, V = tensor("q", b, h, t, d), tensor("k", b, h, t, d), tensor("v", b, h, t, e)
BETA, GATE = tensor("beta", b, h, t), tensor("g", b, h, t)
S = Array("S", (b, h, d, e), "real", "state")
FIRST, FINAL = tensor("S_first", b, h, d, e), output("S_final", b, h, d, e)
OUT, ROW = output("out", b, h, t, e), output("out_row", b, h, e)
INPUTS = (Q, K, V, BETA, GATE, FIRST)


def _zero() -> X:
    return X(lift(0.0))


def graph() -> Graph:
    """The recurrence, and the read of the state after each step."""
    c = bound(d)
    decayed = exp(at(GATE, b, h, t)) * at(S, b, h, d, e)
    seen = total("sum", c, at(K, b, h, t, c) * exp(at(GATE, b, h, t)) * at(S, b, h, c, e))
    after = decayed + at(BETA, b, h, t) * at(K, b, h, t, d) * (at(V, b, h, t, e) - seen)
    steps = Recurrence(t, (S,), (lift(_zero()),), (lift(after),))
    read = total("sum", c, at(Q, b, h, t, c) * at(S, b, h, c, e)) * SCALE
    return graph_of("gated_delta", (OUT, read), rows=(t,), recurrences=(steps,))


def schedule() -> Schedule:
    """The chunkwise form."""
    c, w = bound(d), bound(t, 3)
    pair = (b, h, t, s)
    decay = exp(named("G_t", b, h, t) - named("G_s", b, h, s))
    earlier = total("sum", c, at(K, b, h, s, c) * at(S, b, h, c, e))
    right = at(BETA, b, h, s) * (
        at(V, b, h, s, e) - exp(named("G_s", b, h, s)) * named("k_state", b, h, s, e)
    )
    matrix = at(BETA, b, h, t) * named("decay", *pair) * named("kk", *pair)
    inside = (
        Let("G_t", lift(total("sum", w, at(GATE, b, h, w), op("le", w, t)))),
        Let("G_s", lift(total("sum", w, at(GATE, b, h, w), op("le", w, s)))),
        Let("decay", lift(where(op("le", s, t), decay, 0.0))),
        Product("kk", d, lift(at(K, b, h, t, d)), lift(at(K, b, h, s, d))),
        Product("qk", d, lift(at(Q, b, h, t, d)), lift(at(K, b, h, s, d))),
        Let("k_state", lift(earlier)),
        TriangularSolve("u", lift(matrix), lift(right), e),
        Let("pair", lift(named("decay", *pair) * named("qk", *pair))),
        Let(
            "o",
            lift(
                exp(named("G_t", b, h, t)) * total("sum", c, at(Q, b, h, t, c) * at(S, b, h, c, e))
                + total("sum", s, named("pair", *pair) * named("u", b, h, s, e))
            ),
        ),
        Let("G_end", lift(total("sum", w, at(GATE, b, h, w)))),
    )
    rest = exp(named("G_end", b, h) - named("G_s", b, h, s))
    added = total("sum", s, rest * at(K, b, h, s, d) * named("u", b, h, s, e))
    after = exp(named("G_end", b, h)) * at(S, b, h, d, e) + added
    loop = ScanLoop(t, s, (S,), (lift(at(FIRST, b, h, d, e)),), inside, (lift(after),))
    store = Store(OUT, e, lift(named("o", b, h, t, e) * SCALE))
    kernel = ScanKernel("gated_delta", (b, h), (), loop, (store,))
    return schedule_of("gated_delta", INPUTS, (OUT,), (kernel,))


def step_schedule() -> Schedule:
    """One row: the state in, the state and the row out."""
    c = bound(d)
    rows = [tensor(a.name, *(n for n in a.indices if n != t)) for a in (Q, K, V, BETA, GATE)]
    q1, k1, v1, beta1, g1 = rows
    seen = total("sum", c, at(k1, b, h, c) * exp(at(g1, b, h)) * at(S, b, h, c, e))
    after = exp(at(g1, b, h)) * at(S, b, h, d, e) + at(beta1, b, h) * at(k1, b, h, d) * (
        at(v1, b, h, e) - named("seen", b, h, e)
    )
    read = total("sum", d, at(q1, b, h, d) * named("after", b, h, d, e)) * SCALE
    kernel = StepKernel(
        "gated_delta_step", (b, h), (Let("seen", lift(seen)), Let("after", lift(after))), (S,),
        (lift(named("after", b, h, d, e)),),
        (
            Store(ROW, e, lift(read)),
            Store(FINAL, e, lift(named("after", b, h, d, e))),
        ),
    )  # fmt: skip
    return schedule_of("gated_delta_step", (*rows, FIRST), (ROW, FINAL), (kernel,))
