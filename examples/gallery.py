"""Prints examples/README.md and draws the masks: `make gallery`.

The table comes from catalogue.toml, grammar/features.toml and the compiler: an operator has kernels
or the compiler says what they lack. That kernels are right is for tests/test_gallery.py to show.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tomllib
from attnc.backends.numpy_oracle import evaluate

from attnc.cases import Shape, draw_case
from attnc.compiler import lower
from attnc.errors import AttncError
from attnc.front import load_source, read_spec
from attnc.spec import Spec

HERE = Path(__file__).resolve().parent
PICTURES = HERE / "pictures"
FAMILIES = (
    "softmax", "positional", "window", "grid", "segment", "head", "normalizer", "variants",
    "linear", "decay", "delta", "ssm", "convolution", "sparse", "summary", "gate", "sampling",
    "axis", "edit", "cache", "system",
)  # fmt: skip
LENGTH = 64  # rows and keys of a picture without a map
INK, PAPER, RULE = (38, 70, 110), (240, 241, 244), (200, 60, 50)


@dataclass(frozen=True)
class Row:
    """One mechanism: what the catalogue says, and its spec if there is one."""

    name: str
    family: str
    title: str
    paper: str
    needs: tuple[str, ...]
    outside: tuple[str, ...]
    outside_what: str
    picture: dict[str, Any] = field(default_factory=dict)
    gradient: str = ""
    gradient_on_triton: str = ""
    public: tuple[str, ...] = ()

    @property
    def path(self) -> Path | None:
        found = [HERE / folder / f"{self.name}.attn" for folder in FAMILIES]
        return next((path for path in found if path.exists()), None)


def read_rows() -> list[Row]:
    """The rows of the catalogue, in its order."""
    entries = tomllib.loads((HERE / "catalogue.toml").read_text(encoding="utf-8"))
    public = tomllib.loads((HERE / "references.toml").read_text(encoding="utf-8"))
    return [
        Row(
            name,
            entry["family"],
            entry["title"],
            entry.get("paper", ""),
            tuple(entry.get("needs", ())),
            tuple(entry.get("outside", {}).get("needs", ())),
            entry.get("outside", {}).get("what", ""),
            entry.get("picture", {}),
            entry.get("gradient", ""),
            entry.get("gradient_on_triton", entry.get("gradient", "")),
            tuple(public.get(name, ())),
        )
        for name, entry in entries.items()
    ]


def read_shipped() -> dict[str, str]:
    """The features of this release, each with its sentence."""
    path = HERE.parent / "grammar" / "features.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


def missing(row: Row) -> list[str]:
    """What the operator's formula needs and this release has not."""
    shipped = read_shipped()
    return [name for name in row.needs if name not in shipped and name not in row.outside]


def read_row_spec(row: Row) -> Spec:
    assert row.path is not None
    return read_spec(load_source(row.path), statics=row.picture.get("static", {}))


def state_of(row: Row) -> str:
    """verified; on the oracle only, and what kernels lack; or what is missing altogether."""
    if row.path is None:
        return "missing: " + ", ".join(f"`{name}`" for name in missing(row))
    stages = lower(read_row_spec(row))
    refusal = stages.refusal
    if refusal is not None:
        words = ", ".join(f"`{name}`" for name in missing(row))
        return f"runs on the oracle only; missing: {words or refusal.feature}"
    return "verified"


def gradient_of(row: Row, state: str) -> str:
    """Of an operator with kernels: its gradients verified, refused for a feature, or only derived,
    as the catalogue has it (tests/test_gallery.py and test_triton_gallery.py hold it to that); for
    each backend where they differ."""
    if not state.startswith("verified"):
        return ""
    if row.gradient == row.gradient_on_triton:
        return row.gradient or "derived"
    return f"CPU: {row.gradient or 'derived'}; Triton: {row.gradient_on_triton or 'derived'}"


# pictures ---------------------------------------------------------------------------------------


def visible_pairs(row: Row) -> np.ndarray | None:
    """Which keys the rows of the first batch and head see; None where every row sees all keys.

    Sources of keys stand side by side, a column of False between them."""
    spec = read_row_spec(row)
    numbers = {name: value for name, value in row.picture.items() if name != "static"}
    shape = Shape(LENGTH, LENGTH, 4, 4, 1, 2, 1)
    case = draw_case(spec, shape, 3, numbers)
    settle(row.name, case.tensors)
    names = [one.array.name for one in spec.root.offered if one.array.name.startswith("score")]
    if not names or len(spec.root.sources[0].keys) > 1:
        return None
    found = evaluate(spec, case.tensors, case.numbers, emit=names)
    parts = [(found[name] > -np.inf).reshape(-1, *found[name].shape[-2:])[0] for name in names]
    if all(part.all() for part in parts):
        return None
    gap = np.zeros((len(parts[0]), 1), bool)
    joined = [part for one in parts for part in (one, gap)]
    return np.concatenate(joined[:-1], axis=1)


