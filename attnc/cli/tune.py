"""attnc tune: measured tiles for this device."""

from __future__ import annotations

from pathlib import Path

import click

from attnc.cli.common import FILE, console, read_source, with_statics


@click.command("tune")
@click.argument("path", type=FILE)
@click.option("--rows", default=4096, show_default=True, help="Length of the rows.")
@click.option("--keys", default=None, type=int, help="Length of the keys (as many as rows).")
@click.option("--width", default=64, show_default=True, help="Width of queries and keys.")
@click.option("--value-width", default=None, type=int, help="Width of values (that of keys).")
@click.option("--heads", default=16, show_default=True, help="Query heads.")
@click.option("--key-heads", default=None, type=int, help="Key heads (as many as query heads).")
@click.option("--batch", default=1, show_default=True)
@click.option("--dtype", type=click.Choice(("float16", "bfloat16", "float32")), default="bfloat16")
@with_statics
def command(
    path: Path,
    rows: int,
    keys: int | None,
    width: int,
    value_width: int | None,
    heads: int,
    key_heads: int | None,
    batch: int,
    dtype: str,
    assignments: dict[str, int | float | bool],
) -> None:
    """Measure the candidate tiles of the Triton kernels at one shape and keep the fastest.

    Later calls on this device near these lengths use them. CPU kernels have nothing to tune.
    """
    from attnc.cases import Shape
    from attnc.front import read_spec
    from attnc.tuning import tune

    spec = read_spec(read_source(path), statics=assignments)
    shape = Shape(
        rows,
        keys or rows,
        width,
        value_width or width,
        batch,
        key_heads or heads,
        heads // (key_heads or heads),
    )
    screen = console()
    for kernel, tile in tune(spec, shape, dtype).items():
        constants = ", ".join(f"{name} {value}" for name, value in tile.constants.items())
        screen.print(f"{kernel}: {constants}, {tile.warps} warps, {tile.stages} stages")
