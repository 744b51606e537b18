"""From transformers to an attention operator: the two functions a model asks for.

transformers calls a mask function once per forward pass and an attention function once per layer,
both looked up by name. Here the mask function makes no mask: it says in three numbers what is
visible, and the attention function hands those to an operator of attnc.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import bidirectional_mask_function, causal_mask_function

import attnc

HERE = Path(__file__).resolve().parent
CAUSAL = HERE.parent / "softmax" / "causal_softmax.attn"
PADDED_CAUSAL = HERE / "padded_causal.attn"
ENCODER = HERE / "encoder.attn"


@dataclass(frozen=True)
class Visible:
    """Which keys the rows of one forward pass see.

    Query row r of a sequence stands at position r + offset. Real tokens are first <= j < end: int64
    [batch] on the model's device, or None where no sequence is padded on that side. A causal row
    sees no key behind its own position.
    """

    causal: bool
    offset: int
    first: Tensor | None = None
    end: Tensor | None = None


# query [batch, heads, rows, width], key and value [batch, key heads, keys, width] -> like query.
Attend = Callable[[Tensor, Tensor, Tensor, Visible], Tensor]


def read_visible(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: Tensor | None = None,
    **_: Any,
) -> Visible:
    """What transformers says of a forward pass, as a Visible; ValueError for what it cannot say."""
    if mask_function not in (causal_mask_function, bidirectional_mask_function):
        raise ValueError(f"only causal and full attention are wired here, not {mask_function}")
    if kv_offset:
        raise ValueError("a cache that dropped its oldest keys is not wired here")
    causal = mask_function is causal_mask_function
    offset = int(q_offset)
    if attention_mask is None or bool(attention_mask.all()):
        return Visible(causal, offset)
    real = attention_mask.to(torch.int64)
    first = real.argmax(dim=-1)
    end = first + real.sum(dim=-1)
    j = torch.arange(real.shape[-1], device=real.device)
    run = (first[:, None] <= j) & (j < end[:, None])
    if not torch.equal(run, attention_mask.bool()):
        raise ValueError("real tokens must stand together, with padding before or behind them")
    left, right = bool(first.any()), bool((end < kv_length).any())
    return Visible(causal, offset, first if left else None, end if right else None)


@cache
def operator(path: Path, backend: str = "auto") -> Callable[..., Tensor]:
    """The compiled operator of a spec, made once."""
    return attnc.compile(path, backend=backend)


def attend(
    query: Tensor, key: Tensor, value: Tensor, visible: Visible, backend: str = "auto"
) -> Tensor:
    """Attention through attnc's operators; shapes as in Attend."""
    if visible.causal and visible.first is None:
        # No real token sees the padding behind it: j <= i.
        return operator(CAUSAL, backend)(query, key, value, offset=visible.offset)
    if visible.causal:
        call = operator(PADDED_CAUSAL, backend)
        return call(query, key, value, first=visible.first, offset=visible.offset)
    if visible.first is not None:
        raise ValueError("an encoder's padding must stand behind the sentence")
    if visible.end is None:
        return operator(ENCODER, backend)(query, key, value)
    return operator(ENCODER, backend)(query, key, value, key_length=visible.end)


def register(name: str, attend: Attend = attend) -> None:
    """Makes `attn_implementation=name` mean this attention, for any model of transformers."""

    def forward(
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Visible,
        scaling: float | None = None,
        dropout: float = 0.0,
        **options: Any,
    ) -> tuple[Tensor, None]:
        default = query.shape[-1] ** -0.5
        if scaling is not None and abs(scaling - default) > 1e-6 * default:
            raise ValueError(f"scaling is {scaling}; the operators here divide by sqrt(width)")
        for option in ("sliding_window", "softcap", "position_bias", "s_aux"):
            if options.get(option) is not None:
                raise ValueError(f"{option} is not wired here")
        if dropout:
            raise ValueError("dropout is not wired here; call model.eval()")
        return attend(query, key, value, attention_mask).transpose(1, 2).contiguous(), None

    AttentionInterface.register(name, forward)
    AttentionMaskInterface.register(name, read_visible)
