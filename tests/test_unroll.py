"""Small folds that look things up, written out: the values stay, and which folds are."""

from __future__ import annotations

import numpy as np
import pytest
from graph_values import values_of

from attnc.build import build
from attnc.cases import Shape, draw_case
from attnc.expressions.tree import postorder
from attnc.front import load_source, read_spec
from attnc.graph import Graph
from attnc.passes.unroll import unroll

HEAD = """\
attention a(q, k, v):
    static width: int = 6
    axis c < width
    input table: real[h, c], at: real[b, h, j]
"""
LOOK = "(table[floor(at[j]) + a] else 0)"
MOVED = "(dot(q[i - a], k[j - a]) else 1)"


def counts(graph: Graph) -> list[int]:
    """How many indices each fold over a written axis binds."""
    folds = [node for node in postorder(*graph.roots) if node.op == "fold"]
    return [len(one.bound) for one in folds if one.bound[0].axis.length is not None]


@pytest.mark.parametrize(
    ("score", "kept"),
    [
        (f"sum(a < 2: (0.5 - a) * {LOOK})", []),
        (f"max(a < 3: {LOOK}) + min(a in -1 .. 1: {LOOK})", []),
        (f"prod(a < 4 if a != 2: 2 - {LOOK})", []),
        (f"sum(a < 2, e < 2: a * e * {LOOK})", []),
        (f"sum(a < 5: {LOOK})", [1]),
        ("sum(a < 2: (table[a + 1] * at[j]))", [1]),
        (f"sum(c: table[c] * sum(a < 2: {LOOK}))", [1]),
        (f"sum(a < 5: a * {MOVED})", []),
        (f"max(a < 5: a * {MOVED})", [1]),
        (f"sum(a < 33: a * {MOVED})", [1]),
        ("sum(a < 5: a * (dot(q[i], k[j - a]) else 1))", [1]),
        ("sum(a < 5: a * (dot(k[j + a], k[j - a]) else 1))", [1]),
    ],
)
def test_values_stay(score: str, kept: list[int]) -> None:
    text = f"{HEAD}    score: dot(q[i], k[j]) * scale + {score}\n    normalize: softmax(j: score)\n"
    spec = read_spec(load_source(text))
    before = build(spec)
    after = unroll(before)
    assert sorted(set(counts(after))) == kept
    assert (after == before) == (sorted(counts(before)) == sorted(counts(after)))
    case = draw_case(spec, Shape(3, 5, 4, 3, 2, 1, 1), 1)
    found, wanted = (values_of(spec, g, case.tensors, case.numbers)["out"] for g in (after, before))
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
