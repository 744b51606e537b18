"""attnc bench: ratios against PyTorch's attention, float64 checked first; the costs of a call."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from attnc.cli.common import console

SETS = ("forward", "backward", "scans", "normalizers", "selection", "calls")


@click.command("bench")
@click.option("--set", "which", type=click.Choice((*SETS, "all")), default="forward",
              show_default=True, help="What to measure.")  # fmt: skip
@click.option("--quick", is_flag=True, help="A few cases, one run each.")
@click.option(
    "--dtype", "dtypes", multiple=True, type=click.Choice(("float32", "bfloat16", "float16"))
)
@click.option("--only", multiple=True, metavar="TEXT", help="Cases whose name holds this.")
@click.option("--runs", default=3, show_default=True, help="Runs; ratios are their median.")
@click.option("--seconds", default=2.0, show_default=True, help="Time of one run of one case.")
@click.option("--threads", default=2, show_default=True, help="Threads on the CPU.")
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path), help="Write the rows here too."
)
def command(
    which: str,
    quick: bool,
    dtypes: tuple[str, ...],
    only: tuple[str, ...],
    runs: int,
    seconds: float,
    threads: int,
    json_path: Path | None,
) -> None:
    """Time attnc against torch SDPA and compiled FlexAttention in one run.

    forward: the bench set. backward: forward and backward, and the tangent. scans: recurrences on
    the CPU against chunked torch, eager and compiled, and against softmax. normalizers: sparsemax
    and entmax on the CPU against the `entmax` package. selection: chosen blocks of keys on the CPU
    against attnc's dense causal kernel. calls: overhead, start-up, recompiles,
    memory. Every timed shape is compared with float64 first. A ratio is the peer's time over
    attnc's; a bar holds when the median of the runs is at least 0.95 of it.
    """
    import torch

    from attnc.bench.backward import run_training, training_set
    from attnc.bench.figures import run_figures
    from attnc.bench.measure import multiply_ceiling
    from attnc.bench.normalizers import run_normalizers
    from attnc.bench.recurrences import run_scans
    from attnc.bench.scan_figures import LONG, run_scan_figures
    from attnc.bench.selection import run_selection
    from attnc.bench.suite import bench_set, quick_set
    from attnc.bench.table import machine_line, run_set
    from attnc.cli import bench_tables

    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = tuple(getattr(torch, name) for name in dtypes or ("float32", "bfloat16"))
    runs = 1 if quick else runs
    screen = console()
    rates = {str(d).removeprefix("torch."): multiply_ceiling(d, device) for d in chosen}
    screen.print(f"{time.strftime('%Y-%m-%d')}: {machine_line(device, rates)}")
    written: dict[str, Any] = {"ceilings": rates}

    def at_most() -> dict[str, float]:
        """The ceilings once more: machines have slow moments."""
        rates.update({d: max(rates[d], multiply_ceiling(getattr(torch, d), device)) for d in rates})
        return rates

    if which in ("forward", "all"):
        cases = _chosen(quick_set() if quick else bench_set(), only)
        rows = _followed(screen, run_set(cases, chosen, device, runs, seconds))
        screen.print(*bench_tables.forward_table(rows, at_most()), sep="\n")
        written["forward"] = [bench_tables.plain_row(row) for row in rows]
    if which in ("backward", "all"):
        cases = _chosen(training_set()[: 1 if quick else None], only)
        trained = _followed(screen, run_training(cases, chosen, device, runs, seconds))
        screen.print(*bench_tables.training_table(trained, at_most()), sep="\n")
        written["backward"] = [bench_tables.plain_training(row) for row in trained]
    if which in ("scans", "all"):
        scanned = _each(screen, run_scans(not quick, runs, seconds, only))
        screen.print(bench_tables.scan_table(scanned))
        figures = list(run_scan_figures(only, 8192 if quick else LONG))
        title = "recurrences: lengths, steps, errors"
        screen.print(*bench_tables.figures_table(figures, title), sep="\n")
        written["scans"] = [bench_tables.plain_scan(row) for row in scanned]
        written["scan figures"] = [vars(figure) for figure in figures]
    if which in ("normalizers", "all"):
        solved = list(run_normalizers(only, 1 if quick else 3))
        title = "normalizers that are solved for"
        screen.print(*bench_tables.figures_table(solved, title), sep="\n")
        written["normalizers"] = [vars(figure) for figure in solved]
    if which in ("selection", "all"):
        picked = list(run_selection(only, 1.0 if quick else 4 * seconds))
        title = "chosen blocks of keys"
        screen.print(*bench_tables.figures_table(picked, title), sep="\n")
        written["selection"] = [vars(figure) for figure in picked]
    if which in ("calls", "all"):
        figures = [f for f in run_figures() if not only or any(text in f.name for text in only)]
        screen.print(*bench_tables.figures_table(figures), sep="\n")
        written["calls"] = [vars(figure) for figure in figures]
    if only and not any(found for name, found in written.items() if name != "ceilings"):
        raise click.UsageError(f"no case of --set {which} has {' or '.join(only)} in its name.")
    if json_path is not None:
        json_path.write_text(json.dumps(written, indent=1), encoding="utf-8")


def _chosen(cases: list[Any], only: tuple[str, ...]) -> list[Any]:
    return [case for case in cases if not only or any(text in case.name for text in only)]


def _each(screen: Any, rows: Iterable[Any]) -> list[Any]:
    """The rows of recurrences, each announced as it is done."""
    found = []
    for row in rows:
        found.append(row)
        ratios = ", ".join(f"{name} {ratio:.2f}" for name, ratio in row.ratios.items())
        screen.print(f"  {row.case.name}, {row.what}: {ratios}", style="dim")
    return found


def _followed(screen: Any, rows: Iterable[Any]) -> list[Any]:
    """The rows, each announced as it is done."""
    found = []
    for row in rows:
        found.append(row)
        case = row.case
        screen.print(f"  {case.name} {case.keys}/{case.width} {row.dtype} done", style="dim")
    return found
