"""attnc zoo: the gallery as a table, one operator of it, or all as a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from attnc.cli.common import console
from attnc.zoo import STATES, Entry, brief, find, read_entries, select

if TYPE_CHECKING:
    from rich.console import Console

STYLES = {"verified": "green", "oracle": "yellow", "missing": "red"}


@click.command("zoo")
@click.argument("words", nargs=-1)
@click.option("--family", help="Only this family.")
@click.option("--feature", "features", multiple=True, help="Only what needs it. May be repeated.")
@click.option("--paper", help="Only papers with this in author or year.")
@click.option("--state", type=click.Choice(STATES), help="Only operators in this state.")
@click.option("--families", is_flag=True, help="The families, with how many of each state.")
@click.option(
    "--html", "page", type=click.Path(dir_okay=False, path_type=Path), help="Write them as a page."
)
def command(
    words: tuple[str, ...],
    family: str | None,
    features: tuple[str, ...],
    paper: str | None,
    state: str | None,
    families: bool,
    page: Path | None,
) -> None:
    """List the gallery's operators, those with all WORDS in name, title, paper or text.

    `attnc zoo show NAME` shows one: its text, its paper, its state, its equations.
    """
    if words[:1] == ("show",):
        if len(words) == 1:
            raise click.UsageError("which one? attnc zoo show NAME")
        for name in words[1:]:
            _show(find(name), console())
        return
    _check(family, features)
    entries = select(
        read_entries(), family=family, features=features, paper=paper, state=state, words=words
    )
    if page is not None:
        _write(entries, page)
    elif families:
        _families(entries, console())
    else:
        _list(entries, console())


def _check(family: str | None, features: Sequence[str]) -> None:
    """A word that no entry has is a mistake, not an empty table."""
    from attnc.errors import did_you_mean

    known = {entry.family for entry in read_entries()}
    if family is not None and family not in known:
        hint = did_you_mean(family, known) or f"One of: {', '.join(sorted(known))}."
        raise click.UsageError(f"there is no family `{family}`. {hint}")
    words = {feature for entry in read_entries() for feature in entry.features}
    for feature in features:
        if feature not in words:
            hint = did_you_mean(feature, words)
            raise click.UsageError(
                " ".join(filter(None, [f"no operator needs `{feature}`.", hint]))
            )


def _list(entries: Sequence[Entry], screen: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("operator", "family", "what", "paper", "state", "gradient"):
        table.add_column(title, no_wrap=title in ("operator", "family", "state"))
    for entry in entries:
        table.add_row(
            Text(entry.name, style="bold"),
            entry.family,
            entry.title,
            Text(entry.paper, style="dim"),
            Text(entry.state, style=STYLES[entry.state]),
            Text(brief(entry.gradient), style="dim"),
        )
    screen.print(table)
    counts = [(state, sum(entry.state == state for entry in entries)) for state in STATES]
    said = ", ".join(f"{count} {state}" for state, count in counts if count)
    screen.print(f"{len(entries)} operators{f': {said}' if said else ''}", style="dim")


def _families(entries: Sequence[Entry], screen: Console) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("family", no_wrap=True)
    table.add_column("")
    for state in STATES:
        table.add_column(state, justify="right")
    for family in dict.fromkeys(entry.family for entry in entries):
        of = [entry for entry in entries if entry.family == family]
        counts = [str(sum(entry.state == state for entry in of) or "") for state in STATES]
        table.add_row(family, of[0].family_title, *counts)
    screen.print(table)


def _show(entry: Entry, screen: Console) -> None:
    from rich.syntax import Syntax
    from rich.text import Text

    screen.print(Text.assemble((entry.name, "bold"), f"  {entry.title}"))
    facts = {
        "paper": entry.paper,
        "family": f"{entry.family} ({entry.family_title})",
        "needs": ", ".join(entry.features),
        "state": _state(entry),
        "gradient": entry.gradient,
        "backends": ", ".join(entry.backends),
        "not part of it": entry.outside_what,
        "error ratios": ", ".join(f"{name} {ratio:.2f}" for name, ratio in entry.ratios.items()),
    }
    for name, fact in facts.items():
        if fact:
            screen.print(Text.assemble((f"{name + ':':16}", "dim"), fact))
    if not entry.spec:
        return
    screen.print()
    screen.print(
        Syntax(entry.spec.rstrip(), "python", theme="ansi_light", background_color="default")
    )
    if entry.derived:
        screen.print()
        screen.print(Text("what was derived", style="dim"))
        screen.print(Text(entry.derived))


def _state(entry: Entry) -> str:
    if entry.state == "verified":
        return "verified: oracle against a reference of its own, mutants, kernels"
    what = "runs on the oracle and in eager torch" if entry.state == "oracle" else "missing"
    return f"{what}; kernels lack: {entry.lacks}" if entry.lacks else what


def _write(entries: Sequence[Entry], page: Path) -> None:
    from attnc.cache import write_file
    from attnc.zoo.page import print_page

    write_file(page, print_page(entries))
    click.echo(f"wrote {page} ({len(entries)} operators)")
