"""Models of transformers on attnc's attention, against the same models on torch's SDPA."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.masking_utils import bidirectional_mask_function, sliding_window_overlay

MODELS = Path(__file__).resolve().parent.parent / "examples" / "models"


@pytest.fixture
def bridge(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """examples/models/bridge.py, with its attention registered as `attnc`."""
    monkeypatch.syspath_prepend(str(MODELS))
    import bridge

    bridge.register("attnc")
    return bridge


def llama(seed: int) -> LlamaForCausalLM:
    """A language model of random weights: 6 heads on 2 key heads of width 24, 3 layers."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=144,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        pad_token_id=0,
        eos_token_id=None,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


def padded(lengths: tuple[int, ...], left: bool, seed: int) -> dict[str, Tensor]:
    """Sequences of random tokens, padded with 0 on one side."""
    torch.manual_seed(seed)
    longest = max(lengths)
    mask = torch.tensor([[j < n for j in range(longest)] for n in lengths])
    mask = mask.flip(1) if left else mask
    tokens = torch.randint(1, 97, mask.shape) * mask
    return {"input_ids": tokens, "attention_mask": mask.long()}


@torch.inference_mode()
def hidden(model: PreTrainedModel, inputs: dict[str, Tensor], attention: str) -> Tensor:
    """The last layer's output at the real tokens [tokens, width]."""
    model.set_attn_implementation(attention)
    out = model(**inputs, output_hidden_states=True).hidden_states[-1]
    return out[inputs["attention_mask"].bool()]


@pytest.mark.parametrize("lengths, left", [((40,), True), ((3, 40, 17), True), ((40, 5), False)])
def test_prefill_like_sdpa(
    bridge: ModuleType, seed: int, lengths: tuple[int, ...], left: bool
) -> None:
    model, inputs = llama(seed), padded(lengths, left, seed)
    expected = hidden(model, inputs, "sdpa")
    torch.testing.assert_close(hidden(model, inputs, "attnc"), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("lengths", [(9,), (3, 40, 17)])
def test_generation_like_sdpa(bridge: ModuleType, seed: int, lengths: tuple[int, ...]) -> None:
    model, inputs = llama(seed), padded(lengths, True, seed)
    runs = {}
    for attention in ("sdpa", "attnc"):
        model.set_attn_implementation(attention)
        runs[attention] = model.generate(
            **inputs,
            max_new_tokens=12,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    expected, found = (torch.stack(run.logits) for run in runs.values())
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(runs["attnc"].sequences, runs["sdpa"].sequences)


def test_encoder_like_sdpa(bridge: ModuleType, seed: int) -> None:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=97,
        hidden_size=60,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
    )
    model, inputs = BertModel(config).eval(), padded((33, 1, 20), False, seed)
    expected = hidden(model, inputs, "sdpa")
    torch.testing.assert_close(hidden(model, inputs, "attnc"), expected, atol=1e-4, rtol=1e-4)


def test_visible_names_what_a_mask_says(bridge: ModuleType) -> None:
    full = torch.ones(2, 4, dtype=torch.bool)
    left = torch.tensor([[True] * 4, [False, False, True, True]])
    assert bridge.read_visible(2, 1, 4, 3, attention_mask=full) == bridge.Visible(True, 3)
    seen = bridge.read_visible(2, 4, 4, attention_mask=left)
    assert seen.first.tolist() == [0, 2] and seen.end is None
    seen = bridge.read_visible(
        2, 4, 4, mask_function=bidirectional_mask_function, attention_mask=left.flip(1)
    )
    assert not seen.causal and seen.first is None and seen.end.tolist() == [4, 2]


def test_visible_refuses_what_it_cannot_say(bridge: ModuleType) -> None:
    hole = torch.tensor([[True, False, True]])
    with pytest.raises(ValueError, match="stand together"):
        bridge.read_visible(1, 3, 3, attention_mask=hole)
    with pytest.raises(ValueError, match="only causal and full"):
        bridge.read_visible(1, 3, 3, mask_function=sliding_window_overlay(2))
    with pytest.raises(ValueError, match="dropped its oldest"):
        bridge.read_visible(1, 3, 3, kv_offset=5)


@pytest.mark.models
@pytest.mark.parametrize(
    "script, options, words",
    [
        ("smollm2.py", ("--tokens", "12", "--repeats", "1"), ("capital of France is Paris",)),
        ("minilm.py", ("--repeats", "1"), ("largest difference",)),
        ("qwen3_next.py", ("--prompt", "70", "--tokens", "5", "--repeats", "1"), ("same tokens",)),
    ],
)
def test_script(script: str, options: tuple[str, ...], words: tuple[str, ...]) -> None:
    """The scripts end with 1 when tokens or vectors differ from SDPA's."""
    command = [sys.executable, str(MODELS / script), *options]
    environment = os.environ | {"COLUMNS": "120"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(word in done.stdout for word in words), done.stdout


def test_a_model_with_recurrences_like_its_own_forms(
    bridge: ModuleType, quick_build: None, seed: int
) -> None:
    """Prompts and cached decoding of Qwen3-Next: three gated delta layers to one of attention."""
    from qwen3_next import new_model, respond

    model = new_model(seed, layers=4, width=48, vocabulary=97)
    inputs = padded((3, 40, 17), True, seed)
    expected, found = (respond(model, inputs, peer, 7, "cpu") for peer in ("torch", "attnc"))
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=1e-4)
    assert torch.equal(found.tokens, expected.tokens)


def test_what_the_rule_does_not_say_is_refused(bridge: ModuleType) -> None:
    from qwen3_next import gated_delta_rule

    rows, heads = torch.randn(1, 3, 2, 4), torch.randn(1, 3, 2)
    with pytest.raises(ValueError, match="norms"):
        gated_delta_rule(rows, rows, rows, heads, heads)
    with pytest.raises(ValueError, match="packed"):
        gated_delta_rule(
            rows, rows, rows, heads, heads, use_qk_l2norm_in_kernel=True, cu_seqlens=torch.ones(2)
        )
