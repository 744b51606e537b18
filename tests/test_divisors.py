"""Divisors that the numbers of a call make 0: refused before a kernel runs, as by the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import attnc
from attnc.divisors import divisor_requirements
from attnc.errors import ValueRangeError
from attnc.front import load_source, read_spec

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
BLOCKS = """\
attention blocks(q, k, v):
    param size: int
    mask: {mask}
    score: dot(q[i], k[j]) * scale
    normalize: softmax(j: score)
"""


def conditions(mask: str) -> list[str]:
    spec = read_spec(load_source(BLOCKS.format(mask=mask)))
    return [one.message for one in divisor_requirements(spec)]


def refuses(operator: Any, *tensors: torch.Tensor, **numbers: int) -> None:
    for call in (operator, operator.reference):
        with pytest.raises(ValueRangeError, match="divisor"):
            call(*tensors, **numbers)


def test_a_quotient_of_numbers_that_is_0() -> None:
    """7 groups on a map of 3 by 3: 3 // 7 is what the mask divides by."""
    operator = attnc.compile(EXAMPLES / "grid" / "grid_partition.attn", backend="cpu")
    refuses(operator, *torch.randn(3, 1, 1, 9, 4), height=3, width=3)


def test_a_number_that_is_0() -> None:
    operator = attnc.compile(BLOCKS.format(mask="i // size == j // size"), backend="cpu")
    refuses(operator, *torch.randn(3, 1, 1, 5, 4), size=0)


@pytest.mark.parametrize("backend", ["cpu", "eager"])
def test_a_table_without_entries(backend: str) -> None:
    text = """\
attention phased(q, k, v):
    input phase: real[h, p]
    score: dot(q[i], k[j]) * scale + phase[j % len(p)]
    normalize: softmax(j: score)
"""
    operator = attnc.compile(text, backend=backend)
    q, k, v = torch.randn(3, 1, 1, 5, 4).unbind()
    assert operator(q, k, v, phase=torch.randn(1, 2)).isfinite().all()
    assert operator(q, k[:, :, :0], v[:, :, :0], phase=torch.randn(1, 0)).eq(0).all()
    for call in (operator, operator.reference):
        with pytest.raises(ValueRangeError, match=r"a divisor len\(p\) other than 0"):
            call(q, k, v, phase=torch.randn(1, 0))


def test_what_is_not_tested() -> None:
    """Numbers that are not 0, what a formula guards itself, lengths of what the result is over."""
    assert len(conditions("i // size == j // size and i % size > 0")) == 1
    assert not conditions("i // 4 == j // 4")
    assert not conditions("where(size > 0, i % size, 0) == 0")
    assert not conditions("size > 0 and i % size == 0")
    path = EXAMPLES / "grid" / "axial.attn"
    assert not divisor_requirements(read_spec(load_source(path)))
