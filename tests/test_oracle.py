"""The NumPy oracle: its numbers, its folds, its errors, and operators built by hand."""

from __future__ import annotations

from textwrap import dedent

import numpy as np
import pytest
from attnc.backends.numpy_oracle import evaluate
from attnc.backends.numpy_oracle import fold as folds
from attnc.backends.numpy_oracle import grid as g
from attnc.backends.numpy_oracle.grid import Grid
from catalogue_calls import CALLS, Call, read, tensors
from catalogue_formulas import FORMULAS

from attnc import philox
from attnc.errors import ArgumentMissing, ArgumentUnknown, DtypeError, ShapeError, ValueRangeError
from attnc.expressions.index import Axis, Index
from attnc.front import load_source, read_spec
from attnc.spec import Spec

A, B = Index("a", Axis("a"), 1), Index("b", Axis("b"), 2)
SIZES = {A: 3, B: 4}
size = SIZES.__getitem__


def text(source: str) -> Spec:
    return read_spec(load_source(dedent(source)))


def spec_axis(spec: Spec, name: str) -> str:
    """The first axis of an input."""
    return next(given.array.axes[0].name for given in spec.inputs if given.name == name)


# --- Philox --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "counter, key, words",
    [  # the known answers of Random123 for philox4x32-10
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter, key, words):
    assert tuple(int(word) for word in philox.philox(counter, key)) == words


def test_uniform_promises():
    words = philox.philox((2, 7, 1, 3), (43, 0))  # j = 9: counter 9 // 4, word 9 % 4
    got = philox.uniform(seed=40, ordinal=3, b=3, h=1, i=7, j=9)
    assert got == (int(words[1]) >> 8) * 2.0**-24
    many = philox.uniform(1, 0, 0, 0, np.arange(200)[:, None], np.arange(-100, 100))
    assert many.shape == (200, 200) and many.min() >= 0 and many.max() < 1
    assert abs(many.mean() - 0.5) < 0.01
    assert np.array_equal(many.astype(np.float32).astype(np.float64), many)


# --- Numbers with unbounded exponents ------------------------------------------------------------


def real(values):
    return g.real((A,), np.asarray(values, dtype=np.float64))


def test_no_stabilizer_is_needed():
    x = real([1000.0, -1000.0, 0.0])
    e = g.exp(x)
    sigmoid = g.divide(e, g.add(e, g.constant(1.0)))
    assert g.settle(sigmoid).tolist() == [1.0, 0.0, 0.5]
    assert g.settle(g.log(e)).tolist() == [1000.0, -1000.0, 0.0]
    square = g.multiply(e, e)
    assert g.settle(g.log(square)).tolist() == [2000.0, -2000.0, 0.0]
    assert g.settle(g.divide(square, square)).tolist() == [1.0, 1.0, 1.0]
    assert g.settle(g.log(g.sqrt(e))).tolist() == [500.0, -500.0, 0.0]


def test_mantissas_do_not_leave_float64():
    x = real([1e200, -1e-200, 3.0])
    cube = g.multiply(g.multiply(x, x), x)
    back = g.divide(g.divide(cube, x), x)
    np.testing.assert_allclose(g.settle(back), [1e200, -1e-200, 3.0], rtol=1e-12)
    with np.errstate(all="ignore"):
        third = g.power(g.power(x, g.constant(15)), g.divide(g.constant(1.0), g.constant(15.0)))
    np.testing.assert_allclose(g.settle(third)[[0, 2]], [1e200, 3.0], rtol=1e-11)


def test_what_is_not_finite_stays():
    x = real([np.inf, np.nan, 0.0])
    e = g.exp(real([1000.0, 1000.0, 1000.0]))
    assert g.settle(g.add(x, e))[0] == np.inf
    assert np.isnan(g.settle(g.multiply(x, e))[1])
    assert g.settle(g.divide(g.multiply(x, e), e))[2] == 0
    assert g.settle(g.exp(real([-np.inf, np.inf, np.nan])))[:2].tolist() == [0, np.inf]
    with np.errstate(all="ignore"):
        assert np.isnan(g.settle(g.divide(real([0.0] * 3), real([0.0] * 3)))).all()


