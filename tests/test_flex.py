"""FlexAttention's mods become texts: every pure mask and mod of attn-gym, point for point, and
what cannot be traced says which function in which line."""

from __future__ import annotations

import functools
import math
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from attn_gym import masks, mods
from attn_gym.masks.document_mask import length_to_offsets
from attn_gym.masks.vsa import generate_vsa_padding_mask_mod
from torch.nn.attention.flex_attention import (
    and_masks,
    create_block_mask,
    create_mask,
    flex_attention,
    or_masks,
)

import attnc
from attnc.errors import AttncError, InternalError
from attnc.flex import text as flex_text
from attnc.formatter import format_source

HEADS = 4
Mod = Callable[..., Any] | None


def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


# --- attn-gym -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gym:
    """A mask and a mod of attn-gym, made anew for each test, and lengths that they are made for."""

    make: Callable[[], tuple[Mod, Mod]]
    rows: int = 20
    keys: int = 20
    functions: tuple[tuple[str, Callable[..., Any]], ...] = ()


def tensor(*shape: int, high: int = 0) -> torch.Tensor:
    made = torch.Generator().manual_seed(sum(shape) + high)
    if high:
        return torch.randint(0, high, shape, generator=made)
    return torch.randn(shape, generator=made)


def distances() -> torch.Tensor:
    return mods.shortest_path_distances(tensor(2, 9, 9) < -0.5, 4)


def edge_bias() -> Mod:
    types, lengths = mods.shortest_path_edge_types(
        tensor(2, 9, 9) < -0.5, tensor(2, 9, 9, high=5), 3
    )
    return mods.generate_graphormer_edge_bias(tensor(HEADS, 3, 5), types, lengths)


