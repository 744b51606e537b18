"""Gallery operators against modules of transformers with random weights, float64: results, and the
gradients of the tokens and of every weight. Ours is the dense formula in eager PyTorch, to which
test_gallery.py holds the kernels; the module's projections before and after it are applied to ours.

Differences that are none of ours: in evaluation BigBird takes block 0 for every random block, and
counts it twice (so the module runs as in training); Informer samples the same keys for all rows;
DaViT's scale is of the tokens in Florence, of the channels in the paper; Doge adds the exponential
of what its choice looks at, our row its logarithm. DiNAT cannot be loaded: it imports what natten
has dropped; natten's own neighborhoods are in test_modules_public.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gallery_cases import spec_paths
from torch import Tensor, nn
from transformers import (
    BeitConfig,
    BigBirdConfig,
    DogeConfig,
    Florence2VisionConfig,
    GptOssConfig,
    GroundingDinoConfig,
    LlamaConfig,
    MiniMaxConfig,
    PvtConfig,
    Qwen3Config,
    Qwen3NextConfig,
    SiglipVisionConfig,
    SwinConfig,
    Swinv2Config,
    T5Config,
    Wav2Vec2BertConfig,
    Wav2Vec2ConformerConfig,
    YosoConfig,
)
from transformers.models.beit.modeling_beit import BeitRelativePositionBias
from transformers.models.big_bird.modeling_big_bird import BigBirdBlockSparseAttention, BigBirdModel
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.doge.modeling_doge import DogeAttention, DogeRotaryEmbedding
from transformers.models.florence2.modeling_florence2 import Florence2VisionChannelAttention
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssAttention
from transformers.models.grounding_dino.modeling_grounding_dino import (
    GroundingDinoBiMultiHeadAttention,
)
from transformers.models.idefics.perceiver import IdeficsPerceiverAttention
from transformers.models.informer.modeling_informer import InformerProbSparseAttention
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)
from transformers.models.mamba.modeling_mamba import mamba_selective_scan
from transformers.models.minimax.modeling_minimax import MiniMaxLightningAttention
from transformers.models.pvt.modeling_pvt import PvtEfficientSelfAttention
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextAttention
from transformers.models.regnet.modeling_regnet import RegNetSELayer
from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead
from transformers.models.swin.modeling_swin import SwinAttention
from transformers.models.swinv2.modeling_swinv2 import Swinv2Layer
from transformers.models.t5.modeling_t5 import T5Attention
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertSelfAttention
from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import (
    Wav2Vec2ConformerSelfAttention,
)
from transformers.models.yoso.modeling_yoso import YosoSelfAttention

from attnc.front import load_source, read_spec
from attnc.operator import Operator
from attnc.source import Source

PATHS = {path.stem: path for path in spec_paths()}
SINGLE = {"rtol": 1e-5, "atol": 1e-6}  # where the module makes angles or sums in float32


def op(name: str, **statics: Any) -> Operator:
    return Operator(read_spec(load_source(PATHS[name]), statics=statics), "eager")


def text(lines: str) -> Operator:
    return Operator(read_spec(Source(lines, "text.attn")), "eager")


def split(x: Tensor, heads: int) -> Tensor:
    """[batch, length, heads * width] -> [batch, heads, length, width]"""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).requires_grad_()


def made(module: nn.Module) -> Any:
    """With weights of the size of a token's numbers, where a module starts from none or ones."""
    module = module.double().eval()
    for weight in module.parameters():
        weight.data = torch.randn_like(weight) / max(weight.shape[-1], 1) ** 0.5
    return module


def causal(rows: int) -> Tensor:
    return torch.full((rows, rows), -torch.inf, dtype=torch.float64).triu(1)[None, None]


def agree(ours: Tensor, theirs: Tensor, x: Tensor, module: nn.Module, **close: float) -> None:
    """Results, and the gradients of x and of the weights."""
    close = close or {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(ours, theirs, **close)
    inputs = [x, *(each for each in module.parameters() if each.requires_grad)]
    slope = torch.randn_like(theirs)
    found = [
        torch.autograd.grad((one * slope).sum(), inputs, allow_unused=True, retain_graph=True)
        for one in (ours, theirs)
    ]
    assert found[1][0] is not None
    for one, other in zip(*found, strict=True):
        assert (one is None) == (other is None) or not (one if other is None else other).any()
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, **close)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(5)


