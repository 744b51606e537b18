"""Writes attnc/zoo/gallery.json, what `attnc zoo` shows: part of `make gallery`.

python examples/zoo.py               the operators whose row or spec changed since; all, after
                                     gallery.json was removed
python examples/zoo.py NAME ...      these
"""

from __future__ import annotations

import base64
import sys
from dataclasses import replace
from pathlib import Path

import gallery
import numpy as np

from attnc.compiler import lower
from attnc.errors import AttncError
from attnc.explanation import explain
from attnc.zoo import FILE, Entry, print_entries, read_entries

TARGET = gallery.HERE.parent / "attnc" / "zoo" / FILE
KERNELS = ("cpu", "triton")
DENSE = ("eager", "numpy")


def entry_of(row: gallery.Row) -> Entry:
    """A row of the catalogue with all that the compiler says of its spec."""
    entry = facts_of(row)
    if row.path is None:
        return replace(entry, lacks=", ".join(gallery.missing(row)))
    state = gallery.state_of(row)
    spec = gallery.read_row_spec(row)
    stages = lower(spec)
    kernels = state.startswith("verified")
    _, *derived = explain(spec, stages, "eager").splitlines()
    lacks = "" if kernels else state.partition("missing: ")[2].replace("`", "")
    pairs = gallery.visible_pairs(row)
    return replace(
        entry,
        state="verified" if kernels else "oracle",
        lacks=lacks,
        gradient=gallery.gradient_of(row, state),
        derived="\n".join(line.removeprefix("  ") for line in derived) if kernels else "",
        backends=(*KERNELS, *DENSE) if kernels else DENSE,
        mask=None if pairs is None else packed(pairs),
    )


def facts_of(row: gallery.Row) -> Entry:
    """What the catalogue and the file say, nothing compiled."""
    path = row.path
    return Entry(
        row.name,
        row.family,
        gallery.TITLES[row.family],
        row.title,
        row.paper,
        row.needs,
        row.outside,
        row.outside_what,
        path=path.relative_to(gallery.HERE).as_posix() if path else "",
        spec=path.read_text(encoding="utf-8") if path else "",
    )


def packed(pairs: np.ndarray) -> tuple[int, int, str]:
    """Visible pairs as bits, row after row."""
    bits = np.packbits(pairs.astype(np.uint8).reshape(-1))
    return (*pairs.shape, base64.b64encode(bits.tobytes()).decode())


def is_current(stored: Entry, row: gallery.Row) -> bool:
    """Whether the row and its spec are those that were stored."""
    facts = facts_of(row)
    names = ("family", "title", "paper", "features", "outside", "outside_what", "path", "spec")
    return all(getattr(stored, name) == getattr(facts, name) for name in names)


def main(names: list[str]) -> None:
    stored = {entry.name: entry for entry in read_entries()} if TARGET.exists() else {}
    entries = []
    for row in gallery.read_rows():
        old = stored.get(row.name)
        if old is not None and row.name not in names and is_current(old, row):
            entries.append(old)
            continue
        try:
            entries.append(entry_of(row))
        except AttncError as error:
            raise SystemExit(f"{row.name}: {error}") from error
    TARGET.write_text(print_entries(entries), encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    main(sys.argv[1:])