DOCUMENTS = functools.partial(length_to_offsets, [3, 9, 1, 7], "cpu")
TREE = functools.partial(masks.build_tree_ancestor_matrix, [-1, 0, 1, 1, 3, 3, 0], "cpu")
PREFIXES = (0, 0, 0, 0, 4, 4, 4, 4)
TILES = functools.partial(tensor, 2, HEADS, 5, 2, high=5)
SIZES = (4, 4, 3, 4, 1)
GYM = {
    "causal": Gym(lambda: (None, masks.causal_mask), 13, 20),
    "sliding_window": Gym(lambda: (None, masks.generate_sliding_window(7))),
    "dilated": Gym(lambda: (None, masks.generate_dilated_sliding_window(8, 2))),
    "batchified": Gym(lambda: (None, masks.batchify_mask_mod(masks.causal_mask, 5))),
    "block_diffusion": Gym(lambda: (None, masks.generate_block_diffusion_mask(12, 4)), 24, 24),
    "documents": Gym(lambda: (None, masks.generate_doc_mask_mod(masks.causal_mask, DOCUMENTS()))),
    "packed_documents": Gym(lambda: (None, masks.generate_packed_causal_doc_mask_mod(DOCUMENTS()))),
    "flamingo": Gym(
        lambda: (
            None,
            masks.generate_vision_cross_attention_mask_mod(
                torch.tensor([[0, 7], [1, 7], [7, 12]]), 3
            ),
        ),
        12,
        9,
    ),
    "global_window": Gym(
        lambda: (None, masks.generate_global_sliding_window(3, tensor(20) < -0.9))
    ),
    "tree": Gym(lambda: (None, masks.generate_jetspec_tree_causal_mask_mod(3, TREE())), 7, 10),
    "tree_training": Gym(lambda: (None, masks.generate_jetspec_training_mask_mod(5, 4)), 12, 17),
    "natten": Gym(lambda: (None, masks.generate_natten(6, 6, 3, 3)), 36, 36),
    "tiled_natten": Gym(lambda: (None, masks.generate_tiled_natten(6, 6, 3, 3, 2, 2)), 36, 36),
    "morton_natten": Gym(lambda: (None, masks.generate_morton_natten(8, 8, 3, 3)), 64, 64),
    "prefix_lm": Gym(lambda: (None, masks.generate_prefix_lm_mask(5))),
    "shared_prefix": Gym(
        lambda: (
            None,
            masks.generate_shared_prefix_mask_mod(
                length_to_offsets([3, 2, 2, 2, 3, 2, 2, 2], "cpu"), torch.tensor(PREFIXES)
            ),
        ),
        18,
        18,
    ),
    "sta_2d": Gym(
        lambda: (None, masks.generate_sta_mask_mod_2d((8, 8), (4, 4), (2, 2), 3)), 67, 67
    ),
    "sta_3d": Gym(
        lambda: (None, masks.generate_sta_mask_mod_3d((4, 4, 4), (2, 2, 2), (2, 2, 2), 5)), 69, 69
    ),
    "svg_spatial": Gym(
        lambda: (None, masks.generate_spatial_head_mask_mod(2, 10, 14, 2, True, 4)), 142, 142
    ),
    "svg_temporal": Gym(
        lambda: (None, masks.generate_temporal_head_mask_mod(2, 10, 14, 2)), 142, 142
    ),
    "vsa": Gym(lambda: (None, masks.generate_vsa_mask_mod(TILES(), 4))),
    "vsa_sizes": Gym(lambda: (None, masks.generate_vsa_mask_mod(TILES(), 4, torch.tensor(SIZES)))),
    "vsa_padding": Gym(lambda: (None, generate_vsa_padding_mask_mod(torch.tensor(SIZES), 4))),
    "activation_gelu": Gym(lambda: (mods.generate_activation_score_mod(), None)),
    "activation_relu": Gym(lambda: (mods.generate_activation_score_mod(F.relu), causal)),
    "alibi": Gym(lambda: (mods.generate_alibi_bias(HEADS), masks.causal_mask), 20, 23),
    "sandwich": Gym(lambda: (mods.generate_sandwich_bias(HEADS, 20), masks.causal_mask)),
    "soft_cap": Gym(lambda: (mods.generate_tanh_softcap(30), None)),
    "soft_cap_of_ptx": Gym(
        lambda: (mods.generate_tanh_softcap(30, approx=True), None),
        functions=(("approx::tanh", torch.tanh),),
    ),
    "graphormer_spatial": Gym(
        lambda: (mods.generate_graphormer_spatial_bias(tensor(HEADS, 6), distances()), None), 9, 9
    ),
    "graphormer_edges": Gym(lambda: (edge_bias(), None), 9, 9),
    "latent_rope": Gym(
        lambda: (
            mods.generate_mla_rope_score_mod(tensor(2, HEADS, 10, 6), tensor(2, 1, 10, 6), HEADS),
            None,
        ),
        10,
        10,
    ),
}


def flex(q, k, v, score_mod, mask_mod, **more) -> torch.Tensor:
    """`flex_attention` as it is, uncompiled."""
    shape = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    block_mask = create_block_mask(mask_mod, *shape, device="cpu") if mask_mod else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return flex_attention(q, k, v, score_mod=score_mod, block_mask=block_mask, **more)


def call_of(gym: Gym) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(7)
    sizes = [(2, HEADS, n, 8) for n in (gym.rows, gym.keys, gym.keys)]
    q, k, v = (torch.randn(size, generator=made) for size in sizes)
    return q, k, v


@pytest.mark.parametrize("name", GYM)
def test_attn_gym(name: str) -> None:
    gym = GYM[name]
    score_mod, mask_mod = gym.make()
    op = attnc.from_flex(score_mod, mask_mod, backend="numpy", functions=dict(gym.functions))
    assert format_source(op.text) == op.text
    q, k, v = call_of(gym)
    out, score = op.reference(q, k, v, emit=("score",))
    if mask_mod is not None:
        seen = create_mask(mask_mod, 2, HEADS, gym.rows, gym.keys, device="cpu")
        assert np.array_equal(score > -np.inf, seen.numpy())
    expected = flex(q, k, v, score_mod, mask_mod)
    np.testing.assert_allclose(out, expected.numpy(), atol=2e-5, rtol=2e-5)


def test_every_mask_and_mod_of_attn_gym_is_here() -> None:
    """What attn-gym's next release adds shows up here."""
    makers = {n for home in (masks, mods) for n in dir(home) if n.startswith("generate_")}
    here = Path(__file__).read_text()
    assert {name for name in makers if name not in here} == set()


