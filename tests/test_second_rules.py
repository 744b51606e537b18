"""What second order needs beyond the rules of a backward: operators of a few lines, one for each
rule, interpreted against the eager form's float64 autograd; without the rule they are wrong or
refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from derivative_cases import error, run
from test_closure import Truth

import attnc
from attnc.cases import Shape, draw_case
from attnc.errors import AttncError
from attnc.expressions.tree import Expr
from attnc.front import load_source, read_spec
from attnc.passes import derivative_folds, loops, row_values
from attnc.passes.backward import lower_second
from attnc.passes.factors import Factors, total
from attnc.passes.simplify import make

# A sum over keys times a product with a matrix: no tile holds two widths.
MATRIX = """\
attention gated(x) for i over u:
    input x: real[b, i, c], taps: real[u, c], W: real[c, a in c]
    read: sum(u: taps[u] * (x[i - u] else 0)) * (W @ x[i])
"""
# Vectors of pairs, in choices within sums.
PAIRS = """\
attention layers(v) for i over l:
    input v: real[b, l, i, d], w: real[d]
    score: dot(w, rmsnorm(d: v[l, i]))
    normalize: softmax(l: score)
    read: sum(l: weight * v[l, i])
"""
# Rows and keys that all of a batch shares.
SHARED = """\
attention shared(q, k, v):
    input q: real[h, i, d], k: real[hk, j, d]
    mask: j < i
    score: dot(q[i], k[j]) * scale
    normalize: softmax(j: score)
"""
# Numbers of rows that all heads share, in a function of each head.
OF_HEADS = """\
attention of_heads(q, k, v):
    input at: real[b, i], x: real[f], w: real[h, f]
    score: dot(q[i], k[j]) * scale + sum(f: w * relu(x * (at[i] - j)))
    normalize: softmax(j: score)
"""
# Rows and columns that nothing is seen of.
HIDDEN = """\
attention columns(q, k, v):
    mask: i < 3 and j < 4
    score: dot(q[i], k[j]) * scale
    normalize: sinkhorn(i, j: score, 1)
"""
# A number of a key that all heads share, as a factor of what a key head has.
GATES = """\
attention gates(q, k, v):
    input gate: real[j]
    mask: j <= i
    score: dot(q[i], gate[j] * k[j]) * scale
    normalize: softmax(j: score)
"""
SHAPE = Shape(5, 6, 3, 2, 2, 1, 2)


def errors(text: str) -> float:
    """The greatest error of a second derivative."""
    spec = read_spec(load_source(text))
    schedule = lower_second(spec)
    case = draw_case(spec, SHAPE, 1)
    given, wanted = Truth(spec, case).of("second")
    with np.errstate(all="ignore"):
        found = run(spec, schedule, {**case.tensors, **given}, case)
    made = {argument.name.rstrip("_"): argument.name for argument in schedule.signature.outputs}
    return max(float(error(found[made[name]], value)) for name, value in wanted.items())


TEXTS = {"matrix": MATRIX, "pairs": PAIRS, "shared": SHARED, "heads": OF_HEADS, "hidden": HIDDEN}
TEXTS |= {"gates": GATES}


@pytest.mark.parametrize("name", TEXTS)
def test_second_order(name: str) -> None:
    assert errors(TEXTS[name]) < 1e-9


def as_powers(addends: list[Expr]) -> Factors:
    return Factors((make("exp", total(addends)),))


# (the operator, where the rule stands, its name there, what stands for it)
MUTANTS: dict[str, tuple[str, Any, str, Any]] = {
    "rows that a sum binds": (HIDDEN, row_values.RowValues, "_alien", lambda *given: {}),
    "powers of logarithms": (HIDDEN, derivative_folds, "_powers", as_powers),
    "untested quotients": (HIDDEN, loops, "_divides", lambda term: False),
}


def survives(mutant: tuple[str, Any, str, Any], monkeypatch: pytest.MonkeyPatch) -> bool:
    text, owner, name, other = mutant
    monkeypatch.setattr(owner, name, other)
    try:
        return errors(text) < 1e-3
    except AttncError:
        return False


@pytest.mark.torture
@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_die(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not survives(MUTANTS[name], monkeypatch)


def test_keys_that_an_empty_batch_shares() -> None:
    """A kernel that walks around a batch is entered where there is none."""
    op = attnc.compile(SHARED, backend="cpu")
    q, k = (torch.ones(2, 5, 3, dtype=torch.float64, requires_grad=True) for _ in "qk")
    first = torch.autograd.grad(op(q, k, torch.ones(0, 2, 5, 3, dtype=q.dtype)).sum(), (q, k))
    assert not any(one.any() for one in first)
