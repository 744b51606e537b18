"""stream: kernels derived from formulas, run tile by tile against the oracle.

No code is generated here. Each operator is one that a user might write; none is known to the pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from attnc.backends.numpy_oracle import evaluate as oracle
from schedule_interpreter import interpret
from spec_builder import (
    Operator,
    Row,
    X,
    causal,
    exp,
    lift,
    log,
    op,
    ratio,
    relu,
    softmax,
    sqrt,
    tanh,
    where,
)

from attnc.expressions import tree
from attnc.expressions.index import Axis
from attnc.expressions.tree import Array
from attnc.front import load_source, read_spec
from attnc.passes import lower
from attnc.passes.exponents import scaled
from attnc.schedule.streams import StreamKernel
from attnc.spec import Definition, KeySource, Spec

Tensors = dict[str, np.ndarray]


def tensors(
    b: int = 2, h: int = 4, hk: int = 2, i: int = 7, j: int = 11, d: int = 3, e: int = 5,
    seed: int = 0, scale: float = 1.0,
) -> Tensors:  # fmt: skip
    rng = np.random.default_rng(seed)
    return {
        "q": rng.standard_normal((b, h, i, d)) * scale,
        "k": rng.standard_normal((b, hk, j, d)) * scale,
        "v": rng.standard_normal((b, hk, j, e)),
    }


def check(
    spec: Spec,
    given: Tensors,
    emit: tuple[str, ...] = (),
    tolerance: float = 1e-11,
    offset: int = 0,
    **numbers: float,
) -> None:
    """The interpreted schedule is what the oracle says, for several tile shapes."""
    wanted = oracle(spec, given, numbers, offset=offset, emit=emit)
    schedule = lower(spec, emit)
    rows = spec.root.rows[-1].axis
    for tiles in ((1, 1), (5, 3), (64, 64)):
        found = interpret(schedule, given, params=numbers, tiles=tiles, starts={rows: offset})
        names = [argument.name for argument in schedule.signature.outputs]
        for name, key in zip(names, ("out", *emit), strict=True):
            np.testing.assert_allclose(
                found[name], wanted[key], rtol=tolerance, atol=tolerance, err_msg=f"{name} {tiles}"
            )


def attention(**clauses: Callable[..., object]) -> Callable[[], Spec]:
    return lambda: Operator().attention(mask=lambda i, j: op("le", j, i), **clauses)


def _sum_of(row: Row, f: Callable[..., object]) -> object:
    return row.total(f)


NORMALIZERS: dict[str, Callable[[Row, object], object]] = {
    "softmax": softmax,
    "stabilised by hand": lambda r, j: (
        exp(r.score(j) - r.total(r.score, "max"))
        / r.total(lambda m: exp(r.score(m) - r.total(r.score, "max")))
    ),
    "by its lse": lambda r, j: exp(r.score(j) - log(r.total(lambda m: exp(r.score(m))))),
    "plus one": lambda r, j: exp(r.score(j)) / (1.0 + r.total(lambda m: exp(r.score(m)))),
    "clamped sum": lambda r, j: (
        exp(r.score(j)) / op("max", r.total(lambda m: exp(r.score(m))), 1e-6)
    ),
    "by sum": lambda r, j: ratio(exp(r.score(j)), r.total(lambda m: exp(r.score(m)))),
    "sigmoid": lambda r, j: 1.0 / (1.0 + exp(-r.score(j))),
    "relu": lambda r, j: relu(r.score(j)),
    "relu squared by count": lambda r, j: relu(r.score(j)) ** 2 / r.total(lambda m: 1.0),
    "relu by sum": lambda r, j: ratio(relu(r.score(j)), r.total(lambda m: relu(r.score(m)))),
    "softplus": lambda r, j: log(1.0 + exp(r.score(j))),
    "softplus by sum": lambda r, j: (
        log(1.0 + exp(r.score(j))) / r.total(lambda m: log(1.0 + exp(r.score(m))))
    ),
    "polynomial": lambda r, j: (1.0 + r.score(j)) ** 2,
    "plain": lambda r, j: r.score(j),
    "plain exponentials": lambda r, j: exp(r.score(j)),
    "uniform": lambda r, j: 1.0 / r.total(lambda m: 1.0),
    "temperature in the row": lambda r, j: (
        exp(r.score(j) / (1.0 + r.total(lambda m: 1.0)))
        / r.total(lambda m: exp(r.score(m) / (1.0 + r.total(lambda n: 1.0))))
    ),
    "mixed with uniform": lambda r, j: 0.9 * softmax(r, j) + 0.1 / r.total(lambda m: 1.0),
    "l2 of exponentials": lambda r, j: (
        exp(r.score(j)) / sqrt(r.total(lambda m: exp(r.score(m)) * exp(r.score(m))))
    ),
    "thresholded softmax": lambda r, j: relu(r.total(lambda m: 1.0) * softmax(r, j) - 1.0),
    "renormalised threshold": lambda r, j: ratio(
        relu(softmax(r, j) - 0.05), r.total(lambda m: relu(softmax(r, m) - 0.05))
    ),
    "gaussian beside": lambda r, j: (
        softmax(r, j) * exp(-0.5 * (op("to_real", op("sub", r.i, j))) ** 2)
    ),
    "two temperatures": lambda r, j: (
        softmax(r, j) - 0.3 * exp(2.0 * r.score(j)) / r.total(lambda m: exp(2.0 * r.score(m)))
    ),
    "elu plus one": lambda r, j: (
        where(r.score(j) > 0.0, r.score(j) + 1.0, exp(r.score(j)))
        / r.total(lambda m: where(r.score(m) > 0.0, r.score(m) + 1.0, exp(r.score(m))))
    ),
}


@pytest.mark.parametrize("name", NORMALIZERS)
def test_normalizer(name: str) -> None:
    spec = Operator().attention(mask=lambda i, j: op("le", j, i), weight=NORMALIZERS[name])
    check(spec, tensors(), ("lse",))


@pytest.mark.parametrize("name", NORMALIZERS)
def test_rows_without_a_key(name: str) -> None:
    """A window that the first rows do not reach: zero output, lse -inf."""
    spec = Operator().attention(
        mask=lambda i, j: op("lt", j, op("sub", i, 2)), weight=NORMALIZERS[name]
    )
    check(spec, tensors(), ("lse",))


def test_a_norm_of_what_saw_nothing_is_zero() -> None:
    """Two references that are -inf, whose difference says nothing of the first row."""
    text = """
