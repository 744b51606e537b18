"""What the commands share: reading files, statics given as NAME=VALUE, the console."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attnc.errors import AttncError
from attnc.source import Source

if TYPE_CHECKING:
    from rich.console import Console

FILE = click.Path(exists=True, dir_okay=False, path_type=Path, allow_dash=True)
COUNT = click.IntRange(min=1)


def read_source(path: Path) -> Source:
    """The text of a file (`-`: standard input)."""
    if str(path) == "-":
        return Source(sys.stdin.read(), "<stdin>")
    try:
        return Source(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise AttncError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise AttncError(f"{path}: {error.strerror}") from None


def with_statics(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--set NAME=VALUE` (statics and params) to a command."""
    return click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="NAME=VALUE",
        callback=_assignments,
        help="Bind a static or a param, as in --set size=9. May be repeated.",
    )(function)


def _assignments(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, int | float | bool]:
    bound: dict[str, int | float | bool] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE")
        bound[name.strip()] = parse_number(value.strip())
    return bound


def parse_number(text: str) -> int | float | bool:
    """An int, a float, true or false."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise click.BadParameter(f"{text!r} is not a number, true or false")


def console() -> Console:
    """A rich console: colours on a terminal only, tables never narrower than they need
    elsewhere."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 140)
