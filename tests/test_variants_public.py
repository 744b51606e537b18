"""Operators that the gallery has not, as a user would write them, against modules of transformers:
results and gradients in float64, ours the dense formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_transformers_public import SINGLE, SIZES, agree, causal, draw, made, op, split, text
from torch import Tensor, nn
from transformers import (
    ConvBertConfig,
    DebertaV2Config,
    DeepseekV32Config,
    DiffLlamaConfig,
    LlamaConfig,
    LongT5Config,
    RecurrentGemmaConfig,
    ReformerConfig,
)
from transformers.models.convbert.modeling_convbert import ConvBertSelfAttention
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention
from transformers.models.deepseek_v32.modeling_deepseek_v32 import DeepseekV32Attention
from transformers.models.diffllama.modeling_diffllama import DiffLlamaAttention
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb
from transformers.models.longt5.modeling_longt5 import LongT5TransientGlobalAttention
from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRglru
from transformers.models.reformer.modeling_reformer import LSHSelfAttention


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(5)


# Rounds of hashing: in each a token sees its chunk of the sorted tokens and the chunk before, where
# the first chunk of a round looks back to the last of the round before. Itself it sees at last.
LSH = """
pipeline lsh(q, v) for i:
    static chunk: int = 4
    input q: real[b, h, i, d], v: real[b, h, j, e], bucket: int[b, h, r, j]
    place[r, j] = rank(j: bucket[r, j]) // chunk
    last = len(j) // chunk - 1
    key[j] = rmsnorm(d: q[j]) * scale
    attention round for r, i over j | l in j:
        mask[j]: place[r, j] == place[r, i] and j <= i
        mask[l]: (l <= i and where(place[r, i] > 0, place[r, l] == place[r, i] - 1,
                                   place[(r - 1) % len(r), l] == last))
        score[j]: where(i == j, -100000, dot(q[i], key[j]))
        score[l]: where(i == l, -100000, dot(q[i], key[l]))
        normalize: softmax(j | l: score)
        read: sum(j: weight * v[j]) + sum(l: weight * v[l])
    read: sum(r: softmax(r: round.lse[r, i]) * round[r, i])
"""


def test_reformer() -> None:
    config = ReformerConfig(
        hidden_size=8,
        num_attention_heads=2,
        attention_head_size=4,
        lsh_attn_chunk_length=4,
        num_hashes=2,
        num_buckets=4,
        is_decoder=True,
        lsh_attention_probs_dropout_prob=0.0,
    )
    module, x, rows = made(LSHSelfAttention(config, 0)), draw(2, 24, 8), 24
    theirs, _, buckets = module(x)
    q, v = split(module.query_key(x), 2), split(module.value(x), 2)
    ours = text(LSH)(q, v, bucket=buckets)
    assert buckets.shape == (2, 2, 2, rows) and len(buckets[0, 0, 0].unique()) > 1
    agree(ours.transpose(1, 2).flatten(2), theirs, x, module)


# A light score of a few narrow heads chooses the keys, the same for all heads.
INDEXED = """
pipeline indexed(q, k, v) for i:
    param keep: int
    input iq: real[b, g, i, c], ik: real[b, j, c], share: real[b, i, g]
    worth[i, j] = sum(g: share[i, g] * relu(dot(iq[g, i], ik[j])))
    chosen[b, i] = topk(j if j <= i: worth[i, j], keep)
    attention sparse for i over j:
        mask: j <= i and chosen[i, j]
        score: dot(q[i], k[j]) * scale
        normalize: softmax(j: score)
    read: sparse[i]
