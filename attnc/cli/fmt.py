"""attnc fmt: format .attn files."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from attnc.cli.common import FILE, read_source


@click.command("fmt")
@click.argument("paths", nargs=-1, required=True, type=FILE)
@click.option(
    "--check", "only_check", is_flag=True, help="Write nothing; exit 1 if a file would change."
)
def command(paths: tuple[Path, ...], only_check: bool) -> None:
    """Format .attn files in place (`-` reads standard input and writes standard output)."""
    from attnc.cache import write_file
    from attnc.formatter import format_source

    changed = 0
    for path in paths:
        source = read_source(path)
        text = format_source(source.text, source.name)
        if str(path) == "-":
            click.echo(text, nl=False)
        elif text != source.text:
            changed += 1
            click.echo(f"{'would format' if only_check else 'formatted'} {path}")
            if not only_check:
                write_file(path, text)
    if only_check and changed:
        sys.exit(1)