attention twice(q, k, v):
    mask: j < i
    score: dot(q[i], k[j]) * scale
    normalize: softmax(j: score) * softmax(j: score / 2)
    read: rmsnorm(e: sum(j: weight * v[j]))
"""
    check(read_spec(load_source(text)), tensors())


@pytest.mark.parametrize("scale", [1e-3, 30.0, 100.0])
@pytest.mark.parametrize(
    "name", ["softmax", "stabilised by hand", "by its lse", "plus one", "by sum",
             "two temperatures", "clamped sum"]
)  # fmt: skip
def test_large_scores(name: str, scale: float) -> None:
    """Scores up to 1e4 in size: nothing overflows that the formula cancels."""
    spec = Operator().attention(mask=lambda i, j: op("le", j, i), weight=NORMALIZERS[name])
    check(spec, tensors(scale=scale), ("lse",), tolerance=1e-8)


def test_the_logarithm_of_a_weight_too_small_to_hold() -> None:
    """Of the difference of two exponents, not of their power, which is 0."""
    text = """
attention logs(q, k, v):
    score: dot(q[i], k[j]) * scale
    a[i, j] = softmax(j: score)
    normalize: score
    read: sum(j: log(a) * v[j])
"""
    check(read_spec(load_source(text)), tensors(scale=100.0), tolerance=1e-9)


def test_causal_is_one_kernel() -> None:
    schedule = lower(causal(), ("lse",))
    (kernel,) = schedule.kernels
    assert isinstance(kernel, StreamKernel)
    assert [c.name for c in kernel.carried] == ["acc", "total"]
    assert [product.name for product in kernel.loops[0].products] == ["product"]
    assert kernel.loops[0].hidden is None


# --- Scores, masks, values ------------------------------------------------------------------------


def rotary(o: Operator, array: object, place: object, d: object) -> object:
    """rotary(d: x[place], place) at d."""
    half = op("floordiv", tree.length(o.d), 2)
    turn = op("neg", op("div", op("to_real", op("mod", d, half)), op("to_real", half)))
    angle = op("to_real", place) * op("pow", 100.0, turn)
    beside = where(
        op("lt", d, half),
        -o.at(array, place, op("add", d, half)),
        o.at(array, place, op("sub", d, half)),
    )
    return o.at(array, place, d) * op("cos", angle) + beside * op("sin", angle)


def test_rotations_are_prepared_once() -> None:
    """Rotated rows are written by maps, keys once for each key head; the product stays plain."""
    o = Operator()
    d = o.index(o.d)

    def score(i: object, j: object) -> object:
        return o.sum(d, rotary(o, o.q, i, d) * rotary(o, o.k, j, d)) * o.scale

    spec = o.attention(mask=lambda i, j: op("le", j, i), score=score)
    schedule = lower(spec)
    assert [type(kernel).__name__ for kernel in schedule.kernels] == [
        "MapKernel", "MapKernel", "StreamKernel",
    ]  # fmt: skip
    arrays = [str(workspace.array) for workspace in schedule.workspaces]
    assert arrays == ["Array(q_prepared[b, h, i, d'1])", "Array(k_prepared[b, hk, j, d'1])"]
    check(spec, tensors(d=4), ("lse",), offset=3)


def test_cosine_score() -> None:
    o = Operator()
    d, m, n = o.index(o.d), o.index(o.d), o.index(o.d)

    def score(i: object, j: object) -> object:
        q = o.at(o.q, i, d) / sqrt(o.sum(m, o.at(o.q, i, m) ** 2))
        k = o.at(o.k, j, d) / sqrt(o.sum(n, o.at(o.k, j, n) ** 2))
        return 10.0 * o.sum(d, q * k)

    spec = o.attention(mask=lambda i, j: op("le", j, i), score=score)
    (kernel,) = [k for k in lower(spec).kernels if isinstance(k, StreamKernel)]
    assert len(kernel.loops[0].products) == 1
    check(spec, tensors())


def test_a_score_is_formed_as_it_stands() -> None:
    """A temperature's power is a number within the score, as it is in a derivative, where the same
    pair is relative to what the forward has found; within a logarithm powers are aligned."""
    s, t, u = (tree.param(name, "real") for name in "stu")
    score = tree.call("add", tree.call("mul", s, tree.call("exp", t)), u)
    weight = tree.call("exp", score)
    assert scaled(weight).exponent.same(scaled(weight, aligning=False).exponent)
    both = tree.call("add", tree.call("exp", s), tree.call("exp", t))
    weight = tree.call("exp", tree.call("mul", tree.call("log", both), u))
    found = scaled(weight).exponent.expr()
    assert any(node.op == "max" for node in tree.postorder(found))


def test_additive_score_is_an_inner_loop() -> None:
    o = Operator()
    d = o.index(o.d)
    w = o.input("w", o.h, o.d)
    spec = o.attention(
        score=lambda i, j: o.sum(d, o.at(w, d) * tanh(o.at(o.q, i, d) + o.at(o.k, j, d)))
    )
    schedule = lower(spec)
    assert any("inner loop" in note for note in schedule.notes)
    rng = np.random.default_rng(1)
    check(spec, {**tensors(), "w": rng.standard_normal((4, 3))})


def test_terms_that_are_products_and_terms_that_are_not() -> None:
    """transformer-XL: (q + u) . k + (q + w) . r[i - j]."""
    o = Operator()
    d = o.index(o.d)
    lag = Axis("lag")
    u, w, r = o.input("u", o.h, o.d), o.input("w", o.h, o.d), o.input("r", o.h, lag, o.d)

    def score(i: object, j: object) -> object:
        content = o.sum(d, (o.at(o.q, i, d) + o.at(u, d)) * o.at(o.k, j, d))
        place = o.sum(d, (o.at(o.q, i, d) + o.at(w, d)) * o.at(r, op("sub", i, j), d))
        return (content + place) * o.scale

    spec = o.attention(mask=lambda i, j: op("le", j, i), score=score)
    rng = np.random.default_rng(1)
    extra = {
        "u": rng.standard_normal((4, 3)),
        "w": rng.standard_normal((4, 3)),
        "r": rng.standard_normal((4, 12, 3)),
    }
    check(spec, {**tensors(), **extra})
    (kernel,) = [k for k in lower(spec).kernels if isinstance(k, StreamKernel)]
    assert len(kernel.loops[0].products) == 1


def test_soft_cap_slopes_and_a_table() -> None:
    o = Operator()
    cap = o.param("cap", "real", 5.0)
    rel = Axis("rel", "range", low=tree.number(-20), length=tree.number(40))
    slope, table = o.input("slope", o.h), o.input("table", o.h, rel)

    def score(i: object, j: object) -> object:
        bent = cap * tanh(o.dot(i, j) * o.scale / cap)
        lag = op("sub", i, j)
        return bent - o.at(slope) * op("to_real", lag) + o.at(table, lag)

    spec = o.attention(mask=lambda i, j: op("le", j, i), score=score)
    rng = np.random.default_rng(1)
    extra = {"slope": rng.random(4), "table": rng.standard_normal((4, 40))}
    check(spec, {**tensors(), **extra}, ("lse",), cap=5.0)


def test_documents_lengths_and_a_bias_of_minus_infinity() -> None:
    """A key whose score is -inf counts as masked, in counts too."""
    o = Operator()
    doc, bias = o.input("doc", o.b, o.j, kind="int"), o.input("bias", o.b, o.j)
    spec = o.attention(
        mask=lambda i, j: op("le", j, i) & o.at(doc, i).same(o.at(doc, j)),
        score=lambda i, j: o.dot(i, j) * o.scale + o.at(bias, j),
        weight=lambda r, j: softmax(r, j) * r.total(lambda m: 1.0),
    )
    rng = np.random.default_rng(1)
    given = {
        **tensors(),
        "doc": np.repeat(np.arange(4), 3)[None, :11].repeat(2, 0),
        "bias": np.where(rng.random((2, 11)) < 0.3, -np.inf, rng.standard_normal((2, 11))),
    }
    check(spec, given, ("lse",))
    kernel = lower(spec).kernels[0]
    assert isinstance(kernel, StreamKernel)
    counts = [c for c in kernel.loops[0].contributions if c.term.op == "where"]
    assert len(counts) == 1, "a count does not vanish by itself where the score is -inf"
    assert kernel.loops[0].hidden is None
    names = [let.name for let in (*kernel.held_values, *kernel.loops[0].walked_values)]
    assert {"doc_i", "doc_j", "bias_j"} <= set(names)


def test_a_learned_sink() -> None:
    o = Operator()
    sink = o.input("sink", o.h)
    spec = o.attention(
        mask=lambda i, j: op("lt", j, op("sub", i, 1)),
        weight=lambda r, j: (
            exp(r.score(j)) / (r.total(lambda m: exp(r.score(m))) + exp(o.at(sink)))
        ),
    )
    for values in ([0.0, 3.0, -4.0, 1e4], [-np.inf, -1e4, 50.0, 2.0]):
        check(spec, {**tensors(), "sink": np.array(values)})


def test_values_that_are_prepared_gated_and_normed() -> None:
    o = Operator()
    gate, c = o.input("gate", o.b, o.h, o.i, o.e), o.input("c", o.b, o.j)
    other = o.index(o.e)

    def out(row: Row, e: object) -> object:
        return row.total(lambda m: row.weight(m) * o.at(o.v, m, e) * o.at(c, m))

    def read(row: Row, e: object) -> object:
        norm = sqrt(o.sum(other, out(row, other) ** 2) + 1e-6)
        return o.at(gate, row.i, e) * out(row, e) / norm

    spec = o.attention(mask=lambda i, j: op("le", j, i), read=read)
    rng = np.random.default_rng(1)
    extra = {"gate": rng.standard_normal((2, 4, 7, 5)), "c": rng.standard_normal((2, 11))}
    check(spec, {**tensors(), **extra})


def test_a_value_stream_inside_a_choice() -> None:
    """A weight edited by the pair, one that keeps some keys' values only, two value streams."""
    o = Operator()
    v2, image = o.input("v2", o.b, o.hk, o.j, o.e), o.input("image", o.b, o.j, kind="bool")

    def read(row: Row, e: object) -> object:
        def term(m: object) -> object:
            near = op("lt", op("sub", row.i, m), 3)
            edited = where(o.at(image, m), row.weight(m) * 0.5, row.weight(m))
            return edited * where(near, o.at(o.v, m, e), o.at(v2, m, e))

        return row.total(term)

    spec = o.attention(mask=lambda i, j: op("le", j, i), read=read)
    rng = np.random.default_rng(1)
    extra = {"v2": rng.standard_normal((2, 2, 11, 5)), "image": rng.random((2, 11)) < 0.5}
    check(spec, {**tensors(), **extra})