@pytest.mark.parametrize("name", ["documents", "alibi"])
def test_kernels_equal_flex_attention(name: str) -> None:
    gym = GYM[name]
    score_mod, mask_mod = gym.make()
    op = attnc.from_flex(score_mod, mask_mod, backend="cpu")
    q, k, v = call_of(gym)
    torch.testing.assert_close(
        op(q, k, v), flex(q, k, v, score_mod, mask_mod), atol=2e-6, rtol=2e-5
    )


# --- what the text looks like ---------------------------------------------------------------------


def text_of(score_mod: Mod = None, mask_mod: Mod = None) -> str:
    """The lines between the header and the normalizer."""
    lines = attnc.from_flex(score_mod, mask_mod, backend="numpy").text.splitlines()
    assert lines[0].startswith("# from FlexAttention: ") and lines[-1].startswith("    normalize")
    return "\n".join(line[4:] for line in lines[2:-1])


def test_a_window_reads_as_one_writes_it() -> None:
    window = 256
    assert text_of(mask_mod=lambda b, h, q, kv: (q >= kv) & (q - kv < 256)) == (
        "mask: j <= i and i - j < 256\nscore: dot(q[i], k[j]) * scale"
    )
    assert text_of(mask_mod=lambda b, h, q, kv: (q - kv >= 0) & (q - kv < window)) == (
        "param window: int = 256\nmask: 0 <= i - j < window\nscore: dot(q[i], k[j]) * scale"
    )


def test_names_come_from_the_mod() -> None:
    docs, bias = tensor(20, high=3), tensor(HEADS, 20, 20)
    limits = {"cap": 30.0}

    def score_mod(score, b, h, q_idx, kv_idx):
        capped = limits["cap"] * torch.tanh(score / limits["cap"])
        return capped + bias[h, q_idx, kv_idx]

    def same_document(b, h, q_idx, kv_idx):
        return docs[q_idx] == docs[kv_idx]

    assert text_of(score_mod, and_masks(same_document, causal)) == (
        "input docs: int[j], bias: real[h, i, j]\n"
        "param cap: real = 30.0\n"
        "mask: docs[i] == docs[j] and j <= i\n"
        "score: cap * tanh(dot(q[i], k[j]) * scale / cap) + bias[i, j]"
    )


def test_what_is_used_twice_is_an_equation_of_its_name() -> None:
    size = 4

    def mask_mod(b, h, q_idx, kv_idx):
        mine, theirs = q_idx // size, kv_idx // size
        return (mine == theirs) | ((mine - 1 == theirs) & (kv_idx % size == 0))

    assert text_of(mask_mod=mask_mod) == (
        "param size: int = 4\n"
        "mine[i] = i // size\n"
        "theirs[j] = j // size\n"
        "mask: mine == theirs or mine - 1 == theirs and j % size == 0\n"
        "score: dot(q[i], k[j]) * scale"
    )


def test_a_score_of_minus_infinity_is_a_mask() -> None:
    mod = lambda s, b, h, q, kv: torch.where(q >= kv, s, -float("inf"))  # noqa: E731
    assert text_of(mod) == "mask: j <= i\nscore: dot(q[i], k[j]) * scale"


def test_a_number_that_decides_is_no_param() -> None:
    width, wide = 7, 3

    def mask_mod(b, h, q_idx, kv_idx):
        reach = width * 2 if width > 4 else width
        return (q_idx - kv_idx).abs() < reach + wide

    assert text_of(mask_mod=mask_mod) == (
        "param wide: int = 3\nmask: abs(i - j) < 14 + wide\nscore: dot(q[i], k[j]) * scale"
    )


def test_names_that_mean_something_give_way() -> None:
    scale, offset, h = 0.5, 3, 2
    mod = lambda s, b, hd, q, kv: s * scale + (q + offset - kv) * h  # noqa: E731
    assert "param h_value: int = 2, offset_value: int = 3, scale_value: real = 0.5" in text_of(mod)


# --- functions, each held to PyTorch by the check at points ---------------------------------------

