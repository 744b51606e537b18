"""Gallery operators against natten and modules of x-transformers, agent-attention-pytorch and
transformers, whose weights are random; where a module has a projection after the operator, it is
applied to ours. natten names torch as what it is built with, so `make` installs it alone:
pip install --no-deps --no-build-isolation natten, with CUDA_VISIBLE_DEVICES empty.

A difference that is none of ours: transformers' Nystromformer starts the inverse from a number of
all heads and batches together, unless it is told otherwise; the paper has one for each matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from agent_attention_pytorch import AgentSelfAttention
from attnc.backends.numpy_oracle import evaluate
from einops.layers.torch import Reduce
from gallery_cases import load
from native_sparse_attention_pytorch import SparseAttention
from test_gallery_public import PATHS, SHAPE, Tensors, drawn
from torch import Tensor, nn
from transformers import LongformerConfig, NystromformerConfig, SwinConfig
from transformers.models.longformer.modeling_longformer import LongformerSelfAttention
from transformers.models.nystromformer.modeling_nystromformer import NystromformerSelfAttention
from transformers.models.swin.modeling_swin import SwinLayer
from x_transformers.attend import Attend
from x_transformers.x_transformers import (
    AlibiPositionalBias,
    Attention,
    CoPE,
    RelativePositionBias,
)

from attnc.front import load_source, read_spec
from attnc.source import Source

HEADS = SHAPE.key_heads * SHAPE.group
Options = dict[str, Any]


def oracle(name: str, tensors: Tensors, numbers: Options, **statics: float) -> Tensor:
    spec = read_spec(load_source(PATHS[name]), statics=statics) if statics else load(PATHS[name])
    arrays = {each: x.detach().numpy() for each, x in tensors.items()}
    return torch.from_numpy(evaluate(spec, arrays, numbers)["out"])


def split(x: Tensor, heads: int) -> Tensor:
    """[batch, length, heads * width] -> [batch, heads, length, width]"""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(5)


# x-transformers ---------------------------------------------------------------------------------


def window(size: int) -> Tensor:
    i = torch.arange(SHAPE.rows)
    return (i[:, None] - i < size)[None, None]


def buckets(t: Tensors) -> Tensor:
    made = RelativePositionBias(1.0, False, 8, 9, HEADS)
    made.relative_attention_bias.weight.data = t["bias"].T
    return made(SHAPE.rows, SHAPE.rows)


CAUSAL = {"causal": True}
EXACT = {"qk_norm": True}  # this alone leaves its softmax in the type of the inputs
# name: numbers, options of the module, what a call of it is given further
ATTEND: dict[str, tuple[Options, Options, Callable[[Tensors], Options]]] = {
    "softmax": ({}, EXACT, lambda t: {}),
    "causal_softmax": ({}, CAUSAL | EXACT, lambda t: {}),
    "off_by_one": ({}, CAUSAL | EXACT | {"add_zero_kv": True}, lambda t: {}),
    "soft_cap": (
        {"cap": 2.0},
        CAUSAL | EXACT | {"softclamp_logits": True, "logit_softclamp_value": 2.0},
        lambda t: {},
    ),
    "sigmoid_bias": (
        {},
        CAUSAL | {"sigmoid": True},
        lambda t: {"attn_bias": t["bias"][:, None, None]},
    ),
    "unnormalised_attention": ({}, CAUSAL | {"sigmoid": True}, lambda t: {}),
    "relu_squared": ({}, CAUSAL | {"custom_attn_fn": lambda s: F.relu(s) ** 2}, lambda t: {}),
    "distance": ({}, EXACT | {"l2_distance": True}, lambda t: {}),
    "learned_sinks": (
        {"window": 9},
        CAUSAL | EXACT | {"heads": HEADS, "head_learned_sink": True},
        lambda t: {"mask": window(9)},
    ),
    "alibi": (
        {},
        CAUSAL | EXACT,
        lambda t: {"attn_bias": AlibiPositionalBias(HEADS)(SHAPE.rows, SHAPE.rows).double()},
    ),
    "bucketed_bias": ({}, EXACT | {"scale": 1.0}, lambda t: {"attn_bias": buckets(t)}),
}


@pytest.mark.parametrize("name", ATTEND)
def test_x_transformers(name: str) -> None:
    numbers, options, more = ATTEND[name]
    t, out = drawn(name, numbers)
    module = Attend(**options).double()
    if "sink" in t:
        module.head_attn_sink.data = t["sink"]
    k, v = (t[each].repeat_interleave(SHAPE.group, 1) for each in "kv")
    expected, _ = module(t["q"], k, v, **more(t))
    np.testing.assert_allclose(out, expected.detach().numpy(), rtol=1e-9, atol=1e-9)


def test_contextual_positions() -> None:
    """The paper's gates ask for the score as it is scaled, ours for the product: they are the same
    at a scale of 1."""
    t, _ = drawn("contextual_positions", {})
    reach = t["table"].shape[1]
    cope = CoPE(SHAPE.width, HEADS, reach)
    cope.pos_emb.data = t["table"][0]
    shared = t | {"table": t["table"][:1].expand(HEADS, -1, -1)}
    module = Attend(**CAUSAL, **EXACT, scale=1.0, cope=cope).double()
    k, v = (t[each].repeat_interleave(SHAPE.group, 1) for each in "kv")
    theirs, _ = module(t["q"], k, v)
    text = PATHS["contextual_positions"].read_text().replace(" * scale", "")
    spec = read_spec(Source(text, "text.attn"), statics={"reach": reach})
    arrays = {name: x.numpy() for name, x in shared.items()}
    ours = evaluate(spec, arrays, {})["out"]
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["memory_slots", "cosine"])
def test_layers_of_x_transformers(name: str) -> None:
    more = {"num_mem_kv": 3} if name == "memory_slots" else {"qk_norm": True, "qk_norm_scale": 7}
    module = Attention(8, dim_head=4, heads=2, **CAUSAL, **more).double()
    x = draw(2, 13, 8)
    tensors = {n: split(getattr(module, f"to_{n}")(x), 2) for n in "qkv"}
    if name == "memory_slots":
        module.mem_k.data, module.mem_v.data = draw(2, 3, 4), draw(2, 3, 4)
        tensors |= {"mk": module.mem_k, "mv": module.mem_v}
    else:
        tensors["temperature"] = torch.full((2,), 7.0)
    theirs = module(x)
    close = {} if name == "cosine" else {"rtol": 1e-5, "atol": 1e-6}  # its softmax is in float32
    torch.testing.assert_close(module.to_out(joined(oracle(name, tensors, {}))), theirs, **close)


# modules with projections -----------------------------------------------------------------------


def test_agent_attention() -> None:
    """Its agents are pooled queries here."""
    agents, rows, width = 3, 13, 8
    options = {"dim_head": 4, "heads": 2, "talking_heads": False, "gate": False}
    module = AgentSelfAttention(width, num_agent_tokens=agents, **options).double()
    x = draw(2, rows, width)
    q, k, v = module.to_qkv(x)
    part = torch.arange(rows) * agents // rows
    pooled = torch.stack([q[:, :, part == a].mean(2) for a in range(agents)], 2)
    none = {"b1": torch.zeros(2, agents, rows), "b2": torch.zeros(2, rows, agents)}
    ours = oracle("agent", {"q": q, "k": k, "v": v, **none}, {"agents": agents})
    torch.testing.assert_close(module.to_out(ours), module(x, agent_tokens=pooled))


def test_nystromformer() -> None:
    rows, marks = 24, 4
    config = NystromformerConfig(
        hidden_size=8,
        num_attention_heads=2,
        num_landmarks=marks,
        segment_means_seq_len=rows,
        conv_kernel_size=5,
    )
    module = NystromformerSelfAttention(config).double().eval()
    module.init_option = "exact"
    x = draw(2, rows, 8)
    ours = oracle(
        "nystromformer",
        {
            **{
                n: split(one(x), 2)
                for n, one in zip("qkv", (module.query, module.key, module.value), strict=True)
            },
            "taps": module.conv.weight[:, 0, :, 0],
            "length": torch.full((2,), rows),
        },
        {"marks": marks},
        rounds=6,
    )
    torch.testing.assert_close(joined(ours), module(x)[0])


def test_swin() -> None:
    """A block of shifted windows, without its norm and its network."""
    height, width, size, shift = 6, 9, 3, 1
    config = SwinConfig(window_size=size, attn_implementation="eager")
    layer = SwinLayer(config, 8, (height, width), 2, shift_size=shift).double().eval()
    layer.layernorm_before = nn.Identity()
    layer.mlp.forward = torch.zeros_like
    own = layer.attention
    table = own.relative_position_bias.relative_position_bias_table
    table.data = draw(*table.shape)
    x = draw(2, height * width, 8)
    tensors = {
        n: split(one(x), 2)
        for n, one in zip("qkv", (own.q_proj, own.k_proj, own.v_proj), strict=True)
    }
    tensors["bias"] = table.view(2 * size - 1, 2 * size - 1, 2).permute(2, 0, 1)
    numbers = {"height": height, "width": width}
    ours = oracle("shifted_window", tensors, numbers, size=size, shift=shift)
    found = layer(x, (height, width))[0] - x
    torch.testing.assert_close(own.o_proj(joined(ours)), found)


def test_longformer() -> None:
    """Windows, global tokens with projections of their own, padding; its softmax is in float32."""
    rows, reach = 24, 4
    config = LongformerConfig(hidden_size=8, num_attention_heads=2, attention_window=[2 * reach])
    module = LongformerSelfAttention(config, 0).double().eval()
    x = draw(2, rows, 8)
    length = torch.tensor([rows, rows - 5])
    special = torch.zeros(2, rows, dtype=torch.bool)
    special[0, [0, 11]] = special[1, 3] = True
    padded = torch.arange(rows) >= length[:, None]
    mask = torch.where(padded, -10000.0, torch.where(special, 10000.0, 0.0)).double()
    theirs = module(x, mask, padded, special, True)[0]
    local = {
        n: split(getattr(module, word)(x), 2)
        for n, word in (("q", "query"), ("k", "key"), ("v", "value"))
    }
    wide = {
        f"{n}g": split(getattr(module, f"{word}_global")(x), 2)
        for n, word in (("q", "query"), ("k", "key"), ("v", "value"))
    }
    blocks = {"listed": torch.zeros(2, 12, 12, dtype=torch.bool)}
    more = {"special": special, "length": length}
    ours = joined(
        oracle("global_window", {**local, **wide, **blocks, **more}, {"reach": reach}, size=2)
    )
    torch.testing.assert_close(ours[~padded], theirs[~padded], rtol=1e-5, atol=1e-6)


# name: the function of natten, the map, statics here, options there
NEAR: dict[str, tuple[str, tuple[int, ...], Options, Options]] = {
    "neighborhood_1d": (
        "na1d",
        (19,),
        {"size": 3, "dilation": 2, "stride": 2},
        {"kernel_size": 3, "dilation": 2, "stride": 2},
    ),
    "neighborhood": (
        "na3d",
        (5, 6, 7),
        {"size": 3, "stride": 2},
        {"kernel_size": 3, "stride": (1, 2, 2), "is_causal": (True, False, False)},
    ),
    "neighborhood_2d": (
        "na2d",
        (7, 9),
        {"size": 3, "dilation": 2},
        {"kernel_size": (3, 3), "dilation": (2, 2)},
    ),
    "neighborhood_3d": (
        "na3d",
        (4, 5, 6),
        {"past": 2, "size": 3, "stride": 2},
        {"kernel_size": (2, 3, 3), "stride": (1, 2, 2), "is_causal": (True, False, False)},
    ),
}


@pytest.mark.parametrize("name", NEAR)
@pytest.mark.filterwarnings("ignore")
def test_natten(name: str) -> None:
    """On FlexAttention, as it runs without a GPU."""
    module = pytest.importorskip("natten.functional", reason="see above how it is installed")
    function, sizes, statics, options = NEAR[name]
    q, k, v = (draw(2, 2, int(np.prod(sizes)), 8).float() for _ in range(3))
    axes = ("frames", "height", "width")[-len(sizes) :]
    numbers = dict(zip(axes, sizes, strict=True)) if len(sizes) > 1 else {}
    tensors = {"q": q, "k": k, "v": v}
    if name == "neighborhood_2d":
        tensors["bias"] = torch.zeros(2, 11, 11)
    ours = oracle(name, tensors, numbers, **statics)
    placed = (x.transpose(1, 2).unflatten(1, sizes) for x in (q, k, v))
    theirs = (
        getattr(module, function)(*placed, backend="flex-fna", **options)
        .flatten(1, -3)
        .transpose(1, 2)
    )
    torch.testing.assert_close(ours.float(), theirs, rtol=1e-5, atol=1e-5)


# The branches of "nsa" as the package has them: blocks of one size, pooled by a mean, one more
# compressed key, and blocks chosen by the mean of scores where the paper takes a sum of weights.
SPARSE = """
from positional import rotary_pairs
pipeline sparse(q, k, v) for i:
    static block: int = 4, keep: int = 2, recent: int = 5
    input mk: real[hk, m, d], mv: real[hk, m, e], gate: real[b, h, i, three]
    axis c < len(j) // block
    kc[c] = mean(j if j // block == c: k[j])
    vc[c] = mean(j if j // block == c: v[j])
    qr[i] = rotary_pairs(d: q[i], i)
    kr[j] = rotary_pairs(d: k[j], j)
    attention coarse for i over m | c:
        mask[c]: (c + 1) * block - 1 < i
        score[m]: dot(q[i], mk[m]) * scale
        score[c]: dot(q[i], kc[c]) * scale
        normalize: softmax(m | c: score)
        read: sum(m: weight * mv[m]) + sum(c: weight * vc[c])
    chosen[hk, i] = topk(c if (c + 1) * block - 1 < i: mean(h of hk: dot(q[i], kc[c])), keep)
    attention fine for i over j:
        mask: j <= i and (j // block == i // block or (chosen[i, j // block] else false))
        score: dot(qr[i], kr[j]) * scale
        normalize: softmax(j: score)
    attention near for i over j:
        mask: 0 <= i - j <= recent
        score: dot(qr[i], kr[j]) * scale
        normalize: softmax(j: score)
    read: gate[i, 0] * coarse[i] + gate[i, 1] * fine[i] + gate[i, 2] * near[i]
"""


def test_native_sparse_attention() -> None:
    module = SparseAttention(
        8,
        dim_head=4,
        heads=4,
        kv_heads=2,
        sliding_window_size=5,
        compress_block_size=4,
        compress_block_sliding_stride=4,
        selection_block_size=4,
        num_selected_blocks=2,
        causal=True,
        norm=False,
        compress_mlp=Reduce("b h w n d -> b h w d", "mean"),
    ).double()
    mix = module.to_strategy_combine[0]
    mix.weight.data, module.compress_mem_kv.data = draw(*mix.weight.shape), draw(2, 2, 1, 4)
    x = draw(2, 26, 8)
    parts = module.to_qkv(x).split(module.qkv_split, -1)
    tensors = dict(zip("qkv", map(module.split_heads, parts), strict=True))
    tensors |= dict(zip(("mk", "mv"), module.compress_mem_kv, strict=True))
    tensors["gate"] = module.to_strategy_combine(x)
    arrays = {name: one.detach().numpy() for name, one in tensors.items()}
    ours = torch.from_numpy(evaluate(read_spec(Source(SPARSE, "sparse.attn")), arrays, {})["out"])
    torch.testing.assert_close(module.combine_heads(joined(ours)), module(x))
