"""Recurrences of the gallery against the torch forms of transformers: a loop over tokens, chunks.

What transformers names otherwise is renamed here; its layouts are [batch, length, heads, width]."""

from __future__ import annotations

import torch
from gallery_cases import EXAMPLES
from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan
from transformers.models.qwen3_next.modeling_qwen3_next import (
    torch_chunk_gated_delta_rule,
    torch_recurrent_gated_delta_rule,
)
from transformers.models.rwkv.modeling_rwkv import rwkv_linear_attention_cpu

import attnc
from attnc.cases import Shape, draw_case

SHAPE = Shape(37, 37, 16, 16, 2, 1, 2)  # rows, keys, widths, batch, heads, group
CLOSE = {"rtol": 2e-4, "atol": 2e-5}  # both sides in float32

# The weighted mean of what came before, its maximum carried: softmax as a recurrence.
WKV = """
attention wkv(k, v) for t:
    input k, v: real[b, t, c], decay, first: real[c]
    state top: real[c] = -inf, above, below: real[c] = 0
    best[t] = max(top, k[t] + first)
    read: ((exp(top - best[t]) * above + exp(k[t] + first - best[t]) * v[t])
           / (exp(top - best[t]) * below + exp(k[t] + first - best[t])))
    update:
        most = max(top - exp(decay), k[t])
        kept = exp(top - exp(decay) - most)
        above = kept * above + exp(k[t] - most) * v[t]
        below = kept * below + exp(k[t] - most)
        top = most
"""


def drawn(op: attnc.Operator) -> dict[str, torch.Tensor]:
    case = draw_case(op.spec, SHAPE, 5, {})
    return {name: torch.from_numpy(array).float() for name, array in case.tensors.items()}


def by_rows(x: torch.Tensor) -> torch.Tensor:
    """[batch, heads, length, ...] -> [batch, length, heads, ...]"""
    return x.transpose(1, 2)


def test_gated_delta_of_qwen3_next() -> None:
    op = attnc.compile(EXAMPLES / "delta" / "gated_delta.attn", backend="cpu")
    t = drawn(op)
    log_decay = -t["a"].exp()[:, None] * torch.nn.functional.softplus(t["x"] + t["bias"][:, None])
    q, k, v = (by_rows(t[name]) for name in ("q", "k", "v"))
    k, v = (x.repeat_interleave(SHAPE.group, 2) for x in (k, v))
    keywords = {"output_final_state": True, "use_qk_l2norm_in_kernel": True}
    out, (state,) = op(**t, return_state=True)
    for form in (torch_recurrent_gated_delta_rule, torch_chunk_gated_delta_rule):
        beta = by_rows(t["beta"].sigmoid())
        expected, last = form(q, k, v, g=by_rows(log_decay), beta=beta, **keywords)
        torch.testing.assert_close(by_rows(out), expected, **CLOSE)
        torch.testing.assert_close(state, last, **CLOSE)


def test_mamba2() -> None:
    op = attnc.compile(EXAMPLES / "ssm" / "mamba2.attn", backend="cpu")
    t = drawn(op)
    expected, last = mamba2_chunk_scan(
        by_rows(t["x"]),
        by_rows(t["dt"]),
        -t["A"].exp(),
        by_rows(t["B"]),
        by_rows(t["C"]),
        chunk_size=16,
        D=t["D"],
        dt_bias=t["bias"],
        dt_softplus=True,
        return_final_states=True,
    )
    out, (state,) = op(**t, return_state=True)
    torch.testing.assert_close(by_rows(out), expected, **CLOSE)
    torch.testing.assert_close(state.transpose(-1, -2), last, **CLOSE)


def test_weighted_means_of_rwkv() -> None:
    op = attnc.compile(WKV, backend="cpu")
    t = drawn(op)
    expected, _ = rwkv_linear_attention_cpu(t["decay"], t["first"], t["k"], t["v"])
    torch.testing.assert_close(op(**t), expected, **CLOSE)


def test_steps_of_titans() -> None:
    """Chunks of a text are positions: a step says which row it is."""
    op = attnc.compile(EXAMPLES / "delta" / "titans_mlp.attn", backend="cpu", statics={"chunk": 4})
    case = draw_case(op.spec, Shape(9, 9, 4, 3, 1, 1, 2), 5, {})
    t = {name: torch.from_numpy(array) for name, array in case.tensors.items()}
    whole, last = op(**t, return_state=True)
    state, rows = None, []
    moving = ("q", "k", "v", "alpha", "eta", "theta")
    for at in range(9):
        row = {name: x.select(2, at) if name in moving else x for name, x in t.items()}
        out, state = op.step(state, **row, offset=at)
        rows.append(out)
    torch.testing.assert_close(torch.stack(rows, 2), whole)
    torch.testing.assert_close(state, last)
