"""Sums of gradients that no loop carries as they stand: outer products, sums over parts of the keys
within a difference, vectors for pairs. Interpreted, against the eager form's float64 autograd; each
rule is needed."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from derivative_cases import EMPTY, error, gradients, spec_of, truth
from test_two_places import SQUARE

from attnc.cases import draw_case
from attnc.compiler import lower
from attnc.errors import AttncError, UnsupportedError
from attnc.expressions.tree import postorder
from attnc.family import lower_member
from attnc.front import load_source, read_spec
from attnc.passes import cell_sums, dense_sums, held_sums, outer_sums, row_values, unroll
from attnc.passes import gradients as walk
from attnc.passes.backward import lower_derivative
from attnc.passes.pair_sums import PairSums
from attnc.schedule import leaves
from attnc.schedule.maps import MapKernel
from attnc.spec import Spec

# Keys in parts, each with a softmax of its own, by a number that the part has.
PARTS = """
attention parts(q, k, v) for r < 3, i over j:
    input gain: real[h, r], gate: real[h, j]
    mask: j <= i and j % 3 == r
    score: dot(q[i], k[j]) * scale * gate[j]
    normalize: softmax(j: score)
    read: gain[r] * sum(j: weight * v[j])
"""
# What a block of rows shares about each key, and each row about a block of keys.
BLOCKS = """
attention blocks(q, k) for i over j:
    axis r < (len(i) + 2) // 3
    axis c < (len(j) + 3) // 4
    input held: real[hk, r, j, e], bias: real[h, i, c]
    mask: j <= i
    score: dot(q[i], k[j]) * scale + bias[i, j // 4]
    normalize: softmax(j: score)
    read: sum(j: weight * held[i // 3, j])
"""
# A bias of all heads at places that data say: two reads of a table, and slopes at kinks.
TENT = """
attention tent(q, k, v):
    axis x < 6
    input table: real[h, x], own: real[b, i], other: real[b, j]
    at[i, j] = 2.5 + tanh(own[i]) - tanh(other[j])
    low[i, j] = floor(at[i, j])
    part[i, j] = at[i, j] - low[i, j]
    near[i, j] = max(1 - abs(part), 0) * table[low[i, j]]
    score: dot(q[i], k[j]) * scale + near + max(1 - abs(part - 1), 0) * table[low[i, j] + 1]
    normalize: softmax(j: score)
"""
# A convolution times a linear map of the row: what a tap sends to a row is a vector of both.
GATED = """
attention gated_taps(x) for i over u:
    input x: real[b, i, c], taps: real[u, c], W: real[c, a in c]
    read: sum(u: taps[u] * (x[i - u] else 0)) * (W @ x[i])
"""
# Scores convolved over neighbouring rows and keys, of which each has a weight of the head.
TOKENS = """
attention tokens(q, k, v):
    axis a < 2
    axis c in -1 .. 2
    input w: real[h, a, c]
    raw[i, j] = where(j <= i, dot(q[i], k[j]) * scale, 0)
    mask: j <= i
    score: sum(a, c: w[a, c] * (raw[i - a, j - c] else 0))
    normalize: softmax(j: score)
"""
# Scores mixed over a written number of heads.
TALKING = """
attention talking(q, k, v):
    axis g < 2
    input w: real[h, g]
    raw[i, j] = dot(q[i], k[j]) * scale
    mask: j <= i
    score: sum(g: w[g] * raw[h = g, i, j])
    normalize: softmax(j: score)
"""
# Channels that see channels: the score and the norms sum over an axis of rows, as gradients do.
CHANNELS = """
attention channels(q, k, v) for t, x over y:
    input q: real[b, h, t, x], k: real[b, h, t, y], v: real[b, h, t, y], temp: real[h]
    p[x] = l2norm(t: q[t, x])
    r[y] = l2norm(t: k[t, y])
    score: sum(t: p[x] * r[y]) * temp
    normalize: sigmoid(score)
    read: sum(y: weight * v[t, y])
"""
# The same beside a score of each row: what a row gets is of all that have its sum.
CHANNEL_ROWS = """
attention channel_rows(q, k, v) for t, x over y:
    input q: real[b, h, t, x], k: real[b, h, t, y], v: real[b, h, t, y]
    score: q[t, x] * k[t, y] + sum(t: q[t, x] * k[t, y])
    normalize: softmax(y: score)
    read: sum(y: weight * v[t, y])
"""
# Numbers of a key that all heads share, as factors of what a key head has.
SHARED_GATES = """
attention shared_gates(q, k, v):
    input gate: real[j], own: real[b, j], columns: real[j, d]
    mask: j <= i
    score: dot(q[i], gate[j] * own[j] * columns[j] * k[j]) * scale
    normalize: softmax(j: score)
    read: sum(j: weight * (own[j] * v[j]))
"""
# The same in a norm of the keys and in a choice for each column of the values.
RECTIFIED = """
attention rectified(q, k, v):
    input gate: real[b, j], shift: real[j], level: real[e]
    mask: j <= i
    score: dot(q[i], l2norm(d: gate[j] * k[j] + 1, 0.1)) * scale
    normalize: softmax(j: score)
    read: sum(j: weight * relu(shift[j] + level + v[j]))
"""
WRITTEN = {"parts": PARTS, "blocks": BLOCKS, "tent": TENT, "gated_taps": GATED}
WRITTEN |= {"tokens": TOKENS, "talking": TALKING, "channels": CHANNELS}
WRITTEN |= {"channel_rows": CHANNEL_ROWS, "shared_gates": SHARED_GATES, "rectified": RECTIFIED}
NAMES = ("summary/additive_pooling", "sparse/lte_window", "axis/depth_attention", *WRITTEN)


def read(name: str) -> Spec:
    return read_spec(load_source(WRITTEN[name])) if name in WRITTEN else spec_of(name)


@pytest.mark.parametrize("sweep", ["two", "one"])
@pytest.mark.parametrize("name", NAMES)
def test_gradients(name: str, sweep: Any) -> None:
    """A matrix behind the keys, of key heads too; a token of each key and row; parts."""
    spec = read(name)
    derivative = lower_derivative(spec, (), sweep)
    for shape in (SQUARE, EMPTY):
        case = draw_case(spec, shape, 1)
        cotangents, wanted = truth(spec, case)
        found = gradients(spec, derivative, case, cotangents, splits=2)
        assert found.keys() == wanted.keys()
        for given, grad in found.items():
            assert error(grad, wanted[given]) < 1e-9, given


def refused(sums: PairSums, whole: Any, *more: Any) -> Any:
    raise UnsupportedError("no such rule", "kernel", ())


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("summary/additive_pooling", (walk, "is_outer_product", lambda *given: False)),
        ("summary/additive_pooling", (held_sums, "_outside", lambda roles, whole: frozenset())),
        ("axis/depth_attention", (dense_sums, "_distributed", refused)),
        ("gated_taps", (cell_sums, "_gathered", lambda *given: None)),
        ("blocks", (walk, "in_parts", refused)),
        ("tokens", (unroll, "_moves_products", lambda node: False)),
        ("talking", (unroll, "_moves_products", lambda node: False)),
    ],
)
def test_each_rule_is_needed(
    name: str, without: tuple[Any, str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*without)
    with pytest.raises(UnsupportedError):
        lower_derivative(read(name))


def stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums within differences are neither merged nor parted."""
    monkeypatch.setattr(outer_sums, "_swapped", lambda factor, roles: factor)
    monkeypatch.setattr(walk.Gradients, "_outer_sums", lambda self, whole: [])


def worst(name: str) -> float:
    """The greatest error of a gradient."""
    spec = read(name)
    case = draw_case(spec, SQUARE, 1)
    cotangents, wanted = truth(spec, case)
    found = gradients(spec, lower_derivative(spec), case, cotangents)
    return max(float(error(grad, wanted[given])) for given, grad in found.items())


@pytest.mark.parametrize("name", ["parts", "tent"])
def test_sums_within_differences_may_stay_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are sums of each pair then, of row values at other outer axes."""
    stay(monkeypatch)
    assert worst(name) < 1e-9


@pytest.mark.parametrize(
    "rule",
    [
        (walk.Gradients, "_of_first", lambda self, whole: whole),
        (row_values.RowValues, "_alien", lambda self, node: {}),
    ],
    ids=("the first of what is alike", "rows and heads of their own"),
)
def test_there_these_rules_are_needed(rule: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stay(monkeypatch)
    monkeypatch.setattr(*rule)
    with suppress(AttncError):
        assert worst("parts") > 1e-3


def test_maxima_of_other_rows_are_refused() -> None:
    """Which key has it is asked of scores that are the same but for roundings."""
    with pytest.raises(UnsupportedError, match="maximum"):
        lower_derivative(read("channel_rows"), ("max",))


@pytest.mark.parametrize("what", ["twice", "dropped"])
def test_mutants_are_found_out(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = dense_sums._distributed

    def wrong(sums: PairSums, whole: Any) -> Any:
        first, *rest = own(sums, whole)
        return [first] if what == "dropped" else [first, *rest, first]

    monkeypatch.setattr(dense_sums, "_distributed", wrong)
    spec = read("axis/depth_attention")
    case = draw_case(spec, SQUARE, 1)
    cotangents, wanted = truth(spec, case)
    found = gradients(spec, lower_derivative(spec), case, cotangents)
    assert error(found["v"], wanted["v"]) > 1e-6


# Latents that the batch shares see tokens and themselves: the score of a pair of them is shared.
SHARED = """
pipeline shared(x) for m:
    input x: real[b, j, c], latent: real[m, c], wq, wk: real[h, c, d], wv: real[h, c, e], g: real[c]
    ln[m] = layernorm(c: latent[m]) * g
    q[m] = ln[m] @ wq
    attention gather for m over j | l in m:
        score[j]: dot(q[m], x[j] @ wk) * scale
        score[l]: dot(q[m], ln[l] @ wk) * scale
        normalize: softmax(j | l: score)
        read: sum(j: weight * (x[j] @ wv)) + sum(l: weight * (ln[l] @ wv))
    read: latent[m] + sum(h, e: gather[m])
"""


def test_a_row_is_not_summed_over_the_batch_without_its_pairs() -> None:
    """Divided by a row's sum alone, cotangents are as large as its weights are small: more than
    float16 holds."""
    stages = lower(read_spec(load_source(SHARED)))
    assert stages.pipeline is not None
    (gather,) = stages.pipeline.kernels
    schedule = lower_member(gather.stages, "backward").schedules["cpu"]
    maps = [kernel for kernel in leaves(schedule.kernels) if isinstance(kernel, MapKernel)]
    folds = [
        node
        for kernel in maps
        for store in kernel.stores
        for node in postorder(store.expr)
        if node.op == "fold" and any(index.axis.name == "b" for index in node.bound)
    ]
    read = {n.array.name for fold in folds for n in postorder(fold) if n.op == "read"}
    assert folds and not any(name.startswith("saved_") for name in read)
