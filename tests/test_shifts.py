"""Quotients of exponentials in recurrences are taken relative to the largest, others stay."""

from __future__ import annotations

import pytest
import torch

import attnc
from attnc.build import build
from attnc.expressions.tree import postorder
from attnc.front import read_spec
from attnc.passes.shifts import shifted
from attnc.passes.simplify import simplify
from attnc.source import Source

TEXT = """
attention f(q, k, v) for t:
    input p: real[h, m, d], w: real[h, m, e]
    state S: real[d, e] = 0
    update:
        S = S + outer(k[t], v[t])
    read: {}
"""
ONE = "sum(d: exp({}) * S)"
TWO = "(sum(d: exp(q[t]) * S) + sum(m: exp(dot(q[t], p[m])) * w[m]))"
BELOW = "(sum(d: exp(q[t])) + sum(m: exp(dot(q[t], p[m]))))"
OWN = "sum(d if d <= t: exp(q[t]) * S)"


@pytest.mark.parametrize(
    "read, moves",
    [
        (f"{TWO} / {BELOW}", True),
        (f"{ONE.format('q[t]')} / {BELOW}", True),
        (f"-2 * {TWO} * len(t) / {BELOW}", True),
        (f"{OWN} / sum(d: exp(q[t]))", False),  # what is above may be larger without its condition
        (f"{OWN} / sum(d if d <= t: exp(q[t]))", False),  # of nothing there is no largest
        (f"{OWN} / (sum(m: exp(p[m] @ q[t])) + sum(d if d <= t: exp(q[t])))", True),
        (f"{ONE.format('2 * q[t]')} / {BELOW}", False),
        (f"{ONE.format('q[t]')} / sum(d: exp(q[t]) * exp(k[t]))", False),
        (f"({ONE.format('q[t]')} + v[t]) / {BELOW}", False),
    ],
)
def test_which_are_shifted(read: str, moves: bool) -> None:
    graph = shifted(simplify(build(read_spec(Source(TEXT.format(read), "f.attn")))))
    nodes = [node for output in graph.outputs for node in postorder(output.expr)]
    assert any(node.op == "fold" and node.monoid == "max" for node in nodes) == moves


@pytest.mark.usefixtures("quick_build")
def test_sums_of_two_widths_do_not_overflow() -> None:
    op = attnc.compile(TEXT.format(f"{TWO} / {BELOW}"), backend="cpu")
    draw = torch.Generator().manual_seed(3)
    shapes = {
        "q": (1, 2, 5, 4),
        "k": (1, 2, 5, 4),
        "v": (1, 2, 5, 3),
        "p": (2, 3, 4),
        "w": (2, 3, 3),
    }
    tensors = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    tensors["q"] *= 100  # exp(200) is beyond float32
    truth = torch.from_numpy(op.reference(**tensors)).float()
    torch.testing.assert_close(op(**tensors), truth, rtol=1e-4, atol=1e-4)
