"""A state beside keys in one block: a scan and a pass over keys, joined row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from attnc.compiler import compile as compiled

INFINI = """
attention infini(q, k, v):
    param window: int = 3
    input gate: real[h], forget: real[b, h, i]
    state S: real[d, e] = 0, z: real[d] = 1
    mask: 0 <= i - j < window
    score: dot(q[i], k[j]) * scale
    normalize: softmax(j: score)
    update:
        S = sigmoid(forget[i]) * S + outer(exp(k[i]), v[i])
        z = sigmoid(forget[i]) * z + exp(k[i])
    read: rmsnorm(e: sum(j: weight * v[j]) + sigmoid(gate) * (exp(q[i]) @ S) / (exp(q[i]) @ z))
"""
ROWS = 6


def tensors() -> dict[str, torch.Tensor]:
    made = torch.Generator().manual_seed(5)
    shapes = {"q": (2, 2, ROWS, 3), "k": (2, 1, ROWS, 3), "v": (2, 1, ROWS, 4),
              "gate": (2,), "forget": (2, 2, ROWS), "S": (2, 2, 3, 4), "z": (2, 2, 3)}  # fmt: skip
    return {
        n: torch.rand(shape, generator=made, dtype=torch.float64) for n, shape in shapes.items()
    }


def gradients(op: Any) -> tuple[torch.Tensor, ...]:
    leaves = {name: one.requires_grad_() for name, one in tensors().items()}
    out, lse, last = op(**leaves, return_state=True, emit=("lse",))
    loss = (out**2 * torch.arange(4)).sum() + lse.sum() + sum((one**2).sum() for one in last)
    return (out, lse, *last, *torch.autograd.grad(loss, list(leaves.values())))


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_values_states_and_gradients(backend: str) -> None:
    op, eager = (compiled(INFINI, backend=name) for name in (backend, "eager"))
    assert [stage.block for stage in op.stages.pipeline.kernels] == ["infini_state", "infini"]
    given = tensors()
    arrays = {name: one.numpy() for name, one in given.items()}
    np.testing.assert_allclose(op(**given), op.reference(**arrays), rtol=1e-12, atol=1e-12)
    for one, other in zip(gradients(op), gradients(eager), strict=True):
        torch.testing.assert_close(one, other)


def test_it_goes_on_row_by_row() -> None:
    op = compiled(INFINI, backend="cpu")
    given = tensors()
    state: Any = (given.pop("S"), given.pop("z"))
    whole, last = op(**given, state=state, return_state=True)
    first = {**given, "q": given["q"][:, :, :2], "forget": given["forget"][:, :, :2]}
    begin, state = op(**first, state=state, return_state=True)
    rows = [begin]
    for at in range(2, ROWS):
        row = {**given, "q": given["q"][:, :, at], "forget": given["forget"][:, :, at]}
        out, state = op.step(state, **row, offset=at)
        rows.append(out[:, :, None])
    torch.testing.assert_close(torch.cat(rows, 2), whole)
    torch.testing.assert_close(state, last)


def test_rows_and_keys_are_moved_together() -> None:
    """A stage that reads keys at its rows and has none of its own knows where they begin."""
    op, given = compiled(INFINI, backend="cpu"), tensors()
    arrays = {name: one.numpy() for name, one in given.items()}
    wanted = op.reference(**arrays, offset=3, key_offset=3)
    found = op(**given, offset=3, key_offset=3)
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "line, read",
    [
        ("S = S + outer(k[i], sum(j: weight * v[j]))", "q[i] @ S"),
        ("S = S + outer(k[i], v[i])", "sum(j: weight * (k[j] @ S))"),
    ],
)
def test_what_is_one_stays_one(line: str, read: str) -> None:
    """Updates that read weights, or states read at keys: rows are run one by one."""
    text = f"""
attention one(q, k, v):
    state S: real[d, e] = 0
    score: dot(q[i], k[j])
    normalize: softmax(j: score)
    update:
        {line}
    read: {read}
"""
    stages = compiled(text, backend="numpy").stages
    assert stages.pipeline is None or len(stages.pipeline.kernels) == 1
