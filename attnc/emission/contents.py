"""The contents of a written module: its sections and the lines where they begin."""

from __future__ import annotations

from collections.abc import Iterator

from attnc.emission.bundle import BANNER

END_OF_DOCSTRING = '\n"""\n\nfrom __future__ import annotations\n'
SUPPORT = "support: "


def with_contents(text: str) -> str:
    """The module's text with its contents at the end of the docstring."""
    head, end, rest = text.partition(END_OF_DOCSTRING)
    sections = list(_sections(text.split("\n")))
    added = len(sections) + 2
    lines = [f"    {line + added:>6}  {title}" for line, title in sections]
    return "\n".join([head, "", "Sections, by line:", *lines]) + end + rest


def _sections(lines: list[str]) -> Iterator[tuple[int, str]]:
    """(line, title) of each section; the files of the support part are one."""
    supported = False
    for number, (before, title, after) in enumerate(zip(lines, lines[1:], lines[2:], strict=False)):
        if before != BANNER or after != BANNER or not title.startswith("# "):
            continue
        if not title.startswith(f"# {SUPPORT}"):
            yield number + 2, title.removeprefix("# ")
        elif not supported:
            supported = True
            yield number + 2, "Support: the call, autograd, compilation and launch of kernels"