"""


def test_deepseek_indexer() -> None:
    config = DeepseekV32Config(
        hidden_size=16,
        num_attention_heads=4,
        num_key_value_heads=4,
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=6,
        v_head_dim=6,
        index_n_heads=8,
        index_head_dim=8,
        index_topk=5,
        attn_implementation="sdpa",
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    module, x, rows = made(DeepseekV32Attention(config, 0)), draw(2, 17, 16), 17
    turned = LlamaConfig(hidden_size=16, num_attention_heads=4, head_dim=4)
    angles = LlamaRotaryEmbedding(turned)(x, torch.arange(rows)[None])
    kept: dict[str, Tensor] = {}

    def watch(_self: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **_: Any) -> Any:
        kept.update(q=query, k=key, v=value)
        return nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=args[0]
        ).transpose(1, 2), None

    own = module.forward.__func__.__globals__["ALL_ATTENTION_FUNCTIONS"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(own), "get_interface", lambda *_: watch)
        theirs = module(x, angles, causal(rows))[0]

    indexer, low = module.indexer, module.q_a_layernorm(module.q_a_proj(x))
    query = indexer.wq_b(low).unflatten(-1, (8, 8)).transpose(1, 2)
    key = indexer.k_norm(indexer.wk(x)).unsqueeze(1)
    head, rest = query.split(4, -1), key.split(4, -1)
    turned_q, turned_k = apply_rotary_pos_emb(head[0], rest[0], *angles)
    given = {
        "iq": torch.cat([turned_q, head[1]], -1),
        "ik": torch.cat([turned_k, rest[1]], -1)[:, 0],
        "share": indexer.weights_proj(x),
        "keep": 5,
    }
    ours = text(INDEXED)(**kept, **given)
    agree(module.o_proj(ours.transpose(1, 2).flatten(2)), theirs, x, module)


DIFFERENTIAL = """
pipeline differential(q, k, v) for i:
    input q2: real[b, h, i, d], k2: real[b, hk, j, d], low: real[a]
    attention one for i over j:
        mask: j <= i
        score: dot(q[i], k[j]) * scale
        normalize: softmax(j: score)
    attention two for i over j:
        mask: j <= i
        score: dot(q2[i], k2[j]) * scale
        normalize: softmax(j: score)
    read: rmsnorm(e: one[i] - low[0] * two[i])
"""


def test_differential() -> None:
    config = DiffLlamaConfig(**SIZES, rms_norm_eps=1e-6)
    module, x = made(DiffLlamaAttention(config, 1)), draw(2, 11, 16)
    angles = LlamaRotaryEmbedding(LlamaConfig(**SIZES))(x, torch.arange(11)[None])
    theirs = module(x, angles, causal(11))[0]
    q, k = apply_rotary_pos_emb(split(module.q_proj(x), 4), split(module.k_proj(x), 2), *angles)
    v = module.v_proj(x).unsqueeze(1)
    one, two = (
        (getattr(module, f"lambda_q{n}") * getattr(module, f"lambda_k{n}")).sum().exp()
        for n in (1, 2)
    )
    low = (one - two + module.lambda_init).view(1)
    (q1, q2), (k1, k2) = q.chunk(2, 1), k.chunk(2, 1)
    ours = text(DIFFERENTIAL)(q1, k1, v, q2=q2, k2=k2, low=low) * (1 - module.lambda_init)
    agree(module.o_proj(ours.transpose(1, 2).flatten(2)), theirs, x, module, **SINGLE)


DISENTANGLED = """
attention disentangled(q, k, v):
    static span: int = 4
    axis lag < 2 * span
    input pk, pq: real[h, lag, d]
    near[i, j] = clamp(i - j + span, 0, 2 * span - 1)
    score: (dot(q[i], k[j]) + dot(q[i], pk[near]) + dot(k[j], pq[near])) / sqrt(3 * len(d))
    normalize: softmax(j: score)