# scores and positions ---------------------------------------------------------------------------

SIZES = {
    "hidden_size": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "attn_implementation": "sdpa",
}


def test_rope() -> None:
    config = LlamaConfig(**SIZES)
    module, x = made(LlamaAttention(config, 0)), draw(2, 11, 16)
    angles = LlamaRotaryEmbedding(config)(x, torch.arange(11)[None])
    theirs = module(x, angles, causal(11))[0]
    q, k, v = (
        split(one(x), heads)
        for one, heads in ((module.q_proj, 4), (module.k_proj, 2), (module.v_proj, 2))
    )
    agree(module.o_proj(joined(op("rope")(q, k, v))), theirs, x, module, **SINGLE)


def test_qk_rmsnorm() -> None:
    config = Qwen3Config(**SIZES)
    module, x = made(Qwen3Attention(config, 0)), draw(2, 11, 16)
    angles = LlamaRotaryEmbedding(config)(x, torch.arange(11)[None])
    theirs = module(x, angles, causal(11))[0]
    q, k, v = (
        split(one(x), heads)
        for one, heads in ((module.q_proj, 4), (module.k_proj, 2), (module.v_proj, 2))
    )
    ours = op("qk_rmsnorm")(q, k, v, gain=module.q_norm.weight, own=module.k_norm.weight)
    agree(module.o_proj(joined(ours)), theirs, x, module, **SINGLE)


def test_gated_softmax() -> None:
    """Its gate comes of the layer's input; norms and rotations are those of the module."""
    config = Qwen3NextConfig(**SIZES)
    module, x = made(Qwen3NextAttention(config, 0)), draw(2, 11, 16)
    angles = LlamaRotaryEmbedding(LlamaConfig(**SIZES))(x, torch.arange(11)[None])
    theirs = module(x, angles, causal(11))[0]
    into, gate = module.q_proj.weight.unflatten(0, (4, 2, 6)).unbind(1)
    q = module.q_norm((x @ into.flatten(0, 1).T).unflatten(-1, (4, 6))).transpose(1, 2)
    k = module.k_norm(module.k_proj(x).unflatten(-1, (2, 6))).transpose(1, 2)
    q, k = apply_rotary_pos_emb(q, k, *angles)
    ours = op("gated_softmax")(q, k, split(module.v_proj(x), 2), x=x, w=gate.mT)
    agree(module.o_proj(joined(ours)), theirs, x, module, **SINGLE)


def test_learned_sinks() -> None:
    """Its window is the mask's that the model hands over."""
    config = GptOssConfig(**SIZES | {"attn_implementation": "eager"})
    module, x, size = made(GptOssAttention(config, 1)), draw(2, 11, 16), 4
    still = torch.ones(1, 11, 3), torch.zeros(1, 11, 3)
    mask = causal(11).masked_fill(torch.ones(11, 11).tril(-size).bool(), -torch.inf)
    theirs = module(x, still, mask)[0]
    q, k, v = (
        split(one(x), heads)
        for one, heads in ((module.q_proj, 4), (module.k_proj, 2), (module.v_proj, 2))
    )
    ours = op("learned_sinks")(q, k, v, sink=module.sinks, window=size)
    agree(module.o_proj(joined(ours)), theirs, x, module)


def test_transformer_xl() -> None:
    """Conformer's relative positions, its keys cut to the past; lags run from the largest down."""
    config = Wav2Vec2ConformerConfig(
        hidden_size=8, num_attention_heads=2, position_embeddings_type="relative"
    )
    module, x, rows = made(Wav2Vec2ConformerSelfAttention(config)), draw(2, 9, 8), 9
    places = draw(1, 2 * rows - 1, 8)
    theirs = module(x, causal(rows), places)[0]
    q, k, v = (split(one(x), 2) for one in (module.linear_q, module.linear_k, module.linear_v))
    lags = split(module.linear_pos(places), 2)[0, :, :rows].flip(1)
    ours = op("transformer_xl")(q, k, v, r=lags, u=module.pos_bias_u, w=module.pos_bias_v, memory=0)
    agree(module.linear_out(joined(ours)), theirs, x, module)