def test_comparisons_are_exact():
    a, b = g.exp(real([1000.0, -2000.0, 5.0])), g.exp(real([999.0, -1000.0, 5.0]))
    assert g.compare(np.greater, a, b).mantissa.tolist() == [True, False, False]
    assert g.compare(np.equal, a, b).mantissa.tolist() == [False, False, True]
    assert g.compare(np.greater, b, g.constant(0.0)).mantissa.all()
    assert g.settle(g.log(g.larger(a, b))).tolist() == [1000.0, -1000.0, 5.0]
    assert np.isnan(g.settle(g.larger(real([np.nan] * 3), real([1.0] * 3)))).all()


# --- Folds and selections ------------------------------------------------------------------------


def over_b(values):
    return Grid((B,), np.asarray(values))


def test_folds_over_nothing():
    nothing = over_b([False] * 4)
    x = over_b([1.0, 2.0, 3.0, 4.0])
    found = {m: float(folds.fold(m, nothing, [x], (B,), size).mantissa) for m in folds.FOLDS}
    assert found == {"sum": 0.0, "prod": 1.0, "max": -np.inf, "min": np.inf}


def test_masked_points_are_selected_away():
    mask = over_b([True, False, True, False])
    x = over_b([1.0, np.nan, 3.0, np.inf])
    y = Grid((A, B), np.ones((3, 4)))
    assert float(folds.fold("sum", mask, [x], (B,), size).mantissa) == 4.0
    assert folds.fold("sum", mask, [x, y], (B,), size).mantissa.tolist() == [4.0] * 3
    assert float(folds.fold("prod", mask, [x], (B,), size).mantissa) == 3.0
    assert float(folds.fold("max", mask, [x], (B,), size).mantissa) == 3.0
    assert float(folds.fold("min", mask, [x], (B,), size).mantissa) == 1.0


def test_sums_of_exponentials():
    e = g.exp(g.real((B,), np.array([1000.0, 999.0, -1000.0, 5.0])))
    true = over_b([True] * 4)
    log = g.settle(g.log(folds.fold("sum", true, [e], (B,), size)))
    assert abs(log - (1000 + np.log(1 + np.exp(-1)))) < 1e-12
    scaled = folds.fold("sum", true, [e, g.real((B,), np.full(4, 2.0))], (B,), size)
    assert abs(g.settle(g.log(scaled)) - log - np.log(2)) < 1e-12
    assert g.settle(g.log(folds.fold("max", true, [e], (B,), size))) == 1000
    assert g.settle(g.log(folds.fold("min", true, [e], (B,), size))) == -1000
    assert g.settle(g.log(folds.fold("prod", true, [e], (B,), size))) == 1004


def test_a_fold_over_an_index_that_nothing_depends_on():
    one = g.constant(1)
    assert int(folds.fold("sum", folds.TRUE, [one], (B,), size).mantissa) == 4
    whole = folds.fold("sum", folds.TRUE, [g.constant(2.0), g.constant(3.0)], (A, B), size)
    assert float(whole.mantissa) == 72.0


def test_topk_rank_and_argmax_order_equals_by_index():
    key = over_b([2.0, 5.0, 5.0, 5.0])
    some = over_b([True, True, False, True])
    two, five = g.constant(2), g.constant(5)
    top = folds.topk(folds.TRUE, key, two, (B,), size)
    assert top.mantissa.tolist() == [False, True, True, False]
    top = folds.topk(some, key, two, (B,), size)
    assert top.mantissa.tolist() == [False, True, False, True]
    assert folds.topk(some, key, five, (B,), size).mantissa.tolist() == some.mantissa.tolist()
    assert folds.rank(folds.TRUE, key, (B,), size).mantissa.tolist() == [0, 1, 2, 3]
    assert folds.rank(some, key, (B,), size).mantissa.tolist() == [0, 1, 2, 2]
    row, found = folds.extreme_row(some, key, B, size, True)
    assert int(row.mantissa) == 1 and bool(found.mantissa)
    assert not folds.extreme_row(over_b([False] * 4), key, B, size, True)[1].mantissa