"""


def test_disentangled() -> None:
    config = DebertaV2Config(
        hidden_size=8,
        num_attention_heads=2,
        relative_attention=True,
        pos_att_type=["c2p", "p2c"],
        max_relative_positions=4,
    )
    module, x, places = made(DisentangledSelfAttention(config)), draw(2, 11, 8), draw(8, 8)
    seen = torch.ones(2, 1, 11, 11)
    theirs = module(x, seen, rel_embeddings=places)[0]
    q, k, v = (split(one(x), 2) for one in (module.query_proj, module.key_proj, module.value_proj))
    pk, pq = (
        split(one(places)[None], 2)[0] for one in (module.pos_key_proj, module.pos_query_proj)
    )
    ours = text(DISENTANGLED)(q, k, v, pk=pk, pq=pq)
    agree(ours.transpose(1, 2).flatten(2), theirs, x, module, **SINGLE)  # its scale is float32


# A window, and for each block of tokens one key more: their sum, normed, with the same projections.
TRANSIENT = """
from scores import bucket
pipeline transient(q, k, v) for i:
    static buckets: int = 8, size: int = 4
    param radius: int
    axis n < buckets
    axis s < len(j) // size
    input x: real[b, j, c], gain: real[c], wk: real[h, c, d], wv: real[h, c, e]
    input near, far: real[h, n]
    side[s] = rmsnorm(c: sum(j if j // size == s: x[j])) * gain
    ks[s] = side[s] @ wk
    vs[s] = side[s] @ wv
    attention local for i over j | s:
        mask[j]: abs(i - j) <= radius
        score[j]: dot(q[i], k[j]) + near[bucket(i, j, buckets, 9)]
        score[s]: dot(q[i], ks[s]) + far[bucket(i // size, s, buckets, 9)]
        normalize: softmax(j | s: score)
        read: sum(j: weight * v[j]) + sum(s: weight * vs[s])
    read: local[i]
"""


def test_transient_global() -> None:
    config = LongT5Config(
        d_model=8,
        d_kv=4,
        num_heads=2,
        local_radius=2,
        global_block_size=4,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=9,
    )
    module, x = made(LongT5TransientGlobalAttention(config, True)), draw(2, 24, 8)
    theirs = module(x, mask=torch.ones(2, 24))[0]
    q, k, v = (split(one(x), 2) for one in (module.q, module.k, module.v))
    ours = text(TRANSIENT)(
        q,
        k,
        v,
        x=x,
        gain=module.global_input_layer_norm.weight,
        wk=module.k.weight.view(2, 4, 8).mT,
        wv=module.v.weight.view(2, 4, 8).mT,
        near=module.relative_attention_bias.weight.T,
        far=module.global_relative_attention_bias.weight.T,
        radius=2,
    )
    agree(module.o(ours.transpose(1, 2).flatten(2)), theirs, x, module, **SINGLE)


def test_dynamic_conv_of_convbert() -> None:
    """The gallery's dynamic_conv looks back; ConvBERT's taps surround the token."""
    config = ConvBertConfig(
        hidden_size=8, num_attention_heads=2, head_ratio=1, conv_kernel_size=5, embedding_size=8
    )
    module, x = made(ConvBertSelfAttention(config)), draw(2, 11, 8)
    theirs = module(x)[0].view(2, 11, 4, 2)[:, :, 2:]
    both = module.key_conv_attn_layer(x.mT).mT * module.query(x)
    logit = module.conv_kernel_layer(both).unflatten(-1, (2, 5)).transpose(1, 2)
    v = nn.functional.pad(split(module.conv_out_layer(x), 2), (0, 0, 0, 2))
    later = nn.functional.pad(logit.flip(-1), (0, 0, 2, 0))
    ours = op("dynamic_conv")(v, logit=later)[:, :, 2:]
    agree(ours.transpose(1, 2), theirs, x, module)


GATED = """
attention rglru(x) for t:
    input x, r, g: real[b, t, c], a: real[c]
    state S: real[c] = 0
    update:
        decay = exp(-8 * sigmoid(r[t]) * softplus(a))
        S = decay * S + where(t == 0, 1, sqrt(1 - decay ** 2)) * sigmoid(g[t]) * x[t]
    read: S
"""


def test_gated_recurrence() -> None:
    module = made(RecurrentGemmaRglru(RecurrentGemmaConfig(lru_width=8, num_attention_heads=2)))
    x = draw(2, 11, 8)
    theirs = module(x, torch.arange(11)[None].expand(2, -1))
    parts = x.unflatten(-1, (2, 4))
    r, g = (
        (torch.einsum("bthc,hcd->bthd", parts, weight) + bias).flatten(2)
        for weight, bias in (
            (module.recurrent_gate_weight, module.recurrent_gate_bias),
            (module.input_gate_weight, module.input_gate_bias),
        )
    )
    ours = text(GATED)(x, r=r, g=g, a=module.recurrent_param)
    agree(ours, theirs, x, module, **SINGLE)  # its state is float32
