"""The operators of the Triton tests: one for each kind of hole, with its dense formula."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from triton_cases import (
    CAUSAL,
    DENSE,
    DOT,
    FULL,
    KEYS,
    LOG2E,
    LSE,
    OUT,
    SCALE,
    WALKED_HIGH,
    WALKED_LOW,
    WINDOW,
    D,
    I,
    J,
    K,
    Mask,
    Q,
    V,
    add,
    at,
    b,
    both,
    causal_region,
    d,
    dense_softmax,
    e,
    eq,
    grouped,
    h,
    hk,
    i,
    j,
    le,
    lt,
    m,
    mul,
    pair,
    real,
    row,
    schedule,
    softmax_kernel,
    softmax_loop,
    sub,
)  # fmt: skip

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import (
    Array,
    Expr,
    call,
    fold,
    length,
    number,
    param,
    position,
    read,
    value,
)
from attnc.philox import uniform
from attnc.schedule import Schedule, Workspace
from attnc.schedule.maps import MapKernel
from attnc.schedule.regions import Region, Segment, Summary
from attnc.schedule.statements import Carried, Contribution, Let, Product, Store
from attnc.schedule.streams import StreamKernel, WalkedLoop
from attnc.signature import NumberArgument

Made = Callable[..., torch.Tensor]
Dense = Callable[..., tuple[torch.Tensor, torch.Tensor]]
BASE2 = call("mul", SCALE, number(LOG2E))  # scale, with the factor that makes exp2 an exp


@dataclass(frozen=True)
class Shelf:
    """One operator: its schedule, the numbers of a call, further inputs, and its dense formula.

    dense(score, i, j, seen, v, tensors, numbers) -> (output, lse) in float64, where score is
    scale * <q, k> for [b, h, i, j]."""

    schedule: Schedule
    dense: Dense
    mask: Callable[..., torch.Tensor]
    numbers: dict[str, Any] = field(default_factory=lambda: {"scale": 0.3})
    made: dict[str, Made] = field(default_factory=dict)
    values: bool = True

    def tensors(
        self,
        dtype: torch.dtype,
        rows: int,
        keys: int,
        width: int,
        across: int | None = None,
        heads: tuple[int, int] = (4, 2),
        batch: int = 2,
        seed: int = 0,
    ) -> dict[str, torch.Tensor]:
        """Random inputs."""
        generator = torch.Generator().manual_seed(seed)

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

        across = width if across is None else across
        made = {
            "q": random(batch, heads[0], rows, width),
            "k": random(batch, heads[1], keys, width),
            "v": random(batch, heads[1], keys, across),
        }
        sizes = {"batch": batch, "heads": heads[0], "key_heads": heads[1], "rows": rows}
        sizes |= {"keys": keys, "width": width, "across": across}
        for name, make in self.made.items():
            made[name] = make(random, sizes)
        return made

    def reference(
        self,
        tensors: dict[str, torch.Tensor],
        offset: Any = 0,
        key_offset: Any = 0,
        key_length: Any = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(output, lse) of the dense formula in float64."""
        q, heads = tensors["q"].double(), tensors["q"].shape[1]
        k, v = grouped(tensors["k"], heads), grouped(tensors["v"], heads)
        i = torch.arange(q.shape[2])[:, None] + column(offset)
        j = torch.arange(k.shape[2])[None, :] + column(key_offset)
        score = q @ k.mT * self.numbers["scale"]
        seen = self.mask(i=i, j=j, tensors=tensors, **self.numbers).expand(score.shape)
        if key_length is not None:
            seen = seen & (torch.arange(k.shape[2]) < column(key_length))
        doubled = {name: x.double() if x.is_floating_point() else x for name, x in tensors.items()}
        return self.dense(score, i, j, seen, v, doubled, self.numbers)


def column(value: Any) -> Any:
    """A number for each batch, laid along [b, 1, 1, 1]."""
    return value[:, None, None, None] if isinstance(value, torch.Tensor) else value


