"""Greedy generation with a model of transformers: two runs, their tokens, logits and speeds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from rich.table import Table
from torch import Tensor
from transformers.generation.streamers import BaseStreamer


@dataclass(frozen=True)
class Run:
    """One generation: tokens [batch, n], their logits [batch, n, vocabulary] in float32, and the
    seconds that the prompt and the n - 1 steps after it took."""

    tokens: Tensor
    logits: Tensor
    prefill: float
    decode: float


class Clock(BaseStreamer):
    """Notes when generate has read the prompt and when each token is there, and shows tokens."""

    def __init__(self, show: Callable[[Tensor], None] | None = None) -> None:
        self.times: list[float] = []
        self.show = show

    def put(self, value: Tensor) -> None:
        self.times.append(time.perf_counter())
        if self.show and len(self.times) > 1:  # the first is the prompt
            self.show(value)

    def end(self) -> None:
        pass


def generate(
    model: Any,
    inputs: dict[str, Tensor],
    tokens: int,
    show: Callable[[Tensor], None] | None = None,
) -> Run:
    """Greedy generation with whatever attention the model now has."""
    clock = Clock(show)
    out = model.generate(
        **inputs,
        max_new_tokens=tokens,
        do_sample=False,
        streamer=clock,
        output_logits=True,
        return_dict_in_generate=True,
    )
    start, first, *_, last = (
        clock.times if len(clock.times) > 2 else [*clock.times, clock.times[-1]]
    )
    new = out.sequences[:, inputs["input_ids"].shape[1] :].cpu()
    logits = torch.stack([step.float().cpu() for step in out.logits], dim=1)
    return Run(new, logits, first - start, last - first)


def real(tokens: Tensor, end: int) -> Tensor:
    """Which tokens [batch, n] a prompt's answer has: all up to its end token, that included."""
    ended = (tokens == end).cumsum(dim=1) - (tokens == end).int()
    return ended == 0


def logit_difference(one: Run, two: Run, end: int) -> float:
    """The largest difference of two runs' logits, over the steps before their tokens part."""
    n = min(one.tokens.shape[1], two.tokens.shape[1])
    parted = (one.tokens[:, :n] != two.tokens[:, :n]).int().cumsum(dim=1)
    same_past = parted - (one.tokens[:, :n] != two.tokens[:, :n]).int() == 0
    counted = real(one.tokens[:, :n], end) & same_past
    gaps = (one.logits[:, :n] - two.logits[:, :n]).abs().amax(dim=-1)
    return float(gaps[counted].max())


def column(runs: dict[str, list[Run]], prompt: int, end: int) -> tuple[list[str], bool]:
    """One column of the table, and whether the tokens are the same. Of the two peers attnc is the
    second. The prompt's tokens are counted without padding."""
    torchs, attnc = (peer[0] for peer in runs.values())
    same = torch.equal(torchs.tokens, attnc.tokens)
    answered = real(torchs.tokens, end)
    cells = [f"{prompt:,}", f"{int(answered.sum()):,}", "yes" if same else "[red]no[/]"]
    cells += [f"{logit_difference(torchs, attnc, end):.1e}"]
    for phase, tokens in (("prefill", prompt), ("decode", int(answered[:, 1:].sum()))):
        before, now = (
            tokens / max(median(getattr(run, phase) for run in peer), 1e-9)
            for peer in runs.values()
        )
        cells += [f"{before:,.1f}", f"{now:,.1f}", f"{now / before:.2f}" if tokens else "-"]
    return cells, same


def new_table(title: str, peer: str, columns: dict[str, list[str]]) -> Table:
    """The results: a line for each figure, a column for each batch of prompts."""
    table = Table(title=title, title_justify="left")
    table.add_column()
    for name in columns:
        table.add_column(name, justify="right")
    names = ["prompt tokens", "new tokens", "same tokens", "largest logit difference"]
    for phase in ("prefill", "decode"):
        names += [f"{phase} tokens/s, {who}" for who in (peer, "attnc")]
        names += [f"{phase}, attnc / {peer}"]
    for name, *cells in zip(names, *columns.values(), strict=True):
        table.add_row(name, *cells, end_section=name.startswith(("largest", "prefill, ")))
    return table
