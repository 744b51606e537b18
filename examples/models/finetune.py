"""Fine-tunes SmolLM2 for a few steps with torch's attention and with attnc's, on the same text.

Both must find the same gradients at the first step and go down the same losses.

    python examples/models/finetune.py --steps 3
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

import click
import torch
from bridge import attend, register
from rich.console import Console
from rich.table import Table
from torch import Tensor

TEXT = (
    "A compiler reads a text in one language and writes it in another. Between the two it keeps "
    "the meaning in a form of its own, where rules can be applied and proved."
)
LIMIT = 1e-3  # relative difference of any parameter's gradient, float32

console = Console(highlight=False)


@dataclass(frozen=True)
class Tuned:
    """One fine-tuning: the gradients of the first step by parameter, the loss before each step."""

    gradients: dict[str, Tensor]
    losses: list[float]


def finetune(
    model: Any, inputs: dict[str, Tensor], attention: str, steps: int, rate: float = 1e-2
) -> Tuned:
    """Some steps of plain gradient descent on a copy's worth of `model`: its parameters are put
    back afterwards. `inputs`: input_ids and attention_mask, both int64 [batch, length]."""
    model.set_attn_implementation(attention)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    gradients: dict[str, Tensor] = {}
    losses = []
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    for _ in range(steps):
        model.zero_grad(set_to_none=True)
        loss = model(**inputs, labels=labels, use_cache=False).loss
        loss.backward()
        losses.append(loss.item())
        with torch.no_grad():
            for name, value in model.named_parameters():
                if value.grad is None:
                    continue
                if len(losses) == 1:
                    gradients[name] = value.grad.clone()
                value -= rate * value.grad
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(before[name])
    model.zero_grad(set_to_none=True)
    return Tuned(gradients, losses)


def apart(one: Tuned, two: Tuned) -> dict[str, float]:
    """The relative difference (Frobenius) of every parameter's gradients."""
    return {
        name: float((two.gradients[name] - found).norm() / found.norm().clamp(min=1e-30))
        for name, found in one.gradients.items()
    }


def keep_layers(model: Any, count: int) -> None:
    """Leaves the first `count` layers of a decoder (all, if 0)."""
    if count:
        model.model.layers = model.model.layers[:count]
        model.config.num_hidden_layers = count


@click.command(help=__doc__)
@click.option("--steps", default=3, show_default=True)
@click.option("--layers", default=0, help="Only the first layers; 0: all 30.")
@click.option("--backend", default="auto", show_default=True, help="Of attnc.")
def main(steps: int, layers: int, backend: str) -> None:
    from smollm2 import load

    register("attnc", partial(attend, backend=backend))
    tokenizer, model = load("cpu", torch.float32)
    keep_layers(model, layers)
    encoded = tokenizer([TEXT], return_tensors="pt")
    inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    with console.status("fine-tuning"):
        runs = {name: finetune(model, inputs, name, steps) for name in ("sdpa", "attnc")}
    table = Table("step", *runs, title="loss before each step")
    for step in range(steps):
        table.add_row(str(step), *(f"{run.losses[step]:.6f}" for run in runs.values()))
    console.print(table)
    name, worst = max(apart(*runs.values()).items(), key=lambda found: found[1])
    console.print(f"gradients of the first step: at most {worst:.1e} apart ({name})")
    sys.exit(0 if worst < LIMIT else 1)


if __name__ == "__main__":
    main()
