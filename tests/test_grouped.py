"""Statistics of groups of keys: at each key of a group, and one a group beside the output."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

if os.environ.get("TRITON_INTERPRET"):
    import triton_interpreter  # noqa: F401

from attnc.compiler import compile as compiled
from attnc.compiler import lower
from attnc.errors import UnsupportedError
from attnc.front import read_spec
from attnc.passes.key_blocks import with_key_blocks
from attnc.source import Source

TWO_LEVELS = """
attention two_levels(q, k, v):
    static size: int = 4
    axis c < (len(j) + size - 1) // size
    mask: j <= i
    score: dot(q[i], k[j]) * scale
    best[i, j] = max(l in j if l // size == j // size: score[i, l])
    mean[i, j] = sum(l in j if l // size == j // size - 1: exp(score[i, l]) * tanh(score[i, l]))
    normalize: softmax(j: best[i, j]) * softmax_by(j: score, j // size) + 0.1 * tanh(mean[i, j])
    emit top[i, c] = max(j if j // size == c: score)
    emit mass[i, c] = sum(j if j // size == c: weight)
    emit place[i, c] = argmax(j if j // size == c: score)
    emit chosen[i, c] = topk(c: sum(j if j // size == c: weight), 2)
"""
KINDS = """
attention kinds(q, k, v):
    input kind: int[b, j]
    mask: j <= i
    score: dot(q[i], k[j]) * scale
    normalize: {normalizer}
    emit share[i, g < 3] = sum(j if kind == g: exp(score))
"""
BLOCKS = """
attention blocks(q, k, v):
    static size: int = 4
    param step: int
    axis c < len(j) // size
    axis u < len(j) // step
    mask: j <= i
    score: dot(q[i], k[j]) * scale
    normalize: softmax(j: score)
    emit top[i, c] = max(r < size: weight[i, size * c + r])
    emit part[i, u] = sum(r < step: weight[i, step * u + r] * tanh(dot(q[i], k[u * step + r])))
"""
BACKENDS = ("cpu", "triton")


def tensors(magnitude: float = 1.0) -> list[torch.Tensor]:
    made = torch.Generator().manual_seed(3)
    shapes = (1, 2, 9, 4), (1, 1, 11, 4), (1, 1, 11, 3)
    return [torch.randn(s, generator=made, dtype=torch.float64) * magnitude for s in shapes]


def found(op: object, emit: tuple[str, ...], **more: object) -> list[torch.Tensor]:
    """Outputs, then gradients of all that are smooth."""
    leaves = [one.requires_grad_() for one in tensors()]
    outs = op(*leaves, emit=emit, **more)  # type: ignore[operator]
    finite = [o.masked_fill(o.isinf(), 0) for o in outs if o.is_floating_point()]
    loss = sum((one**2).sum() for one in finite)
    return [*(one.detach() for one in outs), *torch.autograd.grad(loss, leaves)]


@pytest.mark.torture
@pytest.mark.parametrize("backend", BACKENDS)
def test_two_levels_and_emits_of_groups(backend: str) -> None:
    op, eager = (compiled(TWO_LEVELS, backend=name) for name in (backend, "eager"))
    emit, more = ("top", "mass", "place", "chosen"), {"offset": 2, "key_offset": 1}
    pairs = zip(found(op, emit, **more), found(eager, emit, **more), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_number_for_each_group_beside_the_output(backend: str) -> None:
    kind = torch.tensor([[0, 2, 1, 1, 0, 2, 2, 0, 1, 1, 0]])
    text = KINDS.format(normalizer="softmax(j: score)")
    op, eager = (compiled(text, backend=name) for name in (backend, "eager"))
    both = (found(one, ("share",), kind=kind) for one in (op, eager))
    for one, other in zip(*both, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_blocks_said_by_their_places(backend: str) -> None:
    """Keys of a block that a row does not see have no weight; they are of the block."""
    op, eager = (compiled(BLOCKS, backend=name) for name in (backend, "eager"))
    both = (found(one, ("top", "part"), step=3) for one in (op, eager))
    for one, other in zip(*both, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_what_asks_of_other_keys_besides_stays() -> None:
    odd = (
        "    emit odd[i, c] = sum(r < size: weight[i, size * c + r] * (k[size * c + 3 - r] @ q[i]))"
    )
    spec = read_spec(Source(BLOCKS + odd, "op.attn"), None, None)
    emits = {one.array.name: one.expr for one in with_key_blocks(spec).root.emits}
    bound = {name: expr.bound[0].axis.name for name, expr in emits.items()}
    assert bound == {"top": "j", "part": "j", "odd": "r"}


def test_groups_need_ends() -> None:
    """What data decides has to lie between ends that the text says."""
    text = KINDS.format(normalizer="softmax_by(j: score, clamp(kind, 0, 2))")
    stages = lower(read_spec(Source(text, "op.attn"), None, None), ())
    assert stages.pipeline is not None
    made = {name for one in stages.pipeline.kernels for name, _ in one.provides}
    assert {"group.mass", "group.top", "out"} <= made
    text = KINDS.format(normalizer="softmax_by(j: score, kind)")
    with pytest.raises(UnsupportedError, match="grouped_softmax"):
        compiled(text, backend="cpu")


@pytest.mark.torture
def test_a_large_score_keeps_its_digits() -> None:
    text = (
        KINDS.format(normalizer="softmax_by(j: score, j // 4)")
        .replace("    input kind: int[b, j]\n", "")
        .partition("    emit")[0]
    )
    given = [one.float() for one in tensors(5.0)]
    wanted = compiled(text, backend="numpy")(*(one.numpy() for one in given))
    found, eager = (compiled(text, backend=name)(*given).numpy() for name in ("cpu", "eager"))
    assert np.linalg.norm(found - wanted) < 2 * np.linalg.norm(eager - wanted)