def plain(score: Any, i: Any, j: Any, seen: Any, v: Any, tensors: Any, numbers: Any) -> Any:
    return dense_softmax(score, seen, v)


CASES: dict[str, Shelf] = {}
LOCAL = (NumberArgument("size", "int"), NumberArgument("sinks", "int"))


def masked(mask: Mask) -> Callable[..., torch.Tensor]:
    return lambda i, j, tensors, **numbers: mask.dense(i, j, **numbers)


# --- Masks: none, one span, two spans, data -----------------------------------------------------

CASES["dense"] = Shelf(
    schedule("dense", softmax_kernel("dense", FULL, mul(DOT, BASE2))), plain, masked(FULL)
)
CASES["causal"] = Shelf(
    schedule("causal", softmax_kernel("causal", CAUSAL, mul(DOT, BASE2))), plain, masked(CAUSAL)
)
CASES["window"] = Shelf(
    schedule("window", softmax_kernel("window", WINDOW, mul(DOT, BASE2)), (), LOCAL),
    plain,
    masked(WINDOW),
    {"scale": 0.3, "size": 20, "sinks": 3},
)

DOC = Array("doc", (b, Index("j", KEYS)), "int", "input")


def document_region() -> Region:
    """doc[i] == doc[j] and j <= i: per-tile bounds of doc, no closed spans."""
    low_i, high_i = value("doc_i_low", "int"), value("doc_i_high", "int")
    low_j, high_j = value("doc_j_low", "int"), value("doc_j_high", "int")
    held, walked = value("held_low", "int"), value("held_high", "int")
    possible = both(le(low_j, high_i), le(low_i, high_j), le(WALKED_LOW, walked))
    same = both(eq(low_j, high_j), eq(low_i, high_i), eq(low_i, low_j))
    certain = both(same, le(WALKED_HIGH, held))
    at_i = read(DOC, [position(b), sub(I, call("mul", number(0), I))])
    summaries = (
        Summary("doc_i", i, at_i),
        Summary("doc_j", j, read(DOC, [position(b), J])),
    )
    return Region(possible, certain, summaries)


DOCUMENT = Mask(
    both(eq(read(DOC, [position(b), add(I, number(0))]), read(DOC, [position(b), J])), le(J, I)),
    document_region(),
    lambda **_: torch.tensor(True),
)
CASES["document"] = Shelf(
    schedule("document", softmax_kernel("document", DOCUMENT, mul(DOT, BASE2)), (DOC,)),
    plain,
    lambda i, j, tensors, **_: (
        (
            (tensors["doc"][:, None, :, None][:, :, i.flatten() % tensors["doc"].shape[1]])
            == tensors["doc"][:, None, None, :]
        )
        & (j <= i)
    ),
    made={
        "doc": lambda random, sizes: (
            torch.arange(sizes["keys"])[None, :] // torch.tensor([[11], [29]])[: sizes["batch"]]
        )
    },
)

# --- Scores: head scalars, pair reads, tables, functions, a loop over a width -------------------

