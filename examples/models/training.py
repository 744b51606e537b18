"""Training a decoder: the loop, what it remembers, and what it needs to go on later."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from char_lm import Decoder, Shape, draw_batch, loss_of
from torch import Tensor


@dataclass(frozen=True)
class Plan:
    """What a run does; two runs of one plan differ in their attention only."""

    steps: int = 400
    batch: int = 8
    rate: float = 1e-3  # the learning rate at its peak, after `warm` steps; then a cosine to 0
    warm: int = 20
    seed: int = 0
    backend: str = "auto"
    shape: Shape = field(default_factory=Shape)

    def rate_at(self, step: int) -> float:
        """The learning rate as a fraction of its peak."""
        if step < self.warm:
            return (step + 1) / self.warm
        return 0.5 + 0.5 * math.cos(math.pi * (step - self.warm) / max(self.steps - self.warm, 1))


class Run:
    """One run: a model, its optimizer, the batches it draws, and the losses so far.

    seconds   time of each step, drawing its batch included
    """

    def __init__(self, attention: str, plan: Plan, text: Tensor) -> None:
        self.attention, self.plan, self.text = attention, plan, text
        self.model = Decoder(plan.shape, attention, plan.seed, plan.backend)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=plan.rate)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, plan.rate_at)
        self.generator = torch.Generator().manual_seed(plan.seed)
        self.losses: list[float] = []
        self.seconds: list[float] = []

    @property
    def done(self) -> bool:
        return len(self.losses) >= self.plan.steps

    def step(self) -> float:
        """One step; gives back the loss before it."""
        start = time.perf_counter()
        plan = self.plan
        batch = draw_batch(self.text, plan.batch, plan.shape.context, self.generator)
        loss = loss_of(self.model, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.losses.append(loss.item())
        self.seconds.append(time.perf_counter() - start)
        return self.losses[-1]

    def train(self, tell: Callable[[int, float], None] = lambda step, loss: None) -> None:
        """The steps that are left; tell(steps done, last loss)."""
        while not self.done:
            loss = self.step()
            tell(len(self.losses), loss)

    def learned(self) -> dict[str, Tensor]:
        """The parameters that belong to the attention itself, by layer."""
        found = self.model.named_parameters()
        return {name: value.detach() for name, value in found if ".attention." in name}

    @property
    def speed(self) -> float:
        """Steps a second, of the median step after the first two (which compile)."""
        taken = sorted(self.seconds[2:] or self.seconds)
        return 1 / taken[len(taken) // 2] if taken else 0.0

    # --- Going on later ---------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Everything that the next step depends on; the file is whole or not there."""
        state = {
            "plan": asdict(self.plan),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generator": self.generator.get_state(),
            "losses": self.losses,
            "seconds": self.seconds,
        }
        unfinished = path.with_suffix(".unfinished")
        torch.save(state, unfinished)
        os.replace(unfinished, path)

    def load(self, path: Path) -> None:
        """Goes on where `save` stood. Raises ValueError if that run had another plan."""
        state: dict[str, Any] = torch.load(path, weights_only=True)
        if state["plan"] != asdict(self.plan):
            raise ValueError(f"{path} belongs to another plan: {state['plan']}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.generator.set_state(state["generator"])
        self.losses, self.seconds = list(state["losses"]), list(state["seconds"])
