"""A model with a recurrence in most of its layers runs on attnc, next to its own torch forms.

Qwen3-Next as transformers has it: three layers of the gated delta rule to one of softmax attention,
experts in every layer. Its sizes here are small and its weights random, since none can be had in a
package. A prompt is read (`return_state=True`), then tokens are chosen one by one (`op.step` from
the state in transformers' own cache). Both must give the same tokens.

    python examples/models/qwen3_next.py
    python examples/models/qwen3_next.py --prompt 4096 --tokens 128
"""

# ruff: noqa: E402
from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Where flash-linear-attention is installed, transformers takes its GPU kernels, on a CPU too. The
# peer here is the torch form.
sys.modules.setdefault("fla", None)  # type: ignore[arg-type]

import click
import torch
from bridge import register
from generation import Run, column, generate, new_table
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor
from transformers import Qwen3NextConfig, Qwen3NextForCausalLM
from transformers.models.qwen3_next import modeling_qwen3_next as modeling

import attnc

RULE = Path(__file__).resolve().parent / "gated_delta_rule.attn"
# The names under which the layers look up the rule: for a prompt, for one token.
FORMS = ("torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule")
PEERS = ("torch", "attnc")

console = Console(highlight=False)


@cache
def operator(backend: str) -> Any:
    """The compiled rule, made once."""
    return attnc.compile(RULE, backend=backend)


def gated_delta_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    g: Tensor,
    beta: Tensor,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
    backend: str = "auto",
    **_: Any,
) -> tuple[Tensor, Tensor | None]:
    """What transformers asks of the rule: query and key [batch, length, key heads, d], value
    [batch, length, heads, e], g and beta [batch, length, heads] -> like value, and the state
    [batch, heads, d, e] after the last row. Raises ValueError for what the spec does not say."""
    if not use_qk_l2norm_in_kernel:
        raise ValueError("the spec takes norms of queries and keys")
    if cu_seqlens is not None:
        raise ValueError("packed sequences are not wired here")
    op = operator(backend)
    rows = {"q": query, "k": key, "v": value, "g": g.to(value.dtype), "beta": beta}
    state = None if initial_state is None else (initial_state,)
    if state is not None and query.shape[1] == 1:
        out, (last,) = op.step(state, **{name: x[:, 0] for name, x in rows.items()})
        return out[:, None], last
    rows = {name: x.transpose(1, 2) for name, x in rows.items()}
    out, (last,) = op(**rows, state=state, return_state=True)
    return out.transpose(1, 2), last if output_final_state else None


@contextmanager
def on_attnc(model: Any, backend: str = "auto") -> Iterator[None]:
    """Within it the model's recurrences and its attention are attnc's."""
    own, attention = (
        {name: getattr(modeling, name) for name in FORMS},
        model.config._attn_implementation,
    )

    def rule(*args: Any, **kwargs: Any) -> Any:
        return gated_delta_rule(*args, **kwargs, backend=backend)

    register("attnc")
    try:
        model.set_attn_implementation("attnc")
        for name in FORMS:
            setattr(modeling, name, rule)
        yield
    finally:
        model.set_attn_implementation(attention)
        for name, form in own.items():
            setattr(modeling, name, form)


def new_model(seed: int, layers: int = 8, width: int = 256, vocabulary: int = 512) -> Any:
    """Random weights: every fourth layer attends, the others carry a state."""
    torch.manual_seed(seed)
    heads, head = max(width // 64, 1) * 2, 64 if width >= 128 else 16
    config = Qwen3NextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(heads // 4, 1),
        head_dim=head,
        linear_num_key_heads=heads // 2,
        linear_num_value_heads=heads,
        linear_key_head_dim=head,
        linear_value_head_dim=head,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=width,
        shared_expert_intermediate_size=width,
        initializer_range=0.1,
    )
    model = Qwen3NextForCausalLM(config).eval()
    model.set_attn_implementation("sdpa")
    return model


def respond(model: Any, inputs: dict[str, Tensor], peer: str, tokens: int, backend: str) -> Run:
    """A generation on torch's forms or on attnc's."""
    if peer == "torch":
        return generate(model, inputs, tokens)
    with on_attnc(model, backend):
        return generate(model, inputs, tokens)


@click.command(help=__doc__)
@click.option("--prompt", default=1000, show_default=True, help="Tokens of the prompt.")
@click.option("--tokens", default=64, show_default=True, help="To generate.")
@click.option("--layers", default=8, show_default=True)
@click.option("--width", default=256, show_default=True)
@click.option("--repeats", default=3, show_default=True, help="Timed runs, of which the median.")
@click.option("--seed", default=0, show_default=True)
@click.option("--backend", default="auto", show_default=True, help="Of the recurrence.")
@click.option("--threads", default=2, show_default=True)
def main(
    prompt: int,
    tokens: int,
    layers: int,
    width: int,
    repeats: int,
    seed: int,
    backend: str,
    threads: int,
) -> None:
    torch.set_num_threads(threads)
    model = new_model(seed, layers, width)
    kinds = model.config.layer_types
    counted = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
    told = ", ".join(f"{n} of {kind.replace('_', ' ')}" for kind, n in counted.items())
    weights = sum(p.numel() for p in model.parameters())
    console.print(f"{layers} layers: {told}; {weights:,} random weights", style="dim")
    columns, all_same = {}, True
    for batch in (1, 3):
        ids = torch.randint(1, 500, (batch, prompt))
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if batch > 1:  # the second prompt is shorter: padding stands before it
            inputs["attention_mask"][1, : prompt // 3] = 0
        runs: dict[str, list[Run]] = {peer: [] for peer in PEERS}
        name = "one prompt" if batch == 1 else f"batch of {batch}"
        parts = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*parts, TimeElapsedColumn(), console=console) as progress:
            task = progress.add_task(f"{name}: compiling", total=len(PEERS) * repeats)
            start = time.perf_counter()
            for peer in PEERS:
                respond(model, inputs, peer, 3, backend)
            ready = time.perf_counter() - start
            for n in range(repeats):
                for peer in PEERS:
                    progress.update(task, description=f"{name}: {peer}, run {n + 1}")
                    runs[peer].append(respond(model, inputs, peer, tokens, backend))
                    progress.advance(task)
        console.print(f"{name}: ready after {ready:.1f} s", style="dim")
        columns[name], same = column(runs, int(inputs["attention_mask"].sum()), -1)
        all_same &= same
    title = f"Qwen3-Next, random weights, float32, {threads} threads"
    console.print(new_table(title, "torch", columns))
    console.print("same tokens" if all_same else "[red]tokens differ[/]")
    sys.exit(0 if all_same else 1)


if __name__ == "__main__":
    main()