def test_weights_moved_between_keys() -> None:
    """Mass of some keys given to others, in proportion: sums over part of the keys."""
    o = Operator()
    image, sink = (o.input(name, o.b, o.j, kind="bool") for name in ("image", "sink"))

    def weight(row: Row, j: object) -> object:
        seen = row.total(lambda m: where(o.at(image, m), softmax(row, m), 0.0))
        lost = row.total(lambda m: where(o.at(sink, m), softmax(row, m), 0.0))
        a = softmax(row, j)
        moved = where(o.at(image, j), a + 0.4 * lost * a / seen, a)
        return where(seen < 0.2, a, where(o.at(sink, j), 0.6 * a, moved))

    spec = o.attention(mask=lambda i, j: op("le", j, i), weight=weight)
    rng = np.random.default_rng(1)
    extra = {"image": rng.random((2, 11)) < 0.5, "sink": np.arange(11)[None].repeat(2, 0) < 1}
    check(spec, {**tensors(), **extra})


def test_two_key_sources_one_normalizer() -> None:
    """Keys and memory slots in one softmax: two loops, one carry."""
    o = Operator()
    m_axis = Axis("m")
    mk, mv = o.input("mk", o.h, m_axis, o.d), o.input("mv", o.h, m_axis, o.e)
    i, j, m, e = o.index(o.i), o.index(o.j), o.index(m_axis), o.index(o.e)
    d = o.index(o.d)
    outer = (o.bi, o.hi)
    mask = o.define("mask", (*outer, i, j), op("le", j, i))
    near = o.define("score", (*outer, i, j), o.dot(i, j) * o.scale)
    far_score = o.sum(d, o.at(o.q, i, d) * o.at(mk, m, d)) * o.scale
    far = o.define("score_m", (*outer, i, m), far_score)

    def at(array: Array, *places: object) -> X:
        return X(tree.read(array, [tree.position(x) for x in (*outer, i, *places)]))

    a, c = o.index(o.j), o.index(m_axis)
    total = o.sum(a, exp(at(near, a)), at(mask, a)) + o.sum(c, exp(at(far, c)))
    result = o.sum(j, exp(at(near, j)) / total * o.at(o.v, j, e), at(mask, j)) + o.sum(
        m, exp(at(far, m)) / total * o.at(mv, m, e)
    )
    lse = Definition(Array("lse", (*outer, i), "real", "output"), lift(log(total)))
    sources = (KeySource((j,), mask, near, None), KeySource((m,), None, far, None))
    spec = o.spec("memory", result, (i,), (e,), sources, (lse,))
    rng = np.random.default_rng(1)
    extra = {"mk": rng.standard_normal((4, 5, 3)), "mv": rng.standard_normal((4, 5, 5))}
    (kernel,) = lower(spec, ("lse",)).kernels
    assert isinstance(kernel, StreamKernel)
    assert len(kernel.loops) == 2
    assert sorted(carried.name for carried in kernel.carried) == ["acc", "total"]
    check(spec, {**tensors(), **extra}, ("lse",))
    check(spec, {**tensors(scale=60.0), **extra}, ("lse",), tolerance=1e-8)


