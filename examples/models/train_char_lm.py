"""Trains a small decoder on the sources of Python's standard library, on the CPU.

Once with torch's attention and once with the same formula through attnc, from the same seed: their
losses lie on one another. Then with what torch's attention cannot express: a sliding window with a
soft cap, learned sinks and a learned bias for each offset (`variant`), a state kept by the gated
delta rule in the place of attention (`delta`), a window and that state (`hybrid`).

    python examples/models/train_char_lm.py --steps 400 --out runs
    python examples/models/train_char_lm.py --steps 400 --out runs --resume     after Ctrl-C
    python examples/models/train_char_lm.py --only sdpa --only delta --only hybrid
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import torch
from char_lm import ATTENTIONS, Shape, read_sources
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from training import Plan, Run

STYLES = {
    "sdpa": ("#888888", 3.0),
    "attnc": ("#c8322f", 1.0),
    "variant": ("#26466e", 1.2),
    "delta": ("#3d8a55", 1.2),
    "hybrid": ("#d08a1d", 1.2),
}  # colour, width
console = Console(highlight=False)


def train_all(names: tuple[str, ...], plan: Plan, folder: Path, resume: bool) -> list[Run]:
    """The runs, one after the other; interrupted, the run at hand is saved and the program ends."""
    text = read_sources()
    console.print(f"{len(text):,} characters of the standard library", style="dim")
    runs = []
    columns = (
        TextColumn("{task.description:8}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[tail]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        for name in names:
            run, path = Run(name, plan, text), folder / f"{name}.pt"
            if resume and path.exists():
                run.load(path)
            task = progress.add_task(
                name, total=plan.steps, completed=len(run.losses), tail="compiling"
            )

            def tell(step: int, loss: float, task: object = task, run: Run = run) -> None:
                tail = f"loss {loss:.3f}, {run.speed:.2f} steps/s"
                progress.update(task, completed=step, tail=tail)  # type: ignore[arg-type]

            try:
                run.train(tell)
            except KeyboardInterrupt:
                run.save(path)
                progress.stop()
                console.print(f"saved at step {len(run.losses)}: {path}; go on with --resume")
                sys.exit(130)
            run.save(path)
            runs.append(run)
    return runs


def smoothed(losses: list[float], width: int = 10) -> torch.Tensor:
    """Means of up to `width` neighbours before each step."""
    total = torch.tensor([0.0, *losses], dtype=torch.float64).cumsum(0)
    end = torch.arange(1, len(losses) + 1)
    start = (end - width).clamp(min=0)
    return (total[end] - total[start]) / (end - start)


def draw_losses(runs: list[Run], path: Path) -> None:
    """The loss of every run over its steps, on one pair of axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for run in runs:
        colour, width = STYLES[run.attention]
        label = f"{run.attention}: {float(smoothed(run.losses)[-1]):.3f}"
        axes.plot(smoothed(run.losses), color=colour, linewidth=width, label=label)
    axes.set(xlabel="step", ylabel="loss (nats a character, mean of 10 steps)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def draw_learned(run: Run, path: Path) -> None:
    """What the variant's own parameters, which began at 0, have become."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tables = [value for name, value in run.learned().items() if name.endswith("bias")]
    figure, all_axes = pyplot.subplots(
        1, len(tables), figsize=(3.2 * len(tables), 3), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for layer, (axes, table) in enumerate(zip(all_axes[0], tables, strict=True)):
        for head, row in enumerate(table):
            axes.plot(row, linewidth=1, label=f"head {head}")
        axes.set(title=f"layer {layer}", xlabel="i - j")
    all_axes[0][0].set_ylabel("learned bias")
    all_axes[0][0].legend(fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def results(runs: list[Run]) -> Table:
    """Losses and speeds; how far attnc's losses part from torch's; how far parameters moved."""
    table = Table("attention", "last loss", "steps/s", "largest difference of losses", "learned")
    by_name = {run.attention: run for run in runs}
    for name, run in by_name.items():
        apart = ""
        if name == "attnc" and "sdpa" in by_name:
            pairs = zip(run.losses, by_name["sdpa"].losses, strict=True)
            apart = f"{max(abs(a - b) for a, b in pairs):.1e}"
        moved = ", ".join(
            f"{kind} up to {max(float(x.abs().max()) for x in found):.2g}"
            for kind in ("bias", "sink", "forget", "write", "blend")
            if (found := [x for key, x in run.learned().items() if key.endswith(kind)])
        )
        mean = float(smoothed(run.losses)[-1])
        table.add_row(name, f"{mean:.3f}", f"{run.speed:.2f}", apart, moved)
    return table


@click.command(help=__doc__)
@click.option("--steps", default=400, show_default=True)
@click.option("--batch", default=8, show_default=True, help="Pieces of text a step.")
@click.option("--context", default=256, show_default=True, help="Characters of a piece.")
@click.option("--width", default=128, show_default=True)
@click.option("--layers", default=4, show_default=True)
@click.option("--window", default=64, show_default=True, help="Of the variant and the hybrid.")
@click.option("--seed", default=0, show_default=True)
@click.option("--backend", default="auto", show_default=True, help="Of attnc.")
@click.option("--threads", default=2, show_default=True)
@click.option("--only", "names", multiple=True, type=click.Choice(tuple(ATTENTIONS)))
@click.option("--out", default="runs", show_default=True, type=click.Path(path_type=Path))
@click.option("--resume", is_flag=True, help="Go on from the checkpoints in the folder.")
def main(
    steps: int,
    batch: int,
    context: int,
    width: int,
    layers: int,
    window: int,
    seed: int,
    backend: str,
    threads: int,
    names: tuple[str, ...],
    out: Path,
    resume: bool,
) -> None:
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    shape = Shape(width=width, layers=layers, context=context, window=window)
    plan = Plan(steps=steps, batch=batch, seed=seed, backend=backend, shape=shape)
    try:
        runs = train_all(names or tuple(ATTENTIONS), plan, out, resume)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    console.print(results(runs))
    draw_losses(runs, out / "losses.png")
    made = [out / "losses.png"]
    for run in runs:
        if run.attention == "variant":
            draw_learned(run, out / "learned.png")
            made.append(out / "learned.png")
    console.print(*made, sep="\n")


if __name__ == "__main__":
    main()
