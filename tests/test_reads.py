"""A read outside its axis at a visible point is an error: found by check, or by the call."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import attnc
from attnc.errors import ShapeError, SpecError, ValueRangeError
from attnc.front import load_source, read_spec

BODY = """
    score: dot(q[i], k[j]) * scale + {term}
    normalize: softmax(j: score)
"""
BACKENDS = ("eager", "cpu")
Q = torch.randn(2, 2, 6, 8, generator=torch.Generator().manual_seed(1))


def spec(head: str, term: str) -> str:
    return "attention f(q, k, v):\n    " + head.replace("; ", "\n    ") + BODY.format(term=term)


def refused(call: Any, *said: str) -> None:
    with pytest.raises(ValueRangeError) as failure:
        call()
    for part in said:
        assert part in str(failure.value)


# --- check --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "term", "said"),
    [
        ("param size: int; mask: abs(i - j) <= size", "t[i - j]", "reads -1 at i = 0, j = 1"),
        ("param size: int; mask: i - j <= size", "t[i - j]", "reads -len(j) + 1 at"),
        ("mask: i // 4 <= j // 4", "t[i // 4 - j // 4]", "t[i // 4 - j // 4] reads -"),
        ("mask: true", "t[min(i, j) - 1]", "reads -1 at i = 0, j = 0"),
    ],
)
def test_check_refuses_what_indices_decide(head: str, term: str, said: str) -> None:
    with pytest.raises(SpecError, match="read-outside") as failure:
        attnc.compile(spec(f"input t: real[h, n]; {head}", term))
    assert said in str(failure.value)


def test_a_witness_is_visible() -> None:
    with pytest.raises(SpecError) as failure:
        attnc.compile(spec("input t: real[h, n]; mask: j == i + 2", "t[i - j]"))
    assert "reads -2 at i = 0, j = 2" in str(failure.value)


@pytest.mark.parametrize(
    ("head", "term", "condition"),
    [
        ("param size: int; input t: real[h, n]; mask: abs(i - j) <= size", "t[abs(i - j)]",
         "size < len(n)"),
        ("param size: int; input t: real[h, n]; mask: abs(i - j) <= size", "t[i - j + size]",
         "2 * size < len(n)"),
        ("input t: real[h, n]; mask: j <= i", "t[i // 64]", "64 * len(n)"),
        ("param c: int; input t: real[h, n]; axis i, j = (y < 4, x < c)", "t[abs(i.x - j.x)]",
         "c <= len(n)"),
    ],
)  # fmt: skip
def test_lengths_and_numbers_are_tested_by_the_call(head: str, term: str, condition: str) -> None:
    checks = read_spec(load_source(spec(head, term))).checks
    assert any(condition in check.message for check in checks), [one.message for one in checks]


# --- the call -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_table_that_is_too_short_is_refused(backend: str) -> None:
    text = spec("param size: int; input t: real[h, n]; mask: abs(i - j) <= size", "t[i - j + size]")
    op = attnc.compile(text, backend=backend)
    op(Q, Q, Q, t=torch.zeros(2, 5), size=2)
    with pytest.raises((ValueRangeError, ShapeError), match="2 \\* size < len"):
        op(Q, Q, Q, t=torch.zeros(2, 4), size=2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_positions_in_tensors(backend: str) -> None:
    """Out of range at a visible key: an error, also in a call of a form that was seen before; at a
    key that no row sees, none."""
    text = spec("input kind: int[b, j], t: real[h, n]; mask: j <= i", "t[kind[j]]")
    op = attnc.compile(text, backend=backend)
    table, kind = torch.zeros(2, 3), torch.tensor([[0, 1, 2, 0, 1, 2], [0, 0, 0, 2, 2, 2]])
    for _ in range(2):
        op(Q, Q, Q, kind=kind, t=table)
    for wrong in (3, -1):
        bad = kind.clone()
        bad[1, 5] = wrong
        refused(lambda bad=bad: op(Q, Q, Q, kind=bad, t=table), "`kind`", "t[kind[j]]", "j = 5")
        op(Q[:, :, :5], Q, Q, kind=bad, t=table)
        op(Q, Q, Q, kind=bad, t=table, key_length=5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_beyond_a_table_of_keys(backend: str) -> None:
    """An offset that moves rows past the end of what they read, for one entry of the batch."""
    op = attnc.compile(spec("input doc: int[b, j]; mask: doc[i] == doc[j]", "0"), backend=backend)
    doc = torch.zeros(2, 6, dtype=torch.int64)
    op(Q[:, :, :4], Q, Q, doc=doc, offset=2)
    op(Q[:, :, :4], Q, Q, doc=doc, offset=torch.tensor([0, 2]))
    refused(lambda: op(Q[:, :, :4], Q, Q, doc=doc, offset=3), "`offset`", "doc[i]")
    offset = torch.tensor([0, 3])
    refused(lambda: op(Q[:, :, :4], Q, Q, doc=doc, offset=offset), "`offset`", "b = 1")


@pytest.mark.parametrize(
    ("backend", "argument"), [("cpu", "key_offset"), ("eager", "key_offset"), ("numpy", "picked")]
)
def test_keys_that_begin_beyond_a_table_of_blocks(backend: str, argument: str) -> None:
    """What is inside for every call whose keys begin at 0 may lie outside for others."""
    head = "axis s < (len(j) + 3) // 4; input picked: bool[i, s]; mask: picked[i, j // 4]"
    op = attnc.compile(spec(head, "0"), backend=backend)
    picked = torch.ones(6, 2, dtype=torch.bool)
    op(Q, Q, Q, picked=picked)
    op(Q, Q, Q, picked=picked, key_offset=2)
    with pytest.raises(attnc.AttncError, match=f"argument `{argument}`"):
        op(Q, Q, Q, picked=picked, key_offset=3)


def test_the_call_and_the_oracle_agree() -> None:
    """Random positions, masks and offsets: the call refuses exactly what the oracle refuses."""
    text = spec("param gap: int; input at: int[b, j], t: real[h, n]; mask: at[j] + gap <= i - j",
                "t[i - at[j]]")  # fmt: skip
    op, oracle = attnc.compile(text, backend="cpu"), attnc.compile(text, backend="numpy")
    draw = torch.Generator().manual_seed(5)
    outcomes = set()
    for gap in (-3, 0, 3, 5):
        for size in (2, 9):
            at = torch.randint(-2, 2, (2, 6), generator=draw)
            table = torch.zeros(2, size)
            answers = []
            for run in (op, oracle):
                try:
                    answers.append(run(Q, Q, Q, at=at, t=table, gap=gap) is None)
                except attnc.AttncError:
                    answers.append(True)
            assert answers[0] == answers[1], (gap, size, at)
            outcomes.add(answers[0])
    assert outcomes == {True, False}


def test_messages_name_indices_as_the_text_does() -> None:
    text = """
pipeline p(q, k, v) for i:
    axis c < len(j) // 16
    kept[i, c] = topk(c: dot(q[i], k[16 * c]), min(2, len(c)))
    attention a for i over j:
        mask: kept[i, j // 16]
        score: dot(q[i], k[j])
        normalize: softmax(j: score)
    read: a[i]
"""
    with pytest.raises(SpecError, match="reads 0 at j = 0") as caught:
        read_spec(load_source(text))
    assert "'" not in str(caught.value)