def test_query_relative() -> None:
    config = Wav2Vec2BertConfig(
        hidden_size=8,
        num_attention_heads=2,
        position_embeddings_type="relative_key",
        left_max_position_embeddings=3,
        right_max_position_embeddings=3,
    )
    module, x = made(Wav2Vec2BertSelfAttention(config)), draw(2, 9, 8)
    q, k, v = (split(one(x), 2) for one in (module.linear_q, module.linear_k, module.linear_v))
    ours = op("query_relative", reach=3)(q, k, v, r=module.distance_embedding.weight)
    agree(module.linear_out(joined(ours)), module(x)[0], x, module)


def test_relative_bias() -> None:
    """BEiT's table, without its class token."""
    config = BeitConfig(hidden_size=8, num_attention_heads=2, image_size=4, patch_size=1)
    module, size = made(BeitRelativePositionBias(config)), 4
    q, k, v = (draw(2, 2, size * size, 4) for _ in range(3))
    bias = module((size, size))[0, :, 1:, 1:]
    theirs = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    table = module.relative_position_bias_table[:-3].view(2 * size - 1, 2 * size - 1, 2)
    ours = op("relative_bias")(q, k, v, bias=table.permute(2, 0, 1), height=size, width=size)
    agree(ours, theirs, q, module)


def test_bucketed_bias() -> None:
    config = T5Config(d_model=8, d_kv=4, num_heads=2, relative_attention_num_buckets=8)
    config.relative_attention_max_distance = 9
    module = made(T5Attention(config, has_relative_attention_bias=True))
    x = draw(2, 23, 8)
    q, k, v = (split(one(x), 2) for one in (module.q, module.k, module.v))
    ours = op("bucketed_bias", buckets=8, reach=9)(
        q, k, v, bias=module.relative_attention_bias.weight.T
    )
    agree(module.o(joined(ours)), module(x)[0], x, module, **SINGLE)  # its softmax is in float32


def test_alibi() -> None:
    q, k, v = (draw(2, 8, 11, 4) for _ in range(3))
    bias = build_alibi_tensor(torch.ones(2, 11), 8, torch.float64).view(2, 8, 1, 11) + causal(11)
    theirs = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    agree(op("alibi")(q, k, v), theirs, q, nn.Identity())


# windows ----------------------------------------------------------------------------------------


