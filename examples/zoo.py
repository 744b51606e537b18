"""Writes attnc/zoo/gallery.json, what `attnc zoo` shows: part of `make gallery`.

python examples/zoo.py               the operators whose row or spec changed since; all, after
                                     gallery.json was removed
python examples/zoo.py NAME ...      these
python examples/zoo.py --ratios [NAME ...]    measures the errors of CPU kernels on the calls of
                                     tests/gallery_cases.py, of those without; minutes, since each
                                     operator is compiled
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


def ratios_of(row: gallery.Row) -> dict[str, float]:
    """The error of the CPU's kernels in float32 over that of the dense formula in eager PyTorch,
    both relative to the oracle (Frobenius): the largest of the gallery's calls."""
    import torch
    from gallery_cases import calls, load, of_one_width, setting_of

    from attnc.operator import Operator
    from attnc.verification import compare

    assert row.path is not None
    spec, setting = load(row.path), of_one_width(setting_of(row.name))
    run, eager = Operator(spec, "cpu"), Operator(spec, "eager")
    found = [
        one.frobenius_ratio
        for case, _ in calls(spec, setting, seed=11)
        for one in compare(spec, case, run, eager, torch.float32, backend="cpu").comparisons
    ]
    return {"cpu float32": round(float(max(found)), 2)}


def measure(names: list[str]) -> None:
    """Stores the ratios of these operators, or of all verified ones that have none. Each is
    written as soon as it is known."""
    sys.path.insert(0, str(gallery.HERE.parent / "tests"))
    for row in gallery.read_rows():
        stored = {entry.name: entry for entry in read_entries()}
        old = stored.get(row.name)
        wanted = row.name in names if names else old is not None and not old.ratios
        if old is None or old.state != "verified" or not wanted:
            continue
        ratios = ratios_of(row)
        read_entries.cache_clear()
        entries = [replace(e, ratios=ratios) if e.name == row.name else e for e in read_entries()]
        read_entries.cache_clear()
        TARGET.write_text(print_entries(entries), encoding="utf-8")
        print(row.name, *ratios.values(), flush=True)


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
            entry = entry_of(row)
            same = old is not None and old.spec == entry.spec
            entries.append(replace(entry, ratios=old.ratios) if old and same else entry)
        except AttncError as error:
            raise SystemExit(f"{row.name}: {error}") from error
    TARGET.write_text(print_entries(entries), encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    if sys.argv[1:2] == ["--ratios"]:
        measure(sys.argv[2:])
    else:
        main(sys.argv[1:])
