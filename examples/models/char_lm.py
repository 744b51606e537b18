"""A small decoder over characters, its text, and the attentions that it can be given."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import attnc

HERE = Path(__file__).resolve().parent
CAUSAL = HERE.parent / "softmax" / "causal_softmax.attn"
VARIANT = HERE / "local_capped.attn"
DELTA = HERE / "delta_memory.attn"
HYBRID = HERE / "near_and_far.attn"
VOCABULARY = 128  # ASCII
UNKNOWN = ord("?")


@dataclass(frozen=True)
class Shape:
    """Sizes of the decoder: `width` channels, of which each head has width / heads."""

    width: int = 128
    heads: int = 4
    layers: int = 4
    context: int = 256
    window: int = 64  # of the variant and the hybrid


# --- Text ----------------------------------------------------------------------------------------


def read_sources(limit: int = 4_000_000) -> Tensor:
    """The modules of Python's standard library, one after the other: uint8 below VOCABULARY, at
    most `limit` characters."""
    folder, parts, total = Path(sysconfig.get_path("stdlib")), [], 0
    for path in sorted(folder.glob("*.py")):
        parts.append(path.read_bytes())
        total += len(parts[-1])
        if total >= limit:
            break
    text = torch.frombuffer(bytearray(b"\n".join(parts)), dtype=torch.uint8)[:limit].clone()
    text[text >= VOCABULARY] = UNKNOWN
    return text


def draw_batch(text: Tensor, size: int, context: int, generator: torch.Generator) -> Tensor:
    """Random pieces of the text, int64 [size, context + 1]: a row's targets are its own next
    characters."""
    starts = torch.randint(len(text) - context - 1, (size,), generator=generator)
    return torch.stack([text[start : start + context + 1] for start in starts]).long()


# --- Attentions: query, key, value [batch, heads, length, width / heads] -> like query ------------


class Sdpa(nn.Module):
    """PyTorch's attention."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)


class Causal(nn.Module):
    """The same formula through attnc."""

    def __init__(self, shape: Shape, backend: str) -> None:
        super().__init__()
        self.operator = attnc.compile(CAUSAL, backend=backend)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        result: Tensor = self.operator(query, key, value)
        return result


class LocalCapped(nn.Module):
    """What PyTorch's attention cannot say: window, soft cap, learned sinks and a learned bias for
    each offset, together. It has two parameters more."""

    def __init__(self, shape: Shape, backend: str) -> None:
        super().__init__()
        self.operator = attnc.compile(VARIANT, backend=backend)
        self.bias = nn.Parameter(torch.zeros(shape.heads, shape.window))
        self.sink = nn.Parameter(torch.zeros(shape.heads))

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        result: Tensor = self.operator(query, key, value, bias=self.bias, sink=self.sink)
        return result


class Delta(nn.Module):
    """No attention: a state that the gated delta rule keeps, with gates that each head reads off
    its keys. What it costs grows with the length, not with its square."""

    def __init__(self, shape: Shape, backend: str) -> None:
        super().__init__()
        self.operator = attnc.compile(DELTA, backend=backend)
        self.forget = nn.Parameter(torch.zeros(shape.heads, shape.width // shape.heads))
        self.write = nn.Parameter(torch.zeros_like(self.forget))

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        gates = {"forget": self.forget, "write": self.write}
        result: Tensor = self.operator(query, key, value, **gates)
        return result


class Hybrid(nn.Module):
    """A softmax over a window and that state, in one operator: a head learns how much of the state
    it adds."""

    def __init__(self, shape: Shape, backend: str) -> None:
        super().__init__()
        self.operator = attnc.compile(HYBRID, backend=backend)
        self.window = shape.window
        self.forget = nn.Parameter(torch.zeros(shape.heads, shape.width // shape.heads))
        self.write = nn.Parameter(torch.zeros_like(self.forget))
        self.blend = nn.Parameter(torch.zeros_like(self.forget))

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        gates = {"forget": self.forget, "write": self.write, "blend": self.blend}
        result: Tensor = self.operator(query, key, value, **gates, window=self.window)
        return result


ATTENTIONS: dict[str, Callable[[Shape, str], nn.Module]] = {
    "sdpa": lambda shape, backend: Sdpa(),
    "attnc": Causal,
    "variant": LocalCapped,
    "delta": Delta,
    "hybrid": Hybrid,
}


# --- Model ---------------------------------------------------------------------------------------


class Block(nn.Module):
    """A layer: attention and a feed-forward net, each on normed rows and added to them."""

    def __init__(self, shape: Shape, attention: nn.Module) -> None:
        super().__init__()
        self.heads, self.attention = shape.heads, attention
        self.norms = nn.ModuleList(nn.LayerNorm(shape.width) for _ in range(2))
        self.project = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.join = nn.Linear(shape.width, shape.width, bias=False)
        self.widen = nn.Linear(shape.width, 4 * shape.width)
        self.narrow = nn.Linear(4 * shape.width, shape.width)

    def forward(self, rows: Tensor) -> Tensor:
        """[batch, length, width] -> the same."""
        projected = self.project(self.norms[0](rows)).unflatten(-1, (3, self.heads, -1))
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        attended = self.attention(query, key, value).transpose(1, 2).flatten(2)
        rows = rows + self.join(attended)
        hidden = nn.functional.gelu(self.widen(self.norms[1](rows)))
        return rows + self.narrow(hidden)


class Decoder(nn.Module):
    """Characters [batch, length] -> logits of the next ones [batch, length, VOCABULARY].

    Its parameters are drawn by `seed` in an order that does not depend on the attention, whose own
    begin at 0."""

    def __init__(self, shape: Shape, attention: str, seed: int, backend: str = "auto") -> None:
        super().__init__()
        torch.manual_seed(seed)
        make = ATTENTIONS[attention]
        self.characters = nn.Embedding(VOCABULARY, shape.width)
        self.positions = nn.Parameter(torch.randn(shape.context, shape.width) * 0.02)
        self.blocks = nn.ModuleList(Block(shape, make(shape, backend)) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        self.out = nn.Linear(shape.width, VOCABULARY, bias=False)
        nn.init.normal_(self.characters.weight, std=0.02)

    def forward(self, characters: Tensor) -> Tensor:
        rows = self.characters(characters) + self.positions[: characters.shape[1]]
        for block in self.blocks:
            rows = block(rows)
        logits: Tensor = self.out(self.norm(rows))
        return logits


def loss_of(model: Decoder, batch: Tensor) -> Tensor:
    """Mean cross-entropy in nats a character of a batch [size, context + 1]."""
    logits = model(batch[:, :-1])
    return nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
