"""attnc check: every mistake of .attn files, with place and hint."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from attnc.cli.common import FILE, read_source, with_statics


@click.command("check")
@click.argument("paths", nargs=-1, required=True, type=FILE)
@click.option("-q", "--quiet", is_flag=True, help="Print mistakes only.")
@click.option("--strict", is_flag=True, help="Warnings count as mistakes.")
@with_statics
def command(
    paths: tuple[Path, ...], quiet: bool, strict: bool, assignments: dict[str, int | float | bool]
) -> None:
    """Check .attn files and report every mistake; exit 1 if there is one."""
    from attnc.errors import SpecError
    from attnc.front import read_spec

    failed = 0
    for path in paths:
        try:
            checked = read_spec(read_source(path), statics=assignments)
        except SpecError as error:
            failed += 1
            click.echo(str(error), err=True)
            continue
        for warning in checked.warnings:
            click.echo(str(warning), err=True)
        failed += strict and bool(checked.warnings)
        if not quiet:
            click.echo(f"{path}: {checked.name} is well formed")
    if failed:
        sys.exit(1)