TABLE = tensor(7)
COUNTS = tensor(5, high=9)
FLAGS = tensor(20) > 0
PAIRS = tensor(20, 2)
SCORES: dict[str, Callable[..., Any]] = {
    "arithmetic": lambda s, b, h, q, kv: (s + 1) * 2 - s / 3 + (-s) - (1 - s) / (q + 1),
    "floor_division": lambda s, b, h, q, kv: (q - kv) // 3 + (q - kv) % 3 + (-q) // 2,
    "real_division": lambda s, b, h, q, kv: s // 0.5 + s % 0.25,
    "truncation": lambda s, b, h, q, kv: torch.div(q - kv, 3, rounding_mode="trunc") + s.trunc(),
    "fmod": lambda s, b, h, q, kv: torch.fmod(q - kv, 4) + torch.fmod(s, 0.5),
    "powers": lambda s, b, h, q, kv: s**2 + 2.0 ** (-h) + torch.pow(s, 3) + s.square(),
    "exponentials": lambda s, b, h, q, kv: torch.exp(s) + torch.exp2(s) + torch.expm1(s),
    "logarithms": lambda s, b, h, q, kv: torch.log(q + 1.0) + torch.log2(kv + 1) + torch.log1p(q),
    "roots": lambda s, b, h, q, kv: torch.rsqrt(kv + 1) + torch.sqrt(q + 1).reciprocal(),
    "waves": lambda s, b, h, q, kv: torch.sin(s) + torch.cos(q * 0.1) + torch.tan(s * 0.1),
    "arcs": lambda s, b, h, q, kv: torch.asin(s / 9) + torch.arccos(s / 9) + torch.atan(s),
    "bends": lambda s, b, h, q, kv: torch.tanh(s) + torch.sigmoid(s) + F.silu(s) + torch.erf(s),
    "gelu": lambda s, b, h, q, kv: F.gelu(s) + F.gelu(s, approximate="tanh"),
    "slopes": lambda s, b, h, q, kv: F.relu(s) + F.leaky_relu(s, 0.1) + F.elu(s) + F.softplus(s),
    "extremes": lambda s, b, h, q, kv: torch.maximum(q, kv) + torch.minimum(s, s * 0),
    "clamps": lambda s, b, h, q, kv: s.clamp(-1, 1) + s.clamp(min=0) + torch.clamp(q - kv, max=3),
    "signs": lambda s, b, h, q, kv: torch.sign(q - kv) + torch.abs(s) + (q - kv).abs(),
    "rounding": lambda s, b, h, q, kv: torch.floor(s) + torch.ceil(s) + torch.round(s * 2),
    "choice": lambda s, b, h, q, kv: torch.where(q == kv, s, torch.where(s > 0, 1.0, 0)),
    "filled": lambda s, b, h, q, kv: s.masked_fill(q < kv, float("-inf")),
    "truths_count": lambda s, b, h, q, kv: s * (q >= kv) + (q == kv).float() + (h < 2).int(),
    "casts": lambda s, b, h, q, kv: q.float() / 3 + s.to(torch.float64) + (s * 3).int() + kv.to(s),
    "in_place": lambda s, b, h, q, kv: _added_in_place(s, q),
    "constants": lambda s, b, h, q, kv: s + math.pi + torch.tensor(2.0) + torch.ones(()) * 3,
    "read": lambda s, b, h, q, kv: s + TABLE[(q - kv).clamp(-3, 3) + 3] + TABLE[-1],
    "nested_read": lambda s, b, h, q, kv: s + TABLE[COUNTS[h] % 7],
    "vector": lambda s, b, h, q, kv: s + (TABLE * COUNTS[h]).sum() + TABLE.max() + PAIRS[q].mean(),
    "slices": lambda s, b, h, q, kv: s + TABLE[2:5].sum() + PAIRS[q, 1:].sum(),
    "unpacked": lambda s, b, h, q, kv: s + _difference(*PAIRS[q]),
    "products": lambda s, b, h, q, kv: s + torch.dot(PAIRS[q], PAIRS[kv]) + PAIRS[q] @ PAIRS[kv],
    "dims": lambda s, b, h, q, kv: (s.unsqueeze(0) + TABLE).squeeze(-1).amax(dim=-1),
    "embedding": lambda s, b, h, q, kv: s + F.embedding(q % 7, TABLE[:, None])[0],
    "batch": lambda s, b, h, q, kv: s * (b + 1) + (b * 10 + h),
    "full_like": lambda s, b, h, q, kv: torch.full_like(s, 2.0) + torch.zeros_like(s) + s,
}  # fmt: skip


