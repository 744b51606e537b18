"""Training rows: forward and backward against SDPA's, and the tangent beside the forward.

The gradients of every row are compared with float64 before it is timed; an operator that has no
backward yet says so and has no number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from attnc.bench.measure import Timing, interleave
from attnc.bench.peers import materialised
from attnc.bench.suite import CAUSAL, WINDOW, BenchCase, Tensors, causal, window
from attnc.errors import AttncError, UnsupportedError

PRODUCTS = 7  # matrix products of a forward and a backward: 2 and 5
JVP = 2.2  # how many forwards a forward with its tangent may cost
LIMIT = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}  # relative, gradients


@dataclass(frozen=True)
class TrainingRow:
    """One case in one dtype: SDPA's time over attnc's, and the cost of a tangent in forwards.

    `reason` says why there are no times; errors are the worst of dq, dk and dv (relative,
    Frobenius), attnc's and SDPA's."""

    case: BenchCase
    dtype: str
    attnc: Timing | None = None
    ratios: tuple[float, ...] = ()
    tangent: float | None = None
    operations: float = 0.0
    error: float = 0.0
    peer_error: float = 0.0
    reason: str = ""
    tangent_reason: str = ""

    @property
    def ratio(self) -> float | None:
        return sorted(self.ratios)[len(self.ratios) // 2] if self.ratios else None

    @property
    def bar(self) -> float:
        return self.case.bars[self.dtype, "sdpa"]


def training_set() -> list[BenchCase]:
    """Causal at two lengths and widths, and a window that SDPA needs a mask for."""
    bars = {("float32", "sdpa"): 1.3, ("bfloat16", "sdpa"): 2.0}
    cases = [
        BenchCase("causal", CAUSAL, n, n, width, visible=causal, sdpa="causal", bars=bars)
        for n in (1024, 4096)
        for width in (64, 128)
    ]
    six = {(dtype, "sdpa"): 6.0 for dtype, _ in bars}
    local = BenchCase(
        "window 256", WINDOW, 4096, 4096, 64, numbers={"size": 256}, visible=window(256), bars=six
    )
    return [*cases, local]


def run_training(
    cases: list[BenchCase],
    dtypes: tuple[torch.dtype, ...],
    device: str,
    runs: int = 3,
    seconds: float = 4.0,
) -> Iterator[TrainingRow]:
    """One row for each case and dtype."""
    for dtype in dtypes:
        for case in cases:
            yield run_row(case, dtype, device, runs, seconds)


def run_row(
    case: BenchCase, dtype: torch.dtype, device: str, runs: int, seconds: float
) -> TrainingRow:
    """Gradients against float64 first, then forward and backward interleaved with SDPA's."""
    import attnc
    from attnc.bench.table import make_tensors, visible_pairs

    row = TrainingRow(case, str(dtype).removeprefix("torch."))
    operator = attnc.compile(case.text, name="bench")
    tensors = make_tensors(case, dtype, device)
    leaves = {name: x.requires_grad_() for name, x in tensors.items()}
    gradient = torch.randn_like(tensors["q"])
    bias = materialised(case, tensors) if case.sdpa == "mask" else None

    def ours(given: Tensors) -> torch.Tensor:
        result: torch.Tensor = operator(**given, **case.numbers)
        return result

    def theirs(given: Tensors) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(
            given["q"], given["k"], given["v"], attn_mask=bias, is_causal=bias is None
        )

    def step(forward: Callable[[Tensors], torch.Tensor]) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(forward(leaves), list(leaves.values()), gradient)

    try:
        mine = step(ours)
    except UnsupportedError:
        return replace(row, reason="not yet: there is no backward")
    error, peer_error = check_gradients(case, tensors, gradient, mine, step(theirs))
    row = replace(row, error=error, peer_error=peer_error)
    ratios, times = [], {}
    for _ in range(runs):
        times = interleave({"attnc": lambda: step(ours), "sdpa": lambda: step(theirs)}, seconds)
        ratios.append(times["sdpa"].median / times["attnc"].median)
    pairs = visible_pairs(case, {n: x.detach() for n, x in tensors.items()}) * case.heads
    tangent, reason = tangent_cost(operator, case, tensors, seconds)
    return replace(
        row,
        attnc=times["attnc"],
        ratios=tuple(ratios),
        operations=2.0 * PRODUCTS * case.width * pairs,
        tangent=tangent,
        tangent_reason=reason,
    )


def check_gradients(
    case: BenchCase,
    tensors: Tensors,
    gradient: torch.Tensor,
    mine: tuple[torch.Tensor, ...],
    peer: tuple[torch.Tensor, ...],
) -> tuple[float, float]:
    """The errors of the first head's gradients against the dense formula in float64."""
    exact = [tensors[name][:, :1].detach().double().requires_grad_() for name in "qkv"]
    q, k, v = exact
    i = torch.arange(case.rows, device=q.device)[:, None]
    seen = case.visible(i, i.T) if case.visible else torch.ones_like(i == i.T)
    score = torch.where(seen, q @ k.mT * case.width**-0.5, -torch.inf)
    truth = torch.autograd.grad(torch.softmax(score, -1) @ v, exact, gradient[:, :1].double())

    def worst(found: tuple[torch.Tensor, ...]) -> float:
        pairs = zip(found, truth, strict=True)
        return max(float((x[:, :1].double() - t).norm() / t.norm()) for x, t in pairs)

    errors = worst(mine), worst(peer)
    if not max(errors) < LIMIT[gradient.dtype]:
        raise AttncError(f"bench: gradients of {case.name} are wrong (errors {errors})")
    return errors


def tangent_cost(
    operator: Any, case: BenchCase, tensors: Tensors, seconds: float
) -> tuple[float | None, str]:
    """Time of a forward with its tangent (torch.func.jvp) in forwards."""
    names = list(tensors)
    primal = tuple(tensors[name].detach() for name in names)
    moved = tuple(torch.randn_like(x) for x in primal)

    def call(*given: torch.Tensor) -> Any:
        return operator(**dict(zip(names, given, strict=True)), **case.numbers)

    try:
        torch.func.jvp(call, primal, moved)
    except UnsupportedError:
        return None, "not yet: there is no tangent"
    runs = {"jvp": lambda: torch.func.jvp(call, primal, moved), "forward": lambda: call(*primal)}
    times = interleave(runs, seconds / 2)
    return times["jvp"].median / times["forward"].median, ""
