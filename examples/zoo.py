"""Writes attnc/zoo/gallery.json, what `attnc zoo` shows: part of `make gallery`.

python examples/zoo.py               the operators whose row or spec changed since; all, after
                                     gallery.json was removed
python examples/zoo.py NAME ...      these
python examples/zoo.py --ratios [NAME ...]    measures the errors of CPU kernels on the calls of
                                     tests/gallery_cases.py, of those without; minutes, since each
                                     operator is compiled. It may be stopped and started anew, and
                                     run beside the others: the file is replaced under a lock
"""

from __future__ import annotations

import base64
import fcntl
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
        public=row.public,
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
    written as soon as it is known; what has no finite ratio is said and not stored."""
    sys.path.insert(0, str(gallery.HERE.parent / "tests"))
    for row in gallery.read_rows():
        old = stored_entries().get(row.name)
        wanted = row.name in names if names else old is not None and not old.ratios
        if old is None or old.state != "verified" or not wanted:
            continue
        ratios = ratios_of(row)
        print(row.name, *ratios.values(), flush=True)
        if not all(map(math.isfinite, ratios.values())):
            continue
        with locked():
            stored = stored_entries()
            if row.name in stored and stored[row.name].spec == old.spec:
                stored[row.name] = replace(stored[row.name], ratios=ratios)
                write(list(stored.values()))


def stored_entries() -> dict[str, Entry]:
    """What the file holds now."""
    read_entries.cache_clear()
    return {entry.name: entry for entry in read_entries()} if TARGET.exists() else {}


@contextmanager
def locked() -> Iterator[None]:
    """Between reading and writing, for processes that write the file at one time."""
    folder = os.open(TARGET.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def write(entries: list[Entry]) -> None:
    """Replaces the file as a whole: nobody reads half of it."""
    beside = TARGET.with_suffix(f".{os.getpid()}")
    beside.write_text(print_entries(entries), encoding="utf-8")
    beside.replace(TARGET)


def is_current(stored: Entry, row: gallery.Row) -> bool:
    """Whether the row and its spec are those that were stored."""
    facts = facts_of(row)
    names = ("family", "title", "paper", "features", "outside", "outside_what", "path", "spec")
    return all(getattr(stored, name) == getattr(facts, name) for name in (*names, "public"))


def main(names: list[str]) -> None:
    stored = stored_entries()
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
    with locked():
        stored = stored_entries()
        write([with_ratios(entry, stored.get(entry.name)) for entry in entries])


def with_ratios(entry: Entry, stored: Entry | None) -> Entry:
    """What was measured of this very spec, now or while the entry was made."""
    same = stored is not None and stored.spec == entry.spec
    return replace(entry, ratios=stored.ratios) if stored and same else entry


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    if sys.argv[1:2] == ["--ratios"]:
        measure(sys.argv[2:])
    else:
        main(sys.argv[1:])