def _first(b, h, q_idx, kv_idx):
    return kv_idx < 2


MASKS: dict[str, Callable[..., Any]] = {
    "logic": lambda b, h, q, kv: ~(q < kv) & ((q == kv) | (kv < 3)) ^ (q > 17),
    "words": lambda b, h, q, kv: torch.logical_and(q >= kv, torch.logical_not(q - kv > 5)),
    "comparisons": lambda b, h, q, kv: torch.ge(q, kv) & torch.ne(q, 3) & kv.lt(9) & q.eq(q),
    "tables": lambda b, h, q, kv: FLAGS[q] | ~FLAGS[kv],
    "folds": lambda b, h, q, kv: (kv == COUNTS).any() | (q < COUNTS).all(),
    "constant": lambda b, h, q, kv: True,
    "ones": lambda b, h, q, kv: q.new_ones((), dtype=torch.bool) & (kv <= q),
    "bits": lambda b, h, q, kv: ((q & 3) == (kv & 3)) | ((q >> 2) == (kv >> 2)) | ((q & 5) > 4),
    "shifts": lambda b, h, q, kv: ((q & 3) << 2 | (kv & 3)) < 9,
    "heads": lambda b, h, q, kv: torch.where(h % 2 == 0, q >= kv, q <= kv),
    "composed": or_masks(and_masks(causal, lambda b, h, q, kv: q - kv < 5), _first),
}  # fmt: skip


def _added_in_place(score, q_idx):
    score += q_idx
    score *= 2
    return score


def _difference(one, other):
    return one - other


@pytest.mark.parametrize("name", SCORES)
def test_scores(name: str) -> None:
    attnc.from_flex(SCORES[name], backend="numpy")


@pytest.mark.parametrize("name", MASKS)
def test_masks(name: str) -> None:
    attnc.from_flex(mask_mod=MASKS[name], backend="numpy")


# --- calls ----------------------------------------------------------------------------------------


def test_numbers_and_tensors_are_defaults_of_the_call() -> None:
    window, docs = 4, tensor(30, high=3)  # longer than the call: its first entries count

    def mask_mod(b, h, q_idx, kv_idx):
        return (q_idx - kv_idx < window) & (docs[q_idx] == docs[kv_idx]) & (q_idx >= kv_idx)

    op = attnc.from_flex(mask_mod=mask_mod, backend="eager")
    q, k, v = call_of(GYM["documents"])
    torch.testing.assert_close(op(q, k, v), flex(q, k, v, None, mask_mod), atol=2e-6, rtol=2e-5)
    window, docs = 9, tensor(20, high=2)
    other = op(q, k, v, window=9, docs=docs)
    torch.testing.assert_close(other, flex(q, k, v, None, mask_mod), atol=2e-6, rtol=2e-5)


def test_rows_of_a_tensor_follow_the_offset() -> None:
    gain = tensor(20)
    op = attnc.from_flex(lambda s, b, h, q, kv: s * gain[q], causal, backend="eager")
    q, k, v = call_of(GYM["documents"])
    last = op(q[:, :, -3:], k, v, offset=17)
    torch.testing.assert_close(last, op(q, k, v)[:, :, -3:], atol=2e-6, rtol=2e-5)


def test_grouped_heads() -> None:
    op = attnc.from_flex(mods.generate_alibi_bias(HEADS), causal, backend="eager")
    q, k, v = call_of(GYM["documents"])
    k, v = k[:, :2], v[:, :2]
    expected = flex(q, k, v, mods.generate_alibi_bias(HEADS), causal, enable_gqa=True)
    torch.testing.assert_close(op(q, k, v), expected, atol=2e-6, rtol=2e-5)