# --- The catalogue -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CALLS)
def test_every_operator_evaluates(name):
    call, spec = CALLS[name], read(name)
    given = tensors(spec, call)
    emits = tuple(each.array.name for each in (*spec.root.emits, *spec.root.offered))
    found = evaluate(spec, given, call.numbers, emit=emits, **call.keywords)
    assert set(found) == {"out", *emits}
    assert np.isfinite(found["out"]).all()
    assert np.abs(found["out"]).max() > 0


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("seed", [0, 1])
def test_formulas_of_the_catalogue(name, seed):
    call, spec = CALLS[name], read(name)
    given = tensors(spec, call, seed)
    truth = FORMULAS[name](given, {"alpha": 1.0, "keep": 0.6, **call.all_numbers})
    found = evaluate(spec, given, call.numbers, **call.keywords)["out"]
    assert found.shape == truth.shape
    assert np.abs(found - truth).max() <= 1e-12 * np.abs(truth).max()


@pytest.mark.parametrize("name", ["causal_softmax", "sink_window", "gated_delta", "memory_slots"])
def test_offsets_continue_a_sequence(name):
    """The last rows alone, at their offset, are the last rows of the whole."""
    call, spec = CALLS[name], read(name)
    given = tensors(spec, call)
    whole = evaluate(spec, given, call.numbers)["out"]
    last = dict(given)
    extras = {}
    if name == "gated_delta":
        first = {n: x[:, :, :4] for n, x in given.items()}
        extras["states"] = {"S": evaluate(spec, first, emit=("S",))["S"]}
        last = {n: x[:, :, 4:] for n, x in given.items()}
    else:
        last["q"] = given["q"][:, :, 4:]
    found = evaluate(spec, last, call.numbers, offset=4, **extras)["out"]
    assert np.abs(found - whole[:, :, 4:]).max() < 1e-13


def test_offsets_and_key_lengths_for_each_batch_entry():
    spec = read("causal_softmax")
    given = tensors(spec, CALLS["causal_softmax"])
    both = evaluate(
        spec,
        given,
        offset=[1, -2],
        key_offset=np.array([0, 1]),
        key_length=[5, 3],
        emit=("weight",),
    )
    for entry, (offset, first, length) in enumerate([(1, 0, 5), (-2, 1, 3)]):
        one = {n: x[entry : entry + 1] for n, x in given.items()}
        one |= {n: one[n][:, :, :length] for n in ("k", "v")}
        alone = evaluate(spec, one, offset=offset, key_offset=first, emit=("weight",))
        assert np.array_equal(both["out"][entry], alone["out"][0])
        assert np.array_equal(both["weight"][entry, ..., :length], alone["weight"][0])
        assert not both["weight"][entry, ..., length:].any()


def test_a_key_of_score_minus_infinity_is_masked():
    spec = text(
        """
        attention f(q, k, v):
            input bias: real[j]
            mask: j <= i
            score: dot(q[i], k[j]) * scale + bias[j]
            normalize: softmax(j: score)
        """
    )
    given = tensors(read("causal_softmax"), Call())
    bias = np.zeros(7)
    bias[:3] = -np.inf
    found = evaluate(spec, {**given, "bias": bias}, emit=("lse",))
    assert not found["out"][:, :, :3].any() and (found["lse"][:, :, :3] == -np.inf).all()
    rest = {n: x[:, :, 3:] for n, x in given.items()}
    alone = evaluate(spec, {**rest, "bias": bias[3:]})["out"]
    assert np.abs(found["out"][:, :, 3:] - alone).max() < 1e-15


def test_reads_outside_are_errors_where_they_are_demanded():
    spec = text(
        """
        attention f(q, k, v):
            input doc: int[b, j], table: real[n]
            mask: j <= i and doc[j] >= 0
            score: dot(q[i], k[j]) * scale + table[doc[j]]
            normalize: softmax(j: score)
        """
    )
    given = tensors(read("causal_softmax"), Call())
    given["table"] = np.ones(3)
    given["doc"] = np.array([[0, 1, 2, -1, 2, -5, 0]] * 2)
    evaluate(spec, given)  # masked keys may hold anything
    given["doc"][1, 4] = 3
    with pytest.raises(ValueRangeError, match=r"`table`.*0 \.\. 3 on the axis `n`.*read at 3"):
        evaluate(spec, given)


