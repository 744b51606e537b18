"""attnc compile: one self-contained module."""

from __future__ import annotations

from pathlib import Path

import click

from attnc.cli.common import FILE, read_source, with_statics


@click.command("compile")
@click.argument("path", type=FILE)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The module to write (NAME.py)."
)
@with_statics
def command(path: Path, output: Path | None, assignments: dict[str, int | float | bool]) -> None:
    """Write the operator in PATH as a Python module that needs no attnc.

    The module needs torch and numpy, triton where there is a GPU, and a C++ compiler for its CPU
    kernels. Run it as a script and it verifies itself.
    """
    from attnc.cache import write_file
    from attnc.compiler import emit_module
    from attnc.front import read_spec

    spec = read_spec(read_source(path), statics=assignments)
    text = emit_module(spec)
    target = output or Path(f"{spec.name}.py")
    if target.is_dir():
        target = target / f"{spec.name}.py"
    write_file(target, text)
    click.echo(f"wrote {target} ({len(text.splitlines())} lines); try: python {target}")
