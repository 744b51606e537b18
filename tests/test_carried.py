"""Rows of queries that hand on values of keys: a call of a row's operator for each in turn.

Specs with carries that no example has, against the oracle and, their gradients, against eager in
float64; steps against whole calls; what a row may not read; what is run again for a backward."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import attnc
from attnc.errors import UnsupportedError
from attnc.runtime.carried import in_segments

# Integers, a choice of the row, two states of which one moves the mask and one the score.
RESTING = """
attention resting(q, k, v):
    param cool: int, fade: real = 0.3
    state rest: int[j] = 0, wins: real[j] = 0
    mask: j <= i and rest[j] == 0
    score: dot(q[i], k[j]) * scale - fade * wins[j]
    normalize: softmax(j: score)
    update:
        first = argmax(j: weight)
        wins[j] = wins[j] + where(j == first, weight, 0)
        rest[j] = where(j == first, cool, max(rest[j] - 1, 0))
"""
# The result and emits are of what the row leaves behind; no clause sees the state.
SMOOTHED = """
attention smoothed(q, k, v):
    input keep: real[h]
    state held: real[j] = 0
    mask: j <= i
    score: dot(q[i], k[j]) * scale
    normalize: softmax(j: score)
    update:
        held[j] = keep * held[j] + (1 - keep) * weight
    read: sum(j: held[j] * v[j])
    emit load[i] = max(j: held[j]) + sum(j: weight * held[j])
    emit by_kind[i, c] = sum(j if j % 2 == c: held[j])
    axis c < 2
"""
SPECS = {"resting": (RESTING, {"cool": 2}), "smoothed": (SMOOTHED, {})}
KEYS = 7


def tensors(name: str, rows: int) -> dict[str, torch.Tensor]:
    """Two batches, two heads of queries for one of keys."""
    generator = torch.Generator().manual_seed(rows)
    shapes = {"q": (2, 2, rows, 4), "k": (2, 1, KEYS, 4), "v": (2, 1, KEYS, 3)}
    shapes |= {"keep": (2,)} if name == "smoothed" else {}
    made = {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in shapes.items()}
    return {n: one.requires_grad_() for n, one in made.items()}


def compiled(name: str, backend: str) -> attnc.Operator:
    return attnc.compile(SPECS[name][0], backend=backend)


@pytest.mark.usefixtures("quick_build")
@pytest.mark.parametrize("name", SPECS)
def test_rows_see_what_earlier_rows_left(name: str) -> None:
    """Results, states, emits of the row and those that run the rows once more; gradients, in
    segments of rows."""
    op, oracle, eager = (compiled(name, backend) for backend in ("cpu", "numpy", "eager"))
    numbers = SPECS[name][1]
    own = (*op.spec.root.emits, op.spec.root.states[0])
    emit = ("lse", "max", "colsum", "weight", *(one.array.name for one in own))
    for rows in (1, 0, KEYS):
        given = tensors(name, rows)
        plain = {n: one.detach().numpy() for n, one in given.items()}
        shifts = {"offset": KEYS - rows}
        found = op(**given, **numbers, **shifts, emit=emit)
        expected = oracle(**plain, **numbers, **shifts, emit=emit)
        for what, one, other in zip(("out", *emit), found, expected, strict=True):
            np.testing.assert_allclose(one.detach(), other, 1e-11, 1e-11, err_msg=what)
    wanted = torch.randn(2, 2, KEYS, 3, dtype=torch.float64)
    mine, theirs = (
        torch.autograd.grad(out, list(given.values()), wanted)
        for out in (found[0], eager(**given, **numbers))
    )
    for what, one, other in zip(given, mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12, msg=what)


@pytest.mark.usefixtures("quick_build")
def test_steps_are_the_rows_of_a_call() -> None:
    op, given = compiled("resting", "cpu"), tensors("resting", KEYS)
    q, k, v = (given[name].detach() for name in "qkv")
    whole, last = op(q, k, v, cool=2, return_state=True)
    state = None
    for row in range(KEYS):
        out, state = op.step(state, q[:, :, row], k, v, cool=2, offset=row)
        torch.testing.assert_close(out, whole[:, :, row])
    assert all(torch.equal(one, other) for one, other in zip(state, last, strict=True))


@pytest.mark.parametrize(
    ("score", "words"),
    [
        ("dot(q[i - 1] else 0, k[j]) + used[j]", "`q` at another row (`q[b, h, i - 1, d]`)"),
        ("dot(q[i], k[j]) / len(i) + used[j]", "the length of the axis of rows (`len(i)`)"),
    ],
)
def test_what_a_row_may_not_read(score: str, words: str) -> None:
    text = f"""
attention looking(q, k, v):
    state used: real[j] = 0
    score: {score}
    normalize: softmax(j: score)
    update:
        used[j] = used[j] + weight
"""
    with pytest.raises(UnsupportedError) as caught:
        attnc.compile(text, backend="cpu")
    assert "query_carry" in str(caught.value) and words in str(caught.value)


def test_an_equation_may_read_another_row() -> None:
    """It is made for all rows, before the first of them is run."""
    text = """
attention looking_back(q, k, v):
    state used: real[j] = 0
    before[i] = sum(d: q[i - 1] else 0)
    score: dot(q[i], k[j]) + before[i] * used[j]
    normalize: softmax(j: score)
    update:
        used[j] = used[j] + weight
"""
    (stage,) = attnc.compile(text, backend="cpu").stages.pipeline.kernels
    assert "before" in [array.name for _, array in stage.arguments]


def test_rows_are_run_again_for_a_backward() -> None:
    """What is carried is kept at the start of a segment, the rows in it run twice."""
    seen: list[int] = []

    def walk(first: int, end: int, x: torch.Tensor) -> tuple[dict[str, list[torch.Tensor]], tuple]:
        rows = []
        for row in range(first, end):
            seen.append(row)
            x = torch.sin(x + row)
            rows.append(x)
        return {"out": rows}, (x,)

    start = torch.ones(3, dtype=torch.float64, requires_grad=True)
    found, (last,) = in_segments(walk, 5, 9, (start,))
    assert seen == list(range(5, 14)) and torch.equal(found["out"][-1], last)
    (slope,) = torch.autograd.grad(torch.stack(found["out"]).sum(), start)
    assert sorted(seen) == sorted(2 * list(range(5, 14)))
    rows, _ = walk(5, 14, start)
    torch.testing.assert_close(slope, torch.autograd.grad(torch.stack(rows["out"]).sum(), start)[0])
    with torch.no_grad():
        seen.clear()
        in_segments(walk, 0, 4, (start,))
    assert seen == [0, 1, 2, 3]
