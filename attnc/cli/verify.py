"""attnc verify: every backend against the oracle, and its gradients against torch's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attnc.cli.common import COUNT, FILE, console, read_source, with_statics

if TYPE_CHECKING:
    from attnc.verification import Verdict

DTYPES = ("float32", "bfloat16", "float16", "float64")


@click.command("verify")
@click.argument("path", type=FILE)
@click.option("--cases", type=COUNT, default=12, show_default=True, help="How many hostile shapes.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of shapes and values.",
)
@click.option("--dtype", "dtypes", multiple=True, type=click.Choice(DTYPES), help="Default: all.")
@click.option(
    "--backend",
    "backends",
    multiple=True,
    type=click.Choice(("cpu", "triton", "eager")),
    help="Default: cpu, and triton where there is a GPU or TRITON_INTERPRET=1.",
)
@click.option(
    "--gradients",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="How many shapes gradients are verified on (on the CPU; 0: none).",
)
@with_statics
def command(
    path: Path,
    cases: int,
    seed: int,
    dtypes: tuple[str, ...],
    backends: tuple[str, ...],
    gradients: int,
    assignments: dict[str, int | float | bool],
) -> None:
    """Compare kernels with the float64 oracle on hostile shapes and print error ratios.

    A ratio is an error over that of plain torch with the same formula in the same dtype, overall
    (Frobenius) and in the worst row; at most 2 passes. Gradients are compared with autograd of the
    formula in float64 alike.
    """
    import torch

    from attnc.front import read_spec
    from attnc.verification import hostile_shapes, verify

    spec = read_spec(read_source(path), statics=assignments)
    chosen = tuple(getattr(torch, name) for name in dtypes or DTYPES)
    failed = 0
    for backend in backends or default_backends():
        run, eager, device = _runners(spec, backend)
        verdicts = verify(
            spec, run, eager, chosen, hostile_shapes(cases, seed), seed, (), device, backend
        )
        failed += _report(backend, verdicts, cases * len(chosen))
        if gradients and backend == "cpu":
            failed += _gradients(spec, run, eager, chosen, gradients, seed)
    if failed:
        sys.exit(1)


def _gradients(
    spec: Any, run: Any, eager: Any, dtypes: tuple[Any, ...], count: int, seed: int
) -> int:
    """Reports the gradients on the CPU; where none are derived, says what is missing."""
    from attnc.errors import UnsupportedError
    from attnc.verification_gradients import gradient_shapes, verify_gradients

    verdicts = verify_gradients(spec, run, eager, dtypes, gradient_shapes(count, seed), seed)
    try:
        return _report("cpu, gradients", verdicts, count * len(dtypes))
    except UnsupportedError as refusal:
        console().print(f"cpu, gradients: refused: {refusal.feature}")
        return 0


def default_backends() -> tuple[str, ...]:
    """cpu; triton where something can run it."""
    import os

    import torch

    runs_triton = torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"
    return ("cpu", "triton") if runs_triton else ("cpu",)


def _runners(spec: Any, backend: str) -> tuple[Any, Any, str]:
    import torch

    from attnc.operator import Operator

    device = "cuda" if backend == "triton" and torch.cuda.is_available() else "cpu"
    return Operator(spec, backend), Operator(spec, "eager"), device


def _report(backend: str, verdicts: Any, total: int) -> int:
    """A table of the worst ratios by dtype; returns how many cases failed."""
    from rich.progress import track
    from rich.table import Table

    screen = console()
    worst: dict[str, Verdict] = {}
    count: dict[str, int] = {}
    failures: list[Verdict] = []
    steps = track(verdicts, f"{backend}", total, console=screen, transient=True)
    for verdict in steps:
        name = str(verdict.dtype).removeprefix("torch.")
        count[name] = count.get(name, 0) + 1
        if name not in worst or _largest(verdict) > _largest(worst[name]):
            worst[name] = verdict
        if not verdict.passed:
            failures.append(verdict)
    if not worst:
        screen.print(f"{backend}: no shape that was drawn has a legal call; try more --cases")
        return 1
    table = Table(title=f"{backend}: error over that of torch, worst of all cases (at most 2)")
    for heading in ("dtype", "cases", "ratio", "worst row ratio", "relative error", "verdict"):
        table.add_column(heading, justify="left" if heading in ("dtype", "verdict") else "right")
    for name, verdict in worst.items():
        one = max(verdict.comparisons, key=lambda c: max(c.frobenius_ratio, c.worst_row_ratio))
        table.add_row(
            name,
            str(count[name]),
            f"{one.frobenius_ratio:.2f}",
            f"{one.worst_row_ratio:.2f}",
            f"{one.frobenius:.1e}",
            "ok" if verdict.passed else "FAILED",
        )
    screen.print(table)
    for verdict in failures[:5]:
        failing = ", ".join(one.output for one in verdict.comparisons if not one.passed)
        screen.print(f"failed: {verdict.backend} {verdict.dtype} {failing}: {verdict.case}")
    return len(failures)


def _largest(verdict: Verdict) -> float:
    return max(max(c.frobenius_ratio, c.worst_row_ratio) for c in verdict.comparisons)
