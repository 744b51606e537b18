"""Gradients of gradients that no kernel makes: torch's, of the dense formula, and said to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_autograd import draw
from test_module import alone as run_alone

import attnc
import attnc.family
from attnc.compiler import emit_module
from attnc.errors import UnsupportedError, ValueRangeError
from attnc.front import load_source, read_spec

# The first row sees nothing.
TABLE = """\
attention by_table(q, k, v):
    static reach: int = 4
    axis p < reach
    input table: real[h, p] = 0
    mask: j < i
    score: dot(q[i], k[j]) * scale + table[min(i - j, reach - 1)]
    normalize: softmax(j: score)
"""
STAGED = """\
pipeline in_stages(q, k, v) for i:
    attention summary for i over j:
        score: dot(q[i], k[j]) * scale
        normalize: softmax(j: score)
    attention again for i over j:
        mask: j <= i
        score: dot(summary[i], v[j])
        normalize: softmax(j: score)
    read: again[i]
"""
FEATURE = "a hypothetical feature"


@pytest.fixture(autouse=True)
def no_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no second order were derived."""

    def refuse(*given: Any) -> Any:
        raise UnsupportedError(FEATURE, "kernel", ())

    monkeypatch.setattr(attnc.family, "lower_second", refuse)


def inputs() -> tuple[torch.Tensor, ...]:
    return draw(2, 4, 5, 3), draw(2, 2, 5, 3, seed=1), draw(2, 2, 5, 3, seed=2)


def slopes(op: Any, *tensors: torch.Tensor, **given: Any) -> tuple[torch.Tensor, ...]:
    """The gradients of a function of gradients, by the inputs and by what the result met."""
    leaves = [x.detach().requires_grad_() for x in tensors]
    out = op(*leaves, **given)
    met = torch.ones_like(out).requires_grad_()
    whole = (out.sin() * met).sum()
    first = torch.autograd.grad(whole, leaves, create_graph=True)
    total = torch.stack([(one * one.cos()).sum() for one in first]).sum()
    return torch.autograd.grad(total, [*leaves, met])


@pytest.mark.parametrize("text", (TABLE, STAGED), ids=("operator", "stage"))
def test_torch_differentiates_what_kernels_do_not(text: str) -> None:
    given = {"table": draw(4, 4)} if text is TABLE else {}
    shifts = {"offset": torch.tensor([0, 1]), "key_length": 4}
    ours, truth = (
        slopes(attnc.compile(text, backend=backend), *inputs(), **given, **shifts)
        for backend in ("cpu", "eager")
    )
    for one, other in zip(ours, truth, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_transforms_and_further_orders() -> None:
    ours, truth = (attnc.compile(TABLE, backend=backend) for backend in ("cpu", "eager"))
    q, k, v = inputs()

    def wave(op: Any) -> Any:
        return lambda v: op(q, k, v.sin()).cos().sum()

    def third(op: Any) -> torch.Tensor:
        inner = torch.func.grad(lambda q: op(q, k, v).cos().sum())
        middle = torch.func.grad(lambda q: inner(q).sin().sum())
        return torch.func.grad(lambda q: middle(q).square().sum())(q)

    for ask in (lambda op: torch.func.jacrev(torch.func.grad(wave(op)))(v), third):
        torch.testing.assert_close(ask(ours), ask(truth), rtol=1e-9, atol=1e-11)


def test_it_is_said_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    op = attnc.compile(TABLE, backend="cpu")
    said = next(line for line in op.explain().splitlines() if "second order" in line)
    assert "by torch, of all pairs" in said and "rows times keys" in said and FEATURE in said
    monkeypatch.setenv("ATTNC_DENSE_LIMIT", str(2 * 4 * 5 * 5 * 8 - 1))
    with pytest.raises(ValueRangeError, match=r"second order.*2 x 4 x 5 x 5"):
        slopes(op, *inputs())


SECOND = """
import torch

torch.manual_seed(0)
q, k, v = (torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))


def second(op):
    (first,) = torch.autograd.grad(op(q, k, v).sin().sum(), q, create_graph=True)
    return torch.autograd.grad(first.square().sum(), (q, k, v))


same = [torch.allclose(a, b, atol=1e-10) for a, b in zip(second(in_stages), second(reference))]
assert all(same) and "attnc" not in __import__("sys").modules
"""


def test_a_written_module_has_it(tmp_path: Path) -> None:
    path = tmp_path / "in_stages.py"
    path.write_text(emit_module(read_spec(load_source(STAGED))) + SECOND)
    done = run_alone(path, tmp_path / "cache", "imported")
    assert done.returncode == 0, done.stderr[-2000:]