def test_else_forgives_reads_of_its_own_expression_only():
    spec = text(
        """
        pipeline f(v) for i:
            input v: real[b, h, i, e]
            before[i] = v[i - 1] else 0
            read: before[i] + (v[i + 1] else 10)
        """
    )
    v = np.arange(4.0).reshape(1, 1, 4, 1)
    assert evaluate(spec, {"v": v})["out"].ravel().tolist() == [1, 2, 4, 12]


def test_integers_floor():
    spec = text(
        """
        pipeline f(v) for i:
            input v: real[b, h, i, e]
            read: v[i] * 0 + (i - 4) // 3 * 100 + (i - 4) % 3
        """
    )
    out = evaluate(spec, {"v": np.zeros((1, 1, 7, 1))})["out"].ravel()
    assert out.tolist() == [(i - 4) // 3 * 100 + (i - 4) % 3 for i in range(7)]


def test_softplus_keeps_its_digits_below_zero():
    """exp(x) itself where 1 + exp(x) is 1."""
    spec = text("pipeline plus(x) for i:\n    input x: real[b, i]\n    read: softplus(x[i])")
    x = np.array([[-800.0, -300.0, -50.0, -37.0, -5.0, 0.0, 40.0, 700.0, -np.inf]])
    found = evaluate(spec, {"x": x})["out"]
    assert np.allclose(found, np.log1p(np.exp(x)), rtol=1e-13, atol=0.0)


def test_random_is_philox_at_positions():
    spec = text(
        """
        attention f(q, k, v):
            normalize: where(random() < 0.5, 0, 1)
        """
    )
    given = {n: np.zeros(s) for n, s in (("q", (2, 3, 4, 1)), ("k", (2, 3, 6, 1)))}
    given["v"] = np.broadcast_to(np.eye(6), (2, 3, 6, 6))
    out = evaluate(spec, given, seed=11, offset=5)["out"]
    b, h, i, j = np.ogrid[:2, :3, 5:9, :6]
    assert np.array_equal(out, philox.uniform(11, 0, b, h, i, j) >= 0.5)


def test_wrong_calls_say_what_is_wrong():
    spec = read("causal_softmax")
    given = tensors(spec, Call())
    with pytest.raises(ArgumentMissing, match="`v`"):
        evaluate(spec, {"q": given["q"], "k": given["k"]})
    with pytest.raises(ArgumentUnknown, match="w"):
        evaluate(spec, {**given, "w": given["q"]})
    with pytest.raises(ArgumentUnknown, match="lsf"):
        evaluate(spec, given, emit=("lsf",))
    with pytest.raises(ShapeError, match="one length of `j`"):
        evaluate(spec, {**given, "v": given["v"][:, :, 1:]})
    with pytest.raises(ShapeError, match="divisor"):
        evaluate(spec, {**given, "k": given["k"][:, [0, 1, 1]], "v": given["v"][:, [0, 1, 1]]})
    with pytest.raises(DtypeError, match="real"):
        evaluate(spec, {**given, "v": given["v"].astype(complex)})


def test_large_batches_are_evaluated_entry_by_entry(monkeypatch):
    spec = read("sparsemax")
    given = tensors(spec, Call())
    whole = evaluate(spec, given, emit=("lse",))
    monkeypatch.setattr("attnc.backends.numpy_oracle.LARGEST", 1)
    parts = evaluate(spec, given, emit=("lse",))
    assert all(np.abs(parts[n] - whole[n]).max() < 1e-14 for n in whole)


@pytest.mark.parametrize("name", CALLS)
def test_an_empty_batch_is_ordinary(name):
    call, spec = CALLS[name], read(name)
    given = {n: x[:0] if spec_axis(spec, n) == "b" else x for n, x in tensors(spec, call).items()}
    found = evaluate(spec, given, call.numbers, **call.keywords)["out"]
    assert found.shape[0] == 0