def settle(name: str, t: dict[str, Any]) -> None:
    """Tensors that make a telling picture: runs of ids, lengths that cut a little."""
    places = np.arange(LENGTH)
    runs = np.searchsorted([11, 24, 43], places, side="right")
    for each in ("doc", "rows", "keys", "segment", "block"):
        if each in t and t[each].ndim == 2:
            t[each][:] = runs
    if "kind" in t:
        t["kind"][:], t["allowed"] = places // 22, np.array([[1, 1, 0], [1, 1, 0], [1, 0, 1]]) > 0
    if "begin" in t:
        t["begin"][:] = 0
    if "border" in t:
        t["border"][:] = np.array([5, 18, 36, 50])[runs]
    if "gist" in t:
        t["gist"][:] = np.isin(places, [9, 10, 22, 23, 41, 42])
    if "lo" in t:
        t["lo"][:], t["hi"][:] = places * 7 // 8, places * 7 // 8 + 4 + places % 5
    if "special" in t:
        t["special"][:] = np.isin(places, [0, 1, 30])
    if "listed" in t:
        side = LENGTH // 8
        share = 0.06 if "special" in t else 0.4
        t["listed"] = np.random.default_rng(5).random((*t["listed"].shape[:-2], side, side)) < share
    if {"text", "row"} <= t.keys():
        t["text"][:] = places < 8
        t["row"][:], t["column"][:] = (places - 8) // 8, (places - 8) % 8
    if "retrieval" in t:
        t["retrieval"][:] = False
    if "dropped" in t:
        t["dropped"][:] = (places >= 4) & (places < 40)
    if "shift" in t:
        t["shift"][:] = 8
    if "window" in t:
        t["window"][:] = 12
    for each in ("length", "length2"):
        if each in t:
            t[each][:] = LENGTH - 8 if name != "prefix" else 20
    if "frame" in t:
        t["frame"][:] = np.linspace(0, 15, len(t["frame"])).astype(int)