def test_a_hidden_score_is_no_reference() -> None:
    """Two sources share a loop, and each sees less than the loop: what neither sees may be larger
    than all that the row sees, by more than a power reaches."""
    text = """
attention both(q, k, v) for i over j | l in j:
    input place: int[j]
    mask[j]: place[j] == place[i] and j <= i
    mask[l]: place[l] == place[i] - 1 and l <= i
    score[j]: where(i == j, -100000, dot(q[i], k[j]))
    score[l]: where(i == l, -100000, dot(q[i], k[l]))
    normalize: softmax(j | l: score)
    read: sum(j: weight * v[j]) + sum(l: weight * v[l])
"""
    given = tensors(i=7, j=7) | {"place": np.array([1, 3, 3, 0, 1, 4, 2])}
    check(read_spec(load_source(text)), given)


def test_a_row_without_values() -> None:
    """A pointer: the expected position of the key, one number a row."""
    o = Operator()
    o_row = o.attention(
        mask=lambda i, j: op("le", j, i),
        read=lambda row, e: row.total(lambda m: row.weight(m) * op("to_real", m)),
    )
    array = Array("pointer", o_row.root.result.array.indices[:3], "real", "output")
    root = dataclasses.replace(o_row.root, result=Definition(array, o_row.root.result.expr))
    check(dataclasses.replace(o_row, root=root), tensors())
