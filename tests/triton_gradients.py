"""Backward schedules built by hand for the Triton backend, with dense formulas for autograd.

A case is softmax attention under a mask, with a score of its own: what is added to the scaled
product, what the product goes through, and the table whose gradient it asks for. The backward takes
the forward's result, the reference and the inverse sum of each row; two kernels make dQ (rows held)
and dK, dV (keys held, around the heads of a group), a third one sums what pairs add to a table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from triton_cases import (
    HK,
    LOG2E,
    NUMBERS,
    SCALE,
    D,
    E,
    H,
    I,
    J,
    K,
    Q,
    V,
    add,
    b,
    both,
    d,
    e,
    either,
    eq,
    h,
    hk,
    i,
    j,
    le,
    lt,
    mul,
    signature,
    sub,
)  # fmt: skip

from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import (
    TRUE,
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
from attnc.passes.regions import regions
from attnc.schedule import Kernel, Schedule, Workspace
from attnc.schedule.maps import MapKernel
from attnc.schedule.regions import Region
from attnc.schedule.statements import Carried, Contribution, Let, PairStore, Product, Scatter, Store
from attnc.schedule.streams import StreamKernel, WalkedLoop
from attnc.signature import NumberArgument, Signature
from attnc.signature_of import lengths_of

SIZE = call("floordiv", length(H), call("max", length(HK), number(1)))
GROUP = Axis("g", "range", length=SIZE)
SHARE = Axis("share")
g, share = Index("g", GROUP), Index("share", SHARE)
GRAD = Array("grad", (b, h, i, e), "real", "input")
OUT = Array("out", (b, h, i, e), "real", "input")
TOP = Array("top", (b, h, i), "real", "input")  # the reference of a row, base 2
INVERSE = Array("inverse", (b, h, i), "real", "input")  # one over the sum of its weights
DELTA = Array("delta", (b, h, i), "real", "workspace")
DQ = Array("dq", Q.indices, "real", "output")
DK = Array("dk", K.indices, "real", "output")
DV = Array("dv", V.indices, "real", "output")
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Head:
    """The head of a pair, and that of its key, in a kernel over query heads or around a group."""

    query: Expr
    key: Expr
    over: tuple[Index, ...]

    def at(self, array: Array) -> Expr:
        """An array at the indices of the pair."""
        heads = {h: self.query, hk: self.key}
        return read(array, [heads.get(index, position(index)) for index in array.indices])

    def named(self, name: str, *indices: Index) -> Expr:
        return value(name, "real", (*self.over, *indices))


BY_QUERY = Head(position(h), call("floordiv", position(h), SIZE), (b, h))
AROUND = Head(
    add(mul(position(hk), call("max", length(GROUP), number(1))), position(g)),
    position(hk),
    (b, hk, g),
)


def row_values(head: Head) -> tuple[Let, ...]:
    """What the forward has saved of a row, and delta."""
    arrays = {"top_i": TOP, "inverse_i": INVERSE, "delta_i": DELTA}
    return tuple(Let(name, head.at(array)) for name, array in arrays.items())


@dataclass(frozen=True)
class Gradient:
    """One operator and its derivatives.

    score      the natural score of a pair, from its product
    slope      d score / d product
    scores     the same for tensors: (tensors, numbers, i, j) of [b, h, i, j] -> (score, seen)
    parts      further outputs: kernels that make them, their arrays and workspaces
    made       further inputs: (random, sizes) -> tensor
    asked      the further inputs whose gradients are outputs, by the names of those
    """

    name: str
    visible: Expr | None
    score: Callable[[Expr, Head], Expr]
    slope: Callable[[Expr, Head], Expr]
    dense: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    inputs: tuple[Array, ...] = ()
    integers: tuple[NumberArgument, ...] = ()
    numbers: dict[str, Any] = field(default_factory=lambda: {"scale": 0.3})
    made: dict[str, Callable[..., torch.Tensor]] = field(default_factory=dict)
    asked: dict[str, str] = field(default_factory=dict)
    outputs: tuple[Array, ...] = ()
    scatters: Callable[[Head], tuple[Scatter, ...]] = lambda head: ()
    held: bool = True  # the table's kernel holds rows; else keys
    pairs: Callable[[Head], tuple[PairStore, ...]] = lambda head: ()

    # --- Schedule ---------------------------------------------------------------------------------

    def lets(self, head: Head) -> tuple[Let, ...]:
        """Pair values: the weight, the gradient of the score."""
        dot, dp = head.named("dot", i, j), head.named("dp", i, j)
        score = mul(self.score(dot, head), number(LOG2E))
        over = (*head.over, i)
        raised = call("exp2", sub(score, value("top_i", "real", over)))
        weight = mul(raised, value("inverse_i", "real", over))
        change = sub(dp, value("delta_i", "real", over))
        return (
            Let("weight", weight),
            Let("ds", mul(head.named("weight", i, j), change)),
            Let("dot_grad", mul(head.named("ds", i, j), self.slope(dot, head))),
        )

    def loop(self, head: Head, held: Index, contributions: Any, **more: Any) -> WalkedLoop:
        walked = j if held == i else i
        rows = (head.at(Q), head.at(GRAD))
        keys = (head.at(K), head.at(V))
        sides = zip(rows, keys, strict=True) if held == i else zip(keys, rows, strict=True)
        products = tuple(
            Product(name, width, left, right)
            for name, width, (left, right) in zip(("dot", "dp"), (d, e), sides, strict=True)
        )
        values = () if held == i else row_values(head)
        region = Region(TRUE, TRUE)
        if self.visible is not None:
            region = regions(self.visible, held, walked)
        return WalkedLoop(
            walked, values, products, self.lets(head), self.visible, region,
            None, (), contributions, around=(g,) if head is AROUND else (), **more,
        )  # fmt: skip

    def kernels(self) -> tuple[Kernel, ...]:
        by_row = row_values(BY_QUERY)
        delta = fold("sum", (e,), mul(BY_QUERY.at(OUT), BY_QUERY.at(GRAD)))
        made: list[Kernel] = [MapKernel("delta", (b, h, i), (), (Store(DELTA, None, delta),))]
        dot_grad = BY_QUERY.named("dot_grad", i, j)
        contributions = (Contribution("dq", dot_grad, BY_QUERY.at(K)),)
        pairs = self.pairs(BY_QUERY)
        made.append(
            StreamKernel(
                "rows", (b, h), i, (), by_row, (Carried("dq", "sum", d),),
                (self.loop(BY_QUERY, i, contributions, pair_stores=pairs),), (),
                (Store(DQ, d, value("dq", "real", (b, h, i, d))),),
            )
        )  # fmt: skip
        contributions = (
            Contribution("dv", AROUND.named("weight", i, j), AROUND.at(GRAD)),
            Contribution("dk", AROUND.named("dot_grad", i, j), AROUND.at(Q)),
        )
        made.append(
            StreamKernel(
                "keys", (b, hk), j, (), (), (Carried("dk", "sum", d), Carried("dv", "sum", e)),
                (self.loop(AROUND, j, contributions),), (),
                (
                    Store(DK, d, value("dk", "real", (b, hk, j, d))),
                    Store(DV, e, value("dv", "real", (b, hk, j, e))),
                ),
            )
        )  # fmt: skip
        head, held = (BY_QUERY, i) if self.held else (AROUND, j)
        scatters = self.scatters(head)
        if scatters:
            loop = self.loop(head, held, (), scatters=scatters)
            grid = (share, b, h) if self.held else (share, b, hk)
            values = by_row if self.held else ()
            made.append(
                StreamKernel("table", grid, held, (), values, (), (loop,), (), (), split=share)
            )
            made += [self.sums(s, o) for s, o in zip(scatters, self.outputs, strict=True)]
        return tuple(made)

    def sums(self, scatter: Scatter, output: Array) -> MapKernel:
        """The slices of a table, and what is left of the grid, added in order."""
        parts = scatter.array
        kept = [
            index for index in parts.indices
            if index not in (share, b) and index not in (hk, g)
        ]  # fmt: skip
        bound = [Index(index.name, index.axis, 7) for index in (share, b)]
        at: dict[Index, Expr] = {share: position(bound[0]), b: position(bound[1])}
        over = tuple(index for index in output.indices if index != scatter.width)
        at |= {index: position(index) for index in kept}
        if hk in parts.indices:
            at |= {hk: call("floordiv", position(h), SIZE), g: call("mod", position(h), SIZE)}
        total = fold("sum", bound, read(parts, [at[index] for index in parts.indices]))
        return MapKernel(f"sum_{output.name}", over, (), (Store(output, scatter.width, total),))

    def forward_schedule(self) -> Schedule:
        """The forward: the result, the reference of a row and the inverse sum of its weights."""
        score, weight = BY_QUERY.named("score", i, j), BY_QUERY.named("weight", i, j)
        reference, total = (value(name, "real", (b, h, i)) for name in ("reference", "total"))
        dot = BY_QUERY.named("dot", i, j)
        loop = WalkedLoop(
            j, (), (Product("dot", d, BY_QUERY.at(Q), BY_QUERY.at(K)),),
            (Let("score", mul(self.score(dot, BY_QUERY), number(LOG2E))),), self.visible,
            Region(TRUE, TRUE) if self.visible is None else regions(self.visible, i, j), score,
            (Let("weight", call("exp2", sub(score, reference))),),
            (Contribution("total", weight), Contribution("acc", weight, BY_QUERY.at(V))),
        )  # fmt: skip
        empty = call("eq", total, number(0.0))
        inverse = call("where", empty, number(0.0), call("div", number(1.0), total))
        finite = call("where", empty, number(0.0), reference)
        acc = value("acc", "real", (b, h, i, e))
        stores = (
            Store(OUT, e, mul(acc, value("scaled", "real", (b, h, i)))),
            Store(TOP, None, finite),
            Store(INVERSE, None, value("scaled", "real", (b, h, i))),
        )
        carried = (Carried("total", "sum", None, True), Carried("acc", "sum", e, True))
        kernel = StreamKernel(
            "forward", (b, h), i, (), (), carried, (loop,), (Let("scaled", inverse),), stores
        )
        declared = self.declared((Q, K, V, *self.inputs), (OUT, TOP, INVERSE), 1)
        return Schedule(f"{self.name}_forward", declared, (kernel,), (), (D, E))

    def declared(
        self, inputs: tuple[Array, ...], outputs: tuple[Array, ...], query: int
    ) -> Signature:
        """A signature, the first `query` outputs of which are in the query dtype."""
        found = signature(self.name, inputs, (*NUMBERS, *self.integers), outputs)
        given = tuple(
            replace(a, dtype="query") if a.name in ("grad", "out") else a for a in found.inputs
        )
        made = tuple(
            replace(a, dtype="query" if n < query else "accumulate")
            for n, a in enumerate(found.outputs)
        )
        return replace(found, inputs=given, outputs=made, lengths=lengths_of(inputs))

    def schedule(self) -> Schedule:
        inputs = (Q, K, V, GRAD, OUT, TOP, INVERSE, *self.inputs)
        declared = self.declared(inputs, (DQ, DK, DV, *self.outputs), 3)
        head = BY_QUERY if self.held else AROUND
        spaces = (DELTA, *(scatter.array for scatter in self.scatters(head)))
        workspaces = tuple(Workspace(array, "accumulate") for array in spaces)
        return Schedule(self.name, declared, self.kernels(), workspaces, (D, E))

    # --- Tensors ----------------------------------------------------------------------------------

    def tensors(
        self,
        dtype: torch.dtype,
        rows: int,
        keys: int,
        width: int,
        across: int,
        heads: tuple[int, int] = (4, 2),
        batch: int = 2,
        seed: int = 0,
    ) -> Tensors:
        """Random inputs and a cotangent in `dtype`; what the forward gives, computed in float64."""
        generator = torch.Generator().manual_seed(seed)

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

        made = {
            "q": random(batch, heads[0], rows, width),
            "k": random(batch, heads[1], keys, width),
            "v": random(batch, heads[1], keys, across),
            "grad": random(batch, heads[0], rows, across),
        }
        sizes = {"batch": batch, "heads": heads[0], "rows": rows, "keys": keys, "width": width}
        for name, make in self.made.items():
            made[name] = make(random, sizes)
        return made

    def scores(self, tensors: Tensors, extras: dict[str, Any]) -> tuple[Any, Any]:
        """(scores [b, h, i, j], -inf where masked; whether a row sees anything [b, h, i, 1])."""
        rows, keys = tensors["q"].shape[2], tensors["k"].shape[2]
        at_i = torch.arange(rows)[:, None] + extras.get("offset", 0)
        at_j = torch.arange(keys)[None, :] + extras.get("key_offset", 0)
        score, seen = self.dense(tensors, self.numbers, at_i, at_j)
        seen = seen.expand(score.shape)
        if "key_length" in extras:
            seen = seen & (torch.arange(keys) < extras["key_length"])
        return torch.where(seen, score, -torch.inf), seen.any(-1, keepdim=True)

    def forward(self, tensors: Tensors, extras: dict[str, Any]) -> torch.Tensor:
        """The result of the dense formula in the dtype of the tensors."""
        score, some = self.scores(tensors, extras)
        weight = torch.softmax(torch.where(some, score, 0.0), -1) * some
        return weight @ repeated(tensors["v"], score.shape[1])

    def shaped(self, tensors: Tensors) -> Tensors:
        """The tensors, with what the forward gives at no particular value."""
        single = torch.float64 if tensors["q"].dtype is torch.float64 else torch.float32
        row = torch.zeros(tensors["q"].shape[:3], dtype=single)
        return {**tensors, "out": torch.zeros_like(tensors["grad"]), "top": row, "inverse": row}

    def gradients(self, tensors: Tensors, extras: dict[str, Any], dtype: torch.dtype) -> Tensors:
        """Autograd of the dense formula in `dtype`, by the names of the outputs."""
        names = {"dq": "q", "dk": "k", "dv": "v", **{o: n for n, o in self.asked.items()}}
        given = {n: x.to(dtype) if x.is_floating_point() else x for n, x in tensors.items()}
        leaves = {n: given[n].detach().clone().requires_grad_() for n in names.values()}
        out = self.forward({**given, **leaves}, extras)
        found = torch.autograd.grad(out, list(leaves.values()), given["grad"], allow_unused=True)
        return {
            output: torch.zeros_like(leaf) if grad is None else grad
            for output, leaf, grad in zip(names, leaves.values(), found, strict=True)
        }


def repeated(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.repeat_interleave(heads // max(x.shape[1], 1), 1)


def products(tensors: Tensors, numbers: dict[str, Any]) -> torch.Tensor:
    q = tensors["q"]
    return q @ repeated(tensors["k"], q.shape[1]).mT * numbers["scale"]


def scaled(dot: Expr, head: Head) -> Expr:
    return mul(dot, SCALE)


def constant(dot: Expr, head: Head) -> Expr:
    return SCALE


GRADIENTS: dict[str, Gradient] = {}


def keep(case: Gradient) -> None:
    GRADIENTS[case.name] = case


# --- Masks ----------------------------------------------------------------------------------------

keep(Gradient("dense", None, scaled, constant, lambda t, n, i, j: (products(t, n), i == i)))
NEAR, SINKS = param("size", "int"), param("sinks", "int")
keep(
    Gradient(
        "window",
        both(le(J, I), either(lt(sub(I, J), NEAR), lt(J, SINKS))),
        scaled,
        constant,
        lambda t, n, i, j: (
            products(t, n),
            (j <= i) & ((i - j < n["size"]) | (j < n["sinks"])),
        ),
        integers=(NumberArgument("size", "int"), NumberArgument("sinks", "int")),
        numbers={"scale": 0.3, "size": 20, "sinks": 3},
    )
)
HALF = call("div", SCALE, number(2.0))


def capped(dot: Expr, head: Head) -> Expr:
    return mul(call("tanh", mul(dot, HALF)), number(2.0))


def capped_slope(dot: Expr, head: Head) -> Expr:
    squashed = call("tanh", mul(dot, HALF))
    return mul(SCALE, sub(number(1.0), mul(squashed, squashed)))


keep(
    Gradient(
        "softcap",
        le(J, I),
        capped,
        capped_slope,
        lambda t, n, i, j: (2.0 * torch.tanh(products(t, n) / 2.0), j <= i),
    )
)
DOC_I = Array("doc_i", (b, i), "int", "input")
DOC_J = Array("doc_j", (b, j), "int", "input")
keep(
    Gradient(
        "document",
        both(
            eq(read(DOC_I, [position(b), I]), read(DOC_J, [position(b), J])),
            le(J, I),
        ),
        scaled,
        constant,
        lambda t, n, i, j: (
            products(t, n),
            (t["doc_i"][:, None, :, None] == t["doc_j"][:, None, None, :]) & (j <= i),
        ),
        inputs=(DOC_I, DOC_J),
        made={
            "doc_i": lambda random, s: (torch.arange(s["rows"]) // 17).expand(s["batch"], -1),
            "doc_j": lambda random, s: (torch.arange(s["keys"]) // 17).expand(s["batch"], -1),
        },
    )
)

# --- Tables ---------------------------------------------------------------------------------------

LAG = Index("lag", Axis("lag"))
TABLE = Array("table", (h, LAG), "real", "input")
DTABLE = Array("dtable", (h, LAG), "real", "output")
SHIFT = number(30)
LAGS = 61  # places of the tables: differences -30 .. 30


def parts(head: Head, *more: Index) -> Array:
    """The slices of a table: one for each share and place in the grid."""
    return Array("table_parts", (share, *head.over, LAG, *more), "real", "workspace")


def table_at(place: Expr) -> Callable[[Expr, Head], Expr]:
    return lambda dot, head: add(scaled(dot, head), read(TABLE, [head.query, place]))


def table_case(name: str, place: Expr, places: Any, visible: Expr, seen: Any, held: bool) -> None:
    """A gradient of `table[h, place]`; `places`, `seen`: (i, j) as tensors."""
    keep(
        Gradient(
            name,
            visible,
            table_at(place),
            constant,
            lambda t, n, i, j: (
                products(t, n) + t["table"][:, places(i, j, t).clamp(0, LAGS - 1)],
                seen(i, j),
            ),
            inputs=(TABLE,),
            made={"table": lambda random, s: random(s["heads"], LAGS)},
            asked={"table": "dtable"},
            outputs=(DTABLE,),
            scatters=lambda head: (Scatter(parts(head), place, head.named("ds", i, j)),),
            held=held,
        )
    )


DIFFERENCE = add(sub(I, J), SHIFT)
NARROW = both(le(number(0), DIFFERENCE), lt(DIFFERENCE, number(LAGS)))


def narrow(i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    return (i - j + 30 >= 0) & (i - j + 30 < LAGS)


def difference(i: torch.Tensor, j: torch.Tensor, t: Tensors) -> torch.Tensor:
    return i - j + 30


def clipped(i: torch.Tensor, j: torch.Tensor, t: Tensors) -> torch.Tensor:
    return (torch.div(i - j, 3, rounding_mode="floor") + 9).clamp(2, 17)


BUCKET = call(
    "min",
    call("max", add(call("floordiv", sub(I, J), number(3)), number(9)), number(2)),
    number(17),
)
table_case("table", DIFFERENCE, difference, NARROW, narrow, True)
table_case("table_by_keys", DIFFERENCE, difference, NARROW, narrow, False)
table_case("buckets", BUCKET, clipped, le(J, I), lambda i, j: j <= i, True)
table_case("buckets_by_keys", BUCKET, clipped, le(J, I), lambda i, j: j <= i, False)
MIXED = call("mod", add(mul(I, number(5)), mul(J, J)), number(13))
table_case(
    "pairs", MIXED, lambda i, j, t: torch.remainder(5 * i + j * j, 13), le(J, I),
    lambda i, j: j <= i, True,
)  # fmt: skip

# Rows of a table by difference: dot(q[i], r[i - j]), a fold over the width for each pair.
RELATIVE = Array("r", (h, LAG, d), "real", "input")
DRELATIVE = Array("dr", (h, LAG, d), "real", "output")
w = Index("d", D, 3)


def relative_score(place: Expr) -> Callable[[Expr, Head], Expr]:
    def score(dot: Expr, head: Head) -> Expr:
        row = read(Q, [position(b), head.query, I, position(w)])
        looked_up = read(RELATIVE, [head.query, place, position(w)])
        return add(scaled(dot, head), fold("sum", (w,), mul(row, looked_up)))

    return score


def relative_case(
    name: str, place: Expr, places: Any, visible: Expr, seen: Any, held: bool
) -> None:
    keep(
        Gradient(
            name,
            visible,
            relative_score(place),
            constant,
            lambda t, n, i, j: (
                products(t, n)
                + torch.einsum(
                    "bhid,hijd->bhij",
                    t["q"].detach(),
                    t["r"][:, places(i, j, t).clamp(0, LAGS - 1)],
                ),
                seen(i, j),
            ),
            inputs=(RELATIVE,),
            made={"r": lambda random, s: random(s["heads"], LAGS, s["width"])},
            asked={"r": "dr"},
            outputs=(DRELATIVE,),
            scatters=lambda head: (
                Scatter(parts(head, d), place, head.named("ds", i, j), d, head.at(Q)),
            ),
            held=held,
        )
    )


relative_case("relative", DIFFERENCE, difference, NARROW, narrow, True)
relative_case("relative_by_keys", DIFFERENCE, difference, NARROW, narrow, False)
relative_case("relative_buckets", BUCKET, clipped, le(J, I), lambda i, j: j <= i, True)

# A bias for each pair.
BIAS = Array("bias", (b, h, i, j), "real", "input")
DBIAS = Array("dbias", (b, h, i, j), "real", "output")
keep(
    Gradient(
        "bias",
        le(J, I),
        lambda dot, head: add(scaled(dot, head), head.at(BIAS)),
        constant,
        lambda t, n, i, j: (products(t, n) + t["bias"], j <= i),
        inputs=(BIAS,),
        made={"bias": lambda random, s: random(s["batch"], s["heads"], s["rows"], s["keys"])},
        asked={"bias": "dbias"},
        outputs=(DBIAS,),
        pairs=lambda head: (PairStore(DBIAS, head.named("ds", i, j)),),
    )
)
