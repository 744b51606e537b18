"""Memories that learn at test time against titans-pytorch: gradients of a batch of tokens are taken
at its beginning, gates are of a token or of a chunk.

Its loss is a mean where the paper's is a sum, so a step is longer by the width; its norms and
residual are switched off, since the paper has none."""

from __future__ import annotations

import pytest
import torch
from gallery_cases import EXAMPLES
from titans_pytorch import MemoryMLP, NeuralMemory
from torch import Tensor, nn

from attnc.front import load_source, read_spec
from attnc.operator import Operator
from attnc.source import Source
from attnc.spec import Spec

WIDTH, ROWS = 4, 12

# Gates of a chunk: its gradients are summed, and it moves the memory with its last token.
BY_CHUNK = """
attention by_chunk(q, k, v) for t:
    static chunk: int = 3, batch: int = 6
    input theta: real[b, h, t], alpha, eta: real[b, h, c], w: real[h, d, e]
    state M, M0: real[d, e] = w, Z, G: real[d, e] = 0
    update:
        miss = k[t] @ M0 - v[t]
        G = where(t % chunk == 0, 0, G) - sigmoid(theta[t]) * grad(miss @ miss, M0)
        Z = where(t % chunk == chunk - 1, sigmoid(eta[t // chunk]) * Z + G, Z)
        M = where(t % chunk == chunk - 1, (1 - sigmoid(alpha[t // chunk])) * M + Z, M)
        M0 = where(t % batch == batch - 1, M, M0)
    read: q[t] @ M
"""


class Unit(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(x, dim=-1)


def memory(depth: int, chunk: int, batch: int) -> NeuralMemory:
    torch.manual_seed(3)
    model = NeuralMemory(
        WIDTH,
        chunk_size=chunk,
        batch_size=batch,
        model=MemoryMLP(WIDTH, depth),
        default_step_transform_max_lr=WIDTH,
        pre_rmsnorm=False,
        mem_model_norm_add_residual=False,
    )
    model.to_queries = nn.Sequential(model.to_queries, Unit())
    model.to_keys = nn.Sequential(model.to_keys, Unit())
    return model.double()


def by_head(x: Tensor) -> Tensor:
    """[batch, length, ...] -> [batch, 1, length, ...]: one head."""
    return x[:, None]


def agree(model: NeuralMemory, spec: Spec, chunk: int, *weights: str) -> None:
    """Values, and gradients of the tokens and of the memory's first weights."""
    x = torch.randn(2, ROWS, WIDTH, dtype=torch.float64, requires_grad=True)
    first = list(model.memory_model_parameters)
    theirs, _ = model(x)
    pooled = x.unflatten(1, (-1, chunk)).mean(2)
    ours = Operator(spec, "eager")(
        by_head(model.to_queries(x)),
        by_head(model.to_keys(x)),
        by_head(model.to_values(x)),
        theta=by_head(model.to_adaptive_step[0](x)[..., 0]),
        alpha=by_head(model.to_decay_factor[0](pooled)[..., 0]),
        eta=by_head(model.to_momentum[0](pooled)[..., 0]),
        **dict(zip(weights, first, strict=True)),
    )[:, 0]
    torch.testing.assert_close(ours, theirs)
    slopes = [torch.autograd.grad(one.sin().sum(), (x, *first)) for one in (ours, theirs)]
    for own, their in zip(*slopes, strict=True):
        torch.testing.assert_close(own, their)


def test_gates_of_tokens() -> None:
    path = EXAMPLES / "delta" / "titans_mlp.attn"
    spec = read_spec(load_source(path), statics={"chunk": 6})
    agree(memory(2, 1, 6), spec, 1, "a", "c")


@pytest.mark.parametrize("batch", [3, 6])
def test_gates_of_chunks(batch: int) -> None:
    spec = read_spec(Source(BY_CHUNK, "by_chunk.attn"), statics={"batch": batch})
    agree(memory(1, 3, batch), spec, 3, "w")
