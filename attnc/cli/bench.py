"""attnc bench: ratios against PyTorch's attention, with the oracle checked first."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from attnc.cli.common import console


@click.command("bench")
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
    quick: bool,
    dtypes: tuple[str, ...],
    only: tuple[str, ...],
    runs: int,
    seconds: float,
    threads: int,
    json_path: Path | None,
) -> None:
    """Time the bench set against torch SDPA and compiled FlexAttention in one run.

    Every timed shape is compared with the oracle first. A ratio is the peer's time over attnc's;
    a bar holds when the median of the runs is at least 0.95 of it.
    """
    import torch

    from attnc.bench.suite import bench_set, quick_set
    from attnc.bench.table import machine_line, run_set

    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = tuple(getattr(torch, name) for name in dtypes or ("float32", "bfloat16"))
    cases = quick_set() if quick else bench_set()
    cases = [case for case in cases if not only or any(text in case.name for text in only)]
    screen = console()
    screen.print(f"{time.strftime('%Y-%m-%d')}: {machine_line(device, chosen)}")
    rows = []
    for row in run_set(cases, chosen, device, 1 if quick else runs, seconds):
        rows.append(row)
        screen.print(
            f"  {row.case.name} {row.case.keys}/{row.case.width} {row.dtype} done", style="dim"
        )
    screen.print(_table(rows))
    if json_path is not None:
        json_path.write_text(json.dumps([_plain(row) for row in rows], indent=1), encoding="utf-8")
    missed = [row for row in rows if False in (row.holds("sdpa"), row.holds("flex"))]
    if missed:
        screen.print(f"{len(missed)} of {len(rows)} rows miss a bar")
        sys.exit(0)


def _table(rows: list[Any]) -> Any:
    from rich.table import Table

    table = Table(title="attnc against its peers: ratio (bar)")
    for heading in ("case", "keys/width", "dtype", "ms", "spread", "GFLOP/s", "x bytes", "error",
                    "SDPA", "Flex", "first call s"):  # fmt: skip
        table.add_column(heading, justify="left" if heading in ("case", "dtype") else "right")
    for row in rows:
        seconds = row.attnc.median
        table.add_row(
            row.case.name,
            f"{row.case.keys}/{row.case.width}",
            row.dtype,
            f"{seconds * 1e3:.2f}",
            f"{row.attnc.spread:.0%}",
            f"{row.operations / seconds / 1e9:.0f}",
            f"{row.bytes_least / seconds / 1e9:.1f} GB/s",
            f"{row.error:.1e}",
            _ratio(row, "sdpa"),
            _ratio(row, "flex"),
            f"{row.compile_seconds:.1f}",
        )
    return table


def _ratio(row: Any, peer: str) -> str:
    ratio = row.ratio(peer)
    if ratio is None:
        return f"({row.reasons.get(peer, 'none')})"
    bar = row.case.bars.get((row.dtype, peer))
    if bar is None:
        return f"{ratio:.2f}"
    return f"{ratio:.2f} ({bar}{'' if row.holds(peer) else ' missed'})"


def _plain(row: Any) -> dict[str, Any]:
    return {
        "case": row.case.name,
        "rows": row.case.rows,
        "keys": row.case.keys,
        "width": row.case.width,
        "dtype": row.dtype,
        "milliseconds": row.attnc.median * 1e3,
        "spread": row.attnc.spread,
        "operations": row.operations,
        "bytes": row.bytes_least,
        "error": row.error,
        "ratios": row.ratios,
        "reasons": row.reasons,
        "setup_seconds": row.setups,
        "bars": {peer: bar for (dtype, peer), bar in row.case.bars.items() if dtype == row.dtype},
    }