SLOPE = Array("slope", (h,), "real", "input")
CASES["alibi"] = Shelf(
    schedule(
        "alibi",
        softmax_kernel(
            "alibi",
            CAUSAL,
            sub(mul(DOT, BASE2), mul(value("steep", "real", (h,)), real(sub(I, J)))),
            grid_values=(Let("steep", mul(read(SLOPE, [position(h)]), number(LOG2E))),),
        ),
        (SLOPE,),
    ),
    lambda score, i, j, seen, v, t, n: dense_softmax(
        score - t["slope"][:, None, None] * (i - j), seen, v
    ),
    masked(CAUSAL),
    made={"slope": lambda random, sizes: random(sizes["heads"]).abs()},
)
CASES["softcap"] = Shelf(
    schedule(
        "softcap",
        softmax_kernel(
            "softcap",
            CAUSAL,
            mul(call("tanh", mul(DOT, call("div", SCALE, number(2.0)))), number(2.0 * LOG2E)),
        ),
    ),
    lambda score, i, j, seen, v, t, n: dense_softmax(2.0 * torch.tanh(score / 2.0), seen, v),
    masked(CAUSAL),
)
BIAS = Array("bias", (h, i, j), "real", "input")
CASES["bias"] = Shelf(
    schedule(
        "bias",
        softmax_kernel("bias", FULL, add(mul(DOT, BASE2), mul(at(BIAS), number(LOG2E)))),
        (BIAS,),
    ),
    lambda score, i, j, seen, v, t, n: dense_softmax(score + t["bias"], seen, v),
    masked(FULL),
    made={"bias": lambda random, s: random(s["heads"], s["rows"], s["keys"])},
)
BUCKETS = Axis("r")
TABLE = Array("table", (h, Index("r", BUCKETS)), "real", "input")
BUCKET = call("mod", call("floordiv", sub(I, J), number(2)), number(7))
CASES["table"] = Shelf(
    schedule(
        "table",
        softmax_kernel(
            "table",
            FULL,
            mul(add(mul(DOT, SCALE), read(TABLE, [position(h), BUCKET])), number(LOG2E)),
        ),
        (TABLE,),
    ),
    lambda score, i, j, seen, v, t, n: dense_softmax(
        score + t["table"][:, torch.remainder((i - j) // 2, 7)], seen, v
    ),
    masked(FULL),
    made={"table": lambda random, s: random(s["heads"], 7)},
)
FEATURE = Array("w", (h, d), "real", "input")
ADDITIVE = fold(
    "sum",
    (d,),
    mul(
        read(FEATURE, [position(h), position(d)]),
        call("tanh", add(at(Q), at(K))),
    ),
)
CASES["additive"] = Shelf(
    schedule(
        "additive",
        softmax_kernel("additive", CAUSAL, mul(ADDITIVE, number(LOG2E)), products=()),
        (FEATURE,),
    ),
    lambda score, i, j, seen, v, t, n: dense_softmax(
        torch.einsum(
            "hd,bhijd->bhij",
            t["w"],
            torch.tanh(t["q"][:, :, :, None] + grouped(t["k"], t["q"].shape[1])[:, :, None, :]),
        ),
        seen,
        v,
    ),
    masked(CAUSAL),
    made={"w": lambda random, s: random(s["heads"], s["width"])},
)
K2 = Array("k2", (b, hk, j, d), "real", "input")
CASES["two_products"] = Shelf(
    schedule(
        "two_products",
        softmax_kernel(
            "two_products",
            CAUSAL,
            mul(mul(DOT, pair("dot2")), mul(BASE2, number(0.2))),
            products=(Product("dot", d, at(Q), at(K)), Product("dot2", d, at(Q), at(K2))),
        ),
        (K2,),
    ),
    lambda score, i, j, seen, v, t, n: dense_softmax(
        score * 0.2 * (t["q"] @ grouped(t["k2"], t["q"].shape[1]).mT), seen, v
    ),
    masked(CAUSAL),
    made={"k2": lambda random, s: random(s["batch"], s["key_heads"], s["keys"], s["width"])},
)
# Norms of rows and of keys: folds over a width beside the loop and in it.
NORM_Q = call("sqrt", fold("sum", (d,), mul(at(Q), at(Q))))
NORM_K = call("sqrt", fold("sum", (d,), mul(at(K), at(K))))
COSINE_LOOP = softmax_loop(
    CAUSAL,
    mul(
        call(
            "div", DOT, mul(value("norm_q", "real", (b, h, i)), value("norm_k", "real", (b, h, j)))
        ),
        number(4.0 * LOG2E),
    ),
)
CASES["cosine"] = Shelf(
    schedule(
        "cosine",
        softmax_kernel(
            "cosine",
            CAUSAL,
            DOT,
            held_values=(Let("norm_q", NORM_Q),),
            loops=(
                WalkedLoop(
                    j, (Let("norm_k", NORM_K),), COSINE_LOOP.products, COSINE_LOOP.pair_values,
                    COSINE_LOOP.visible, COSINE_LOOP.region, COSINE_LOOP.exponent,
                    COSINE_LOOP.lifted, COSINE_LOOP.contributions,
                ),
            ),
        ),
    ),
    lambda score, i, j, seen, v, t, n: dense_softmax(
        4.0
        * torch.nn.functional.normalize(t["q"], dim=-1, eps=0)
        @ torch.nn.functional.normalize(grouped(t["k"], t["q"].shape[1]), dim=-1, eps=0).mT,
        seen,
        v,
    ),
    masked(CAUSAL),
)  # fmt: skip

# --- Normalizers: a learned sink, no stabilizer -------------------------------------------------

SINK = Array("sink", (h,), "real", "input")
REFERENCE = value("reference", "real", (b, h, i))
DENOMINATOR = add(
    row("total"), call("exp2", sub(mul(value("sink_h", "real", (h,)), number(LOG2E)), REFERENCE))
)
CASES["sink"] = Shelf(
    schedule(
        "sink",
        softmax_kernel(
            "sink",
            WINDOW,
            mul(DOT, BASE2),
            grid_values=(Let("sink_h", read(SINK, [position(h)])),),
            finish=(Let("below", DENOMINATOR),),
            result=call(
                "where",
                call("eq", row("total"), number(0.0)),
                number(0.0),
                call("div", value("acc", "real", (b, h, i, e)), row("below")),
            ),
        ),
        (SINK,),
        LOCAL,
    ),
    lambda score, i, j, seen, v, t, n: dense_softmax(score, seen, v, t["sink"][:, None]),
    masked(WINDOW),
    {"scale": 0.3, "size": 20, "sinks": 3},
    {"sink": lambda random, s: random(s["heads"])},
)


def sigmoid_kernel() -> StreamKernel:
    """weights sigmoid(score - 1): no stabilizer, no normalizer; lse beside with its own sum."""
    score, weight = pair("score"), pair("weight")
    squashed = call("div", number(1.0), add(number(1.0), call("exp", sub(number(1.0), score))))
    loop = WalkedLoop(
        j,
        (),
        (Product("dot", d, at(Q), at(K)),),
        (Let("score", mul(DOT, SCALE)),),
        CAUSAL.visible,
        CAUSAL.region,
        None,
        (Let("weight", squashed),),
        (
            Contribution("total", call("exp", score)),
            Contribution("acc", weight, at(V)),
        ),
    )
    carried = (Carried("total", "sum"), Carried("acc", "sum", e))
    stores = (
        Store(OUT, e, value("acc", "real", (b, h, i, e))),
        Store(LSE, None, call("log", row("total"))),
    )
    return StreamKernel("sigmoid", (b, h), i, (), (), carried, (loop,), (), stores)


CASES["sigmoid"] = Shelf(
    schedule("sigmoid", sigmoid_kernel()),
    lambda score, i, j, seen, v, t, n: (
        torch.where(seen, torch.sigmoid(score - 1), 0.0) @ v,
        torch.where(seen, score, -torch.inf).logsumexp(-1),
    ),
    masked(CAUSAL),
)

# --- Several key sources under one normalizer; a prepared workspace -----------------------------

MK = Array("mk", (h, m, d), "real", "input")
MV = Array("mv", (h, m, e), "real", "input")
SLOT_DOT = value("dot_m", "real", (b, h, i, m))
SLOT_LOOP = softmax_loop(
    Mask(None, DENSE, lambda **_: torch.tensor(True)),
    mul(SLOT_DOT, BASE2),
    (Product("dot_m", d, at(Q), at(MK)),),
    m,
    MV,
)
CASES["slots"] = Shelf(
    schedule(
        "slots",
        softmax_kernel(
            "slots", CAUSAL, DOT, loops=(softmax_loop(CAUSAL, mul(DOT, BASE2)), SLOT_LOOP)
        ),
        (MK, MV),
    ),
    lambda score, i, j, seen, v, t, n: dense_softmax(
        torch.cat([score, t["q"] @ t["mk"].mT * n["scale"]], -1),
        torch.cat([seen, torch.ones(*seen.shape[:3], t["mk"].shape[1], dtype=torch.bool)], -1),
        torch.cat([v, t["mv"].expand(v.shape[0], *t["mv"].shape)], 2),
    ),
    masked(CAUSAL),
    made={
        "mk": lambda random, s: random(s["heads"], 5, s["width"]),
        "mv": lambda random, s: random(s["heads"], 5, s["across"]),
    },
)
# Rotary embedding: map kernels turn rows, the stream reads the workspace.
HALF = call(
    "floordiv",
    length(D),
    number(2),
)
QR = Array("q_turned", (b, h, i, d), "real", "workspace")
KR = Array("k_turned", (b, hk, j, d), "real", "workspace")


def turn(array: Array, row_index: Index) -> Expr:
    """Pairs (d, d + half) turned by position * 100 ** (-(d % half) / half)."""
    outer = [position(index) for index in array.indices[:-1]]
    dd = position(d)
    exponent = call("div", call("neg", real(call("mod", dd, HALF))), real(HALF))
    angle = mul(real(position(row_index)), call("pow", number(100.0), exponent))
    here = read(array, [*outer, dd])
    after = call("neg", read(array, [*outer, add(dd, HALF)]))
    before = read(array, [*outer, sub(dd, HALF)])
    other = call("where", lt(dd, HALF), after, before)
    return add(mul(here, call("cos", angle)), mul(other, call("sin", angle)))


ROTARY = (
    MapKernel("turn_q", (b, h, i), (), (Store(QR, d, turn(Q, i)),)),
    MapKernel("turn_k", (b, hk, j), (), (Store(KR, d, turn(K, j)),)),
)


def turned(x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    angle = at[..., None] * 100.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    cos, sin = torch.cos(angle), torch.sin(angle)
    left, right = x[..., :half], x[..., half:]
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1)


CASES["rotary"] = Shelf(
    schedule(
        "rotary",
        softmax_kernel(
            "rotary", CAUSAL, mul(DOT, BASE2), products=(Product("dot", d, at(QR), at(KR)),)
        ),
        before=ROTARY,
        workspaces=(Workspace(QR, "query"), Workspace(KR, "query")),
    ),
    lambda score, i, j, seen, v, t, n: dense_softmax(
        turned(t["q"], i.expand(*t["q"].shape[:2], -1, -1)[..., 0] if i.dim() == 4 else i[:, 0])
        @ grouped(turned(t["k"], j[0]), t["q"].shape[1]).mT
        * n["scale"],
        seen,
        v,
    ),
    masked(CAUSAL),
)

# --- Random numbers ------------------------------------------------------------------------------

SEED, RATE = 0, 0.4


def dropped_loop() -> WalkedLoop:
    """Softmax whose weights are 0 with probability RATE."""
    loop = softmax_loop(CAUSAL, mul(DOT, BASE2))
    drawn = Expr("random", (position(b), position(h), I, J), 0, "real")
    kept = call("where", lt(drawn, number(RATE)), number(0.0), number(1 / (1 - RATE)))
    total, acc = loop.contributions
    return replace(loop, contributions=(total, replace(acc, term=mul(acc.term, kept))))


def dropped(score: Any, i: Any, j: Any, seen: Any, v: Any, tensors: Any, numbers: Any) -> Any:
    batch, head = torch.meshgrid(*map(torch.arange, score.shape[:2]), indexing="ij")
    drawn = uniform(SEED, 0, batch[..., None, None], head[..., None, None], i, j)
    weight, lse = dense_softmax(score, seen, torch.eye(score.shape[-1]).to(v))
    return torch.where(torch.from_numpy(drawn) < RATE, 0, weight / (1 - RATE)).to(v) @ v, lse


CASES["dropout"] = Shelf(
    schedule("dropout", softmax_kernel("dropout", CAUSAL, DOT, loops=(dropped_loop(),))),
    dropped,
    masked(CAUSAL),
)

__all__ = ["CASES", "Shelf"]
_ = (param, causal_region, Segment)