def test_captured_parameters_learn() -> None:
    class Biased(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = torch.nn.Parameter(tensor(HEADS))

        def mod(self, score, b, h, q_idx, kv_idx):
            return score + self.bias[h] * (kv_idx - q_idx)

    model = Biased()
    op = attnc.from_flex(model.mod, causal, backend="eager")
    assert "input bias: real[h]" in op.text
    q, k, v = call_of(GYM["documents"])
    op(q, k, v).square().sum().backward()
    found = model.bias.grad
    model.bias.grad = None
    score = (q @ k.mT) * q.shape[-1] ** -0.5
    far = torch.arange(20)[None, :] - torch.arange(20)[:, None]
    weight = (score + model.bias[:, None, None] * far).masked_fill(far > 0, -torch.inf)
    (weight.softmax(-1) @ v).square().sum().backward()
    torch.testing.assert_close(found, model.bias.grad, atol=1e-4, rtol=1e-4)


# --- what cannot be traced ------------------------------------------------------------------------


def _branch(score, b, h, q_idx, kv_idx):
    if q_idx > kv_idx:  # this line
        return score
    return score * 2


WRONG: dict[str, tuple[Callable[..., Any], str, str]] = {
    "branch": (_branch, "if or while", "if q_idx > kv_idx:"),
    "item": (lambda s, b, h, q, kv: s + q.item(), "Tensor.item", "q.item()"),
    "python_float": (lambda s, b, h, q, kv: s + math.exp(q), "float", "math.exp(q)"),
    "numpy": (lambda s, b, h, q, kv: s + np.abs(q), "numpy", "np.abs(q)"),
    "random": (lambda s, b, h, q, kv: s + torch.rand(()), "torch.rand", "torch.rand(())"),
    "random_python": (lambda s, b, h, q, kv: s + random.random(), "lambda", ""),
    "random_like": (lambda s, b, h, q, kv: s + torch.rand_like(s), "rand_like", "rand_like(s)"),
    "unknown": (lambda s, b, h, q, kv: s + torch.lgamma(s), "lgamma", "torch.lgamma(s)"),
    "bits": (lambda s, b, h, q, kv: s + (q ^ kv), "^", "(q ^ kv)"),
    "half": (lambda s, b, h, q, kv: s.half() * 2, "torch.float16", "s.half()"),
    "changes": (lambda s, b, h, q, kv: s + TABLE.add_(1)[0], "add_", "TABLE.add_(1)"),
    "vector": (lambda s, b, h, q, kv: s + TABLE, "lambda", ""),
    "nothing": (lambda s, b, h, q, kv: None, "lambda", ""),
    "custom": (mods.generate_tanh_softcap(30, approx=True), "approx::tanh", "approx.tanh(x)"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_refusals_name_function_and_line(name: str) -> None:
    mod, function, line = WRONG[name]
    with pytest.raises(attnc.TraceError) as caught:
        attnc.from_flex(mod, backend="numpy")
    assert function in caught.value.function
    assert line in caught.value.place
    assert str(caught.value).startswith(caught.value.place)


def test_nothing_to_trace() -> None:
    with pytest.raises(AttncError, match="give a score_mod, a mask_mod or both"):
        attnc.from_flex()


@pytest.mark.parametrize("wrong", [("<=", "<"), ("j < prefix", "j + 1 < prefix"), ("or", "and")])
def test_a_text_that_is_not_its_mod_is_never_returned(
    wrong: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = 5
    mask_mod = or_masks(causal, lambda b, h, q, kv: kv < prefix)
    honest = flex_text._Writer.write

    def broken(self, name, note):
        made = honest(self, name, note)
        lines = made.text.splitlines()
        changed = [x.replace(*wrong) if x.strip().startswith("mask") else x for x in lines]
        assert changed != lines
        return flex_text.Text("\n".join(changed) + "\n", made.inputs, made.axes)

    monkeypatch.setattr(flex_text._Writer, "write", broken)
    with pytest.raises(InternalError, match="differs from it at b, h, q_idx, kv_idx"):
        attnc.from_flex(mask_mod=mask_mod, backend="numpy")