def print_png(pairs: np.ndarray, scale: int = 2) -> bytes:
    """A picture of visible pairs: one palette, rows downwards, keys to the right."""
    pixels = np.kron(pairs.astype(np.uint8), np.ones((scale, scale), np.uint8))
    height, width = pixels.shape
    packed = np.packbits(pixels, axis=1)
    lines = np.concatenate([np.zeros((height, 1), np.uint8), packed], axis=1)

    def chunk(kind: bytes, body: bytes) -> bytes:
        summed = kind + body
        return struct.pack(">I", len(body)) + summed + struct.pack(">I", zlib.crc32(summed))

    header = struct.pack(">IIBBBBB", width, height, 1, 3, 0, 0, 0)
    parts = (
        chunk(b"IHDR", header),
        chunk(b"PLTE", bytes((*PAPER, *INK))),
        chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)),
        chunk(b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


# the page ---------------------------------------------------------------------------------------

HEAD = """\
# The gallery

Printed by `make gallery` from `catalogue.toml` and `references.toml`; change those, not this.

Each operator is one file. *Verified* means: the float64 oracle agrees with a short reference that
was written from the paper's equations, every mutant of the text (a conjunct dropped, `<` for `<=`,
a sign, a scale, an index shifted) disagrees with it somewhere, and the CPU and Triton kernels agree
with the oracle (`tests/test_gallery.py`). Other operators run on the oracle and in eager torch
(`backend="numpy"`, `backend="eager"`), or wait for the features named, in the words of
`grammar/features.toml`. Pictures show which keys (to the right) the rows (downwards) of one head
see, several sources of keys side by side; without one, every row sees every key.

A *gradient* is verified when those of every real input that both kernels give are as near to
autograd of the dense formula in float64 as autograd of that formula in the dtype of the call is,
within twice its error. What has no derivative yet is *refused* with the feature that it lacks;
*derived* are those that nobody has compared yet.

Some operators are compared with *public implementations* too, with random weights; the table at the
end says which with what.

A pipeline is several operators with equations between them: kernels for the one, torch for the
other (`op.explain()` says which).
"""

TITLES = {
    "softmax": "Softmax",
    "positional": "Positions",
    "window": "Windows on a line",
    "grid": "Grids",
    "segment": "Segments",
    "head": "Heads",
    "normalizer": "Normalizers",
    "variants": "Masks, scores and normalizers that people know",
    "linear": "Linear attention",
    "decay": "States that decay",
    "delta": "States that are corrected",
    "ssm": "State spaces and gated recurrences",
    "convolution": "Long and short convolutions",
    "sparse": "Keys chosen by data",
    "summary": "Summaries of rows and keys",
    "gate": "Gates",
    "sampling": "Points between those of a map",
    "axis": "Other axes",
    "edit": "Weights changed after the fact",
    "cache": "What a cache keeps",
    "system": "Across devices",
}


def print_row(row: Row, state: str, picture: bool) -> str:
    spec = ""
    if row.path is not None:
        spec = f"[spec]({row.path.relative_to(HERE).as_posix()})"
    gradient = gradient_of(row, state)
    if row.path is not None and row.outside_what:
        words = ", ".join(f"`{word}`" for word in row.outside)
        state += f"; not part of it: {row.outside_what} ({words})"
    drawn = f"![](pictures/{row.name}.png)" if picture else ""
    return f"| `{row.name}` | {row.title} | {row.paper} | {spec} | {state} | {gradient} | {drawn} |"


def print_page(rows: list[Row]) -> str:
    """The text of README.md. Pictures must have been drawn."""
    lines = [HEAD]
    states = {row.name: state_of(row) for row in rows}
    kinds = [
        states[row.name].partition(";")[0].partition(":")[0] for row in rows if row.name != "causal"
    ]
    lines.append(
        f"{kinds.count('verified')} operators verified, "
        f"{kinds.count('runs on the oracle only')} more on the oracle, "
        f"{kinds.count('missing')} to come (`causal` and `causal_softmax` count once).\n"
    )
    counted = [r for r in rows if r.name != "causal" and states[r.name].startswith("verified")]
    on_cpu = {row.name for row in counted if row.gradient == "verified"}
    on_triton = {row.name for row in counted if row.gradient_on_triton == "verified"}
    lines.append(
        f"Gradients of {len(on_cpu & on_triton)} of them are verified on both backends, "
        f"of {len(on_cpu - on_triton)} more on the CPU, of {len(on_triton - on_cpu)} on Triton.\n"
    )
    for family in FAMILIES:
        lines.append(f"## {TITLES[family]}\n")
        lines.append("| operator | what | paper | spec | state | gradient | mask |")
        lines.append("|---|---|---|---|---|---|---|")
        for row in rows:
            if row.family == family:
                drawn = (PICTURES / f"{row.name}.png").exists()
                lines.append(print_row(row, states[row.name], drawn))
        lines.append("")
    lines += print_references(rows)
    lines.append("## What is shipped\n")
    lines += [f"- `{name}`: {what}." for name, what in read_shipped().items()]
    return "\n".join(lines) + "\n"


def print_references(rows: list[Row]) -> list[str]:
    """What was compared with other people's code."""
    compared = [row for row in rows if row.public]
    return [
        "## Compared with public implementations\n",
        f"{len(compared)} operators; the tests are those named `test_*_public.py` and "
        "`test_scan_fla.py`.\n",
        "| operator | public implementation |",
        "|---|---|",
        *(f"| `{row.name}` | {'; '.join(map(named, row.public))} |" for row in compared),
        "",
    ]


def named(reference: str) -> str:
    """`package: what` as the page has it."""
    package, _, what = reference.partition(": ")
    return f"{package} `{what}`"


def draw(rows: list[Row]) -> None:
    """Writes a picture for every spec whose mask hides something."""
    PICTURES.mkdir(exist_ok=True)
    for row in rows:
        path = PICTURES / f"{row.name}.png"
        try:
            pairs = visible_pairs(row) if row.path is not None else None
        except AttncError as error:
            raise SystemExit(f"{row.name}: {error}") from error
        if pairs is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(print_png(pairs))


def main() -> None:
    rows = read_rows()
    draw(rows)
    (HERE / "README.md").write_text(print_page(rows), encoding="utf-8")
    subprocess.run([sys.executable, HERE / "zoo.py"], check=True)  # what `attnc zoo` shows


if __name__ == "__main__":
    main()