def test_global_window_of_big_bird() -> None:
    """The first and the last block are global, with the same projections; blocks of the window and
    random ones are listed."""
    size, rows, heads = 4, 48, 2
    blocks = rows // size
    config = BigBirdConfig(
        hidden_size=8,
        num_attention_heads=heads,
        block_size=size,
        num_random_blocks=1,
        max_position_embeddings=rows,
        attention_probs_dropout_prob=0.0,
        use_bias=True,
    )
    module, x = made(BigBirdBlockSparseAttention(config, seed=3)).train(), draw(2, rows, 8)
    length = torch.tensor([rows, rows - 6])
    real = torch.arange(rows) < length[:, None]
    blocked, band, whole, keys = BigBirdModel.create_masks_for_block_sparse_attn(
        real.double(), size
    )
    theirs = module(x, band, whole, keys, blocked, blocked)[0]

    np.random.seed(3)
    plan = module._get_rand_attn_plan(rows, size, 1)
    chosen = module._bigbird_block_rand_mask_with_head(rows, rows, size, size, heads, *plan)
    listed = torch.zeros(heads, blocks, blocks, dtype=torch.bool)
    at = torch.arange(blocks)
    listed[:, abs(at[:, None] - at) <= 1] = True
    for head, lists in enumerate(chosen):
        for row, others in enumerate(lists, 1):
            listed[head, row, others] = True
    special = ((torch.arange(rows) // size) % (blocks - 1) == 0).expand(2, rows)
    q, k, v = (split(one(x), heads) for one in (module.query, module.key, module.value))
    same = {"qg": q, "kg": k, "vg": v}
    ours = op("global_window", size=size)(
        q, k, v, **same, special=special, length=length, listed=listed, reach=0
    )
    agree(joined(ours)[real], theirs[real], x, module)


def test_window_partition() -> None:
    """Swin's windows cut by hand: the module is given windows."""
    size, height, width = 3, 6, 9
    config = SwinConfig(window_size=size, attn_implementation="sdpa")
    module = made(SwinAttention(config, 8, 2, size))
    x = draw(2, height * width, 8)
    cut = x.view(2, height // size, size, width // size, size, 8).transpose(2, 3)
    theirs = module(cut.reshape(-1, size * size, 8))[0]
    theirs = theirs.view(2, height // size, width // size, size, size, 8).transpose(2, 3)
    q, k, v = (split(one(x), 2) for one in (module.q_proj, module.k_proj, module.v_proj))
    table = module.relative_position_bias.relative_position_bias_table
    bias = table.view(2 * size - 1, 2 * size - 1, 2).permute(2, 0, 1)
    numbers = {"height": height, "width": width}
    ours = op("window_partition", size=size)(q, k, v, bias=bias, **numbers)
    agree(module.o_proj(joined(ours)), theirs.reshape(2, -1, 8), x, module)


def test_cosine_window() -> None:
    height, width, size, shift = 6, 9, 3, 1
    layer = made(Swinv2Layer(Swinv2Config(window_size=size), 8, (height, width), 2, shift_size=1))
    layer.layernorm_before = layer.layernorm_after = nn.Identity()
    layer.intermediate.dense.weight.data.zero_()
    layer.intermediate.dense.bias.data.zero_()
    layer.output.dense.bias.data.zero_()
    own = layer.attention.self
    own.logit_scale.data = torch.tensor([1.3, 4.9]).double().view(2, 1, 1)  # one is clamped
    first, _, last = own.continuous_position_bias_mlp
    x = draw(2, height * width, 8)
    q, k, v = (split(one(x), 2) for one in (own.query, own.key, own.value))
    ours = op("cosine_window", size=size, shift=shift)(
        q,
        k,
        v,
        temperature=own.logit_scale.flatten(),
        wy=first.weight[:, 0],
        wx=first.weight[:, 1],
        c=first.bias,
        out=last.weight,
        height=height,
        width=width,
        trained=size,
    )
    theirs = layer(x, (height, width))[0] - x
    agree(layer.attention.output.dense(joined(ours)), theirs, x, own, **SINGLE)


# several passes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("past", [False, True])
def test_probsparse(past: bool) -> None:
    module = made(InformerProbSparseAttention(8, 2, is_decoder=past, sampling_factor=1))
    x, rows = draw(2, 17, 8), 17
    state = torch.get_rng_state()
    theirs = module(x, attention_mask=causal(rows).expand(2, 1, -1, -1) if past else None)[0]
    torch.set_rng_state(state)
    sample = torch.randint(0, rows, (rows,)).expand(rows, rows)
    q, k, v = (split(one(x), 2) for one in (module.q_proj, module.k_proj, module.v_proj))
    active = int(np.ceil(np.log1p(rows)))
    ours = op("probsparse")(q, k, v, sample=sample, active=active, causal=past)
    close = SINGLE if past else {}  # sums in float32
    agree(module.out_proj(joined(ours)), theirs, x, module, **close)


def test_bidirectional_cross() -> None:
    config = GroundingDinoConfig(d_model=8, encoder_ffn_dim=16, encoder_attention_heads=4)
    module = made(GroundingDinoBiMultiHeadAttention(config))
    image, words = draw(2, 13, 8), draw(2, 7, 8)
    rows, keys = torch.tensor([13, 9]), torch.tensor([5, 7])
    beyond = [torch.arange(n) >= cut[:, None] for n, cut in ((13, rows), (7, keys))]
    (seen, _), (read, _) = module(image, words, *beyond)
    q, u = (split(one(image), 2) for one in (module.vision_proj, module.values_vision_proj))
    k, v = (split(one(words), 2) for one in (module.text_proj, module.values_text_proj))
    ours, answer = op("bidirectional_cross")(
        q, k, v, u=u, rows=rows, keys=keys, keep=2, emit=("answer",)
    )
    agree(module.out_vision_proj(joined(ours))[~beyond[0]], seen[~beyond[0]], image, module)
    torch.testing.assert_close(module.out_text_proj(joined(answer))[~beyond[1]], read[~beyond[1]])


def test_dynamic_mask() -> None:
    """The module's exponential stands in our text; its map of values to gates keeps to heads."""
    config = DogeConfig(**SIZES, keep_window_size=4)
    module, x, rows = made(DogeAttention(config, 0)), draw(2, 11, 16), 11
    gates = draw(2, 6)
    module.dt_proj.weight = nn.Parameter(torch.block_diag(*gates.detach()))
    angles = DogeRotaryEmbedding(config)(x, torch.arange(rows)[None])
    seen = (causal(rows) == 0).expand(2, 1, rows, rows)
    theirs = module(x, angles, seen)[0]
    q, k, v = (
        split(one(x), heads)
        for one, heads in ((module.q_proj, 4), (module.k_proj, 2), (module.v_proj, 2))
    )
    lines = PATHS["dynamic_mask"].read_text()
    delta = "a * softplus(dot(w, v[j]))"
    assert lines.count(delta) == 1
    ours = text(lines.replace(delta, f"exp({delta})"))(
        q,
        k,
        v,
        w=module.dt_proj.weight.view(2, 2, 6)[[0, 1], [0, 1]],
        a=module.A,
        gq=module.q_norm.weight,
        gk=module.k_norm.weight,
        keep=4,
    )
    module.dt_proj.weight.requires_grad_(False)  # off its blocks it is 0 and stays so
    agree(module.o_proj(joined(ours)), theirs, x, module, **SINGLE)


# other axes, summaries, gates -------------------------------------------------------------------


def test_channel_attention() -> None:
    config = Florence2VisionConfig(embed_dim=[8], num_groups=[2], attn_implementation="sdpa")
    module, x = made(Florence2VisionChannelAttention(config, 0)), draw(2, 11, 8)
    q, k, v = (split(one, 2) for one in module.qkv(x).chunk(3, -1))
    temperature = torch.full((2,), 11**0.5, dtype=torch.float64)
    ours = op("channel_attention")(q, k, v, temperature=temperature)
    agree(module.proj(ours.flatten(1, 2).mT), module(x), x, module)


def test_perceiver_resampler() -> None:
    """Its attention: the network after it gives nothing."""
    module = made(IdeficsPerceiverAttention(8, 2, 4, qk_layer_norms=False))
    x, latent = draw(2, 9, 8), draw(3, 8)
    theirs = module(x, latent.expand(2, -1, -1))
    none = {name: torch.zeros(8, dtype=torch.float64) for name in ("gf", "bf")}
    flat = {"w1": torch.zeros(8, 2).double(), "w2": torch.zeros(2, 8).double()}
    into = {f"w{name}": getattr(module, f"{name}_proj").weight.view(2, 4, 8).mT for name in "qkv"}
    ours = op("perceiver_resampler")(
        x,
        latent=latent,
        length=torch.tensor([9, 9]),
        **into,
        wo=module.output_proj.weight.T.reshape(2, 4, 8),
        gx=module.context_layer_norm.weight,
        bx=module.context_layer_norm.bias,
        gl=module.latents_layer_norm.weight,
        bl=module.latents_layer_norm.bias,
        **none,
        **flat,
    )
    agree(ours - latent, theirs, x, module)


def test_learned_query_pooling() -> None:
    """SigLIP's head, without the network after it."""
    config = SiglipVisionConfig(hidden_size=8, num_attention_heads=2, intermediate_size=4)
    module, x = made(SiglipMultiheadAttentionPoolingHead(config)), draw(2, 9, 8)
    module.mlp.forward = torch.zeros_like
    own = module.attention
    into, biases = own.in_proj_weight.chunk(3), own.in_proj_bias.chunk(3)
    q, k, v = (
        split(each @ weight.T + bias, 2)
        for each, weight, bias in zip((module.probe, x, x), into, biases, strict=True)
    )
    ours = op("learned_query_pooling")(k, v, q=q[0], length=torch.tensor([9, 9]))
    agree(own.out_proj(joined(ours))[:, 0], module(x), x, module)


def test_pooled_kv() -> None:
    height, width, step = 4, 6, 2
    config = PvtConfig(qkv_bias=False, layer_norm_eps=1e-5)
    module = made(PvtEfficientSelfAttention(config, 8, 2, step))
    x = draw(2, height * width, 8)
    none = torch.zeros(2, 2, 0, 4).double()
    ours = op("pooled_kv", step=step)(
        split(module.query(x), 2),
        none,
        none,
        image=x,
        taps=module.sequence_reduction.weight.permute(2, 3, 1, 0),
        shift=module.sequence_reduction.bias,
        gain=module.layer_norm.weight,
        bias=module.layer_norm.bias,
        wk=module.key.weight.view(2, 4, 8).mT,
        wv=module.value.weight.view(2, 4, 8).mT,
        height=height,
        width=width,
    )
    agree(joined(ours), module(x, height, width)[0], x, module)


def test_squeeze_excite() -> None:
    module = made(RegNetSELayer(6, 3))
    first, _, second, _ = module.attention
    first.bias = second.bias = None
    x = draw(2, 12, 6)
    theirs = module(x.mT.view(2, 6, 3, 4)).flatten(2).mT
    ours = op("squeeze_excite")(x, w1=first.weight[..., 0, 0].T, w2=second.weight[..., 0, 0].T)
    agree(ours, theirs, x, module)


# recurrences ------------------------------------------------------------------------------------


def test_expected_collisions() -> None:
    """YOSO's expectation: how likely vectors fall into one cell of random hyperplanes."""
    config = YosoConfig(
        hidden_size=16, num_attention_heads=2, use_expectation=True, hash_code_len=9,
        conv_window=None, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    module = YosoSelfAttention(config).double()
    x = draw(2, 10, 16)
    hidden = torch.tensor([[0.0] * 10, [0.0] * 7 + [-1e4] * 3], dtype=torch.float64)
    heads = [split(each(x), 2) for each in (module.query, module.key, module.value)]
    ours = joined(text(COLLISIONS)(*heads, length=torch.tensor([10, 7])))
    theirs = module(x, attention_mask=hidden)[0]  # hidden keys see nothing there
    torch.testing.assert_close(ours[0], theirs[0])
    torch.testing.assert_close(ours[1, :7], theirs[1, :7])


COLLISIONS = """
attention collisions(q, k, v):
    input length: int[b]
    param bits: int = 9
    mask: j < length
    score: (1 - acos(dot(l2norm(d: q[i]), l2norm(d: k[j]))) / pi) ** bits
    read: l2norm(e: sum(j: weight * v[j]))
"""


def test_constant_decay() -> None:
    """Lightning attention, before its norm and its gate."""
    config = MiniMaxConfig(hidden_size=8, num_attention_heads=2, head_dim=4, block_size=4)
    module, x = made(MiniMaxLightningAttention(config, 0)), draw(2, 11, 8)
    module.norm = nn.Identity()
    module.output_gate.weight.data.zero_()
    slope = module.get_slope_rate().double()
    module.slope_rate = slope
    module.query_decay, module.key_decay, module.diagonal_decay = module.decay_factors(slope)
    packed = module.act_fn(module.qkv_proj(x)).unflatten(-1, (2, 12))
    q, k, v = (one.transpose(1, 2) for one in packed.split(4, -1))
    ours = module.out_proj(joined(op("constant_decay")(q, k, v, slope=slope.flatten())) / 2)
    module.output_gate.weight.requires_grad_(False)
    agree(ours, module(x, (x, x), None)[0], x, module)


def test_mamba() -> None:
    x, dt = draw(2, 9, 4), draw(2, 9, 4)
    b, c = draw(2, 9, 3), draw(2, 9, 3)
    a, d, bias = draw(4, 3), draw(4), draw(4)
    theirs = mamba_selective_scan(
        x.mT, dt.mT, -a.exp(), b.mT, c.mT, D=d, delta_bias=bias, delta_softplus=True
    ).mT
    ours = op("mamba")(x, dt=dt, B=b, C=c, A=a, bias=bias, D=d)
    agree(ours, theirs, x, nn.ParameterList([dt, b, c, a, d, bias]), rtol=1e-5, atol=1e-6)
