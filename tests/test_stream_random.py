"""Random normalizers: formulas that nobody wrote, streamed, and held to the oracle.

A weight is grown from functions of the score and from sums over the row, in the ways in which
normalizers are made: products, quotients by row sums, sums of weights, choices by the pair or by
the row, functions of another normalized weight (which take a second pass).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from attnc.backends.numpy_oracle import evaluate as oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from schedule_interpreter import interpret
from spec_builder import Operator, Row, X, exp, log, op, ratio, relu, sqrt, where
from test_stream import tensors

from attnc.passes import lower

Pair = Callable[[Row, object], X]  # a value of (row, key)
RowValue = Callable[[Row], X]

POSITIVE: dict[str, Pair] = {
    "exp(s)": lambda r, j: exp(r.score(j)),
    "exp(s / 2)": lambda r, j: exp(r.score(j) * 0.5),
    "exp(-s)": lambda r, j: exp(-r.score(j)),
    "1 + exp(s)": lambda r, j: 1.0 + exp(r.score(j)),
    "sigmoid(s)": lambda r, j: 1.0 / (1.0 + exp(-r.score(j))),
    "softplus(s)": lambda r, j: log(1.0 + exp(r.score(j))),
    "s ** 2 + 0.1": lambda r, j: r.score(j) ** 2 + 0.1,
    "1": lambda r, j: X(op("to_real", j).expr) * 0.0 + 1.0,
    "exp(s - max)": lambda r, j: exp(r.score(j) - r.total(r.score, "max")),
}


def total(pair: Pair) -> RowValue:
    return lambda r: r.total(lambda m: pair(r, m))


ROWS: dict[str, Callable[[RowValue], RowValue]] = {
    "sum": lambda a: a,
    "sum + 1": lambda a: lambda r: a(r) + 1.0,
    "max(sum, 0.1)": lambda a: lambda r: op("max", a(r), 0.1),
    "sqrt(1 + sum)": lambda a: lambda r: sqrt(1.0 + a(r)),
    "1 + log(1 + sum)": lambda a: lambda r: 1.0 + log(1.0 + a(r)),
}
EDITS: dict[str, Callable[[Pair, Pair], Pair]] = {
    "a + b": lambda a, b: lambda r, j: a(r, j) + b(r, j),
    "a - b / 2": lambda a, b: lambda r, j: a(r, j) - 0.5 * b(r, j),
    "a * b": lambda a, b: lambda r, j: a(r, j) * b(r, j),
    "where(near, a, b)": lambda a, b: (
        lambda r, j: where(op("lt", op("sub", r.i, j), 2), a(r, j), b(r, j))
    ),
    "where(row, a, b)": lambda a, b: lambda r, j: where(op("lt", r.i, 4), a(r, j), b(r, j)),
    "relu(a - 0.2) + b": lambda a, b: lambda r, j: relu(a(r, j) - 0.2) + b(r, j),
    "by_sum(a) * b": lambda a, b: lambda r, j: ratio(a(r, j), total(a)(r)) * b(r, j),
}


@st.composite
def normalized(draw: st.DrawFn) -> tuple[str, Pair]:
    """f(s) / row(sum g(s)), often with f = g."""
    above = draw(st.sampled_from(sorted(POSITIVE)))
    below = draw(st.sampled_from([above, above, *sorted(POSITIVE)]))
    row = draw(st.sampled_from(sorted(ROWS)))
    f, g = POSITIVE[above], ROWS[row](total(POSITIVE[below]))
    text = f"({above}) / {row} of {below}"
    return text, lambda r, j: f(r, j) / g(r)


@st.composite
def weights(draw: st.DrawFn) -> tuple[str, Pair]:
    text, pair = draw(normalized())
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(sorted(EDITS)))
        other_text, other = draw(normalized())
        text, pair = f"[{text}] {name} [{other_text}]", EDITS[name](pair, other)
    return text, pair


@given(weights(), st.integers(0, 3), st.sampled_from([0.1, 1.0, 3.0]))
@settings(max_examples=60, deadline=None)
def test_random_normalizers(drawn: tuple[str, Pair], gap: int, scale: float) -> None:
    """Also where the first rows see no key at all."""
    text, weight = drawn
    spec = Operator().attention(
        mask=lambda i, j: op("le", j, op("sub", i, gap)),
        weight=weight,  # type: ignore[arg-type]
    )
    arrays = tensors(b=1, h=2, hk=1, i=6, j=7, d=2, e=3, scale=scale)
    wanted = oracle(spec, arrays)["out"]
    found = interpret(lower(spec), arrays, tiles=(4, 3))["operator"]
    size = np.abs(wanted).max() + 1e-300
    np.testing.assert_allclose(found / size, wanted / size, rtol=1e-7, atol=1e-7, err_msg=text)
