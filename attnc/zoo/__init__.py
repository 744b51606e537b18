"""The gallery as data: what `attnc zoo` lists, shows and prints as a page.

`gallery.json` holds every row of the catalogue with its spec, its state, what was derived and its
mask as bits. `make gallery` writes it from examples/; it is in the wheel, so that an installed
attnc has its zoo.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files

from attnc.errors import AttncError, did_you_mean

FILE = "gallery.json"
STATES = ("verified", "oracle", "missing")


@dataclass(frozen=True)
class Entry:
    """One operator of the gallery.

    features  what the mechanism asks for, in the words of grammar/features.toml
    state     verified: oracle, kernels, mutants; oracle: runs densely, `lacks` says what kernels
              need; missing: no spec, or none that checks
    gradient  verified, derived, or what its derivative lacks
    spec      the text of its .attn file; path: where that lies under examples/
    derived   what the compiler says it found (the kernels' lines of `explain`)
    mask      [rows, keys, bits in base 64] of one head, or nothing where every row sees all keys
    public    public implementations that it was compared with: `package: what`
    ratios    error over that of eager PyTorch, by backend and dtype, where verification stored it
    """

    name: str
    family: str
    family_title: str
    title: str
    paper: str = ""
    features: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    outside_what: str = ""
    state: str = "missing"
    lacks: str = ""
    gradient: str = ""
    path: str = ""
    spec: str = ""
    derived: str = ""
    backends: tuple[str, ...] = ()
    mask: tuple[int, int, str] | None = None
    public: tuple[str, ...] = ()
    ratios: dict[str, float] = field(default_factory=dict)


@cache
def read_entries() -> tuple[Entry, ...]:
    """The gallery, in the order of the catalogue."""
    rows = json.loads(files("attnc.zoo").joinpath(FILE).read_text(encoding="utf-8"))
    return tuple(_entry(row) for row in rows)


def _entry(row: dict[str, object]) -> Entry:
    made = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
    return Entry(**made)  # type: ignore[arg-type]


def print_entries(entries: Iterable[Entry]) -> str:
    """The text of gallery.json: one entry a line, what is empty left out."""
    kept = [
        {k: v for k, v in asdict(entry).items() if v not in ("", (), {}, None)} for entry in entries
    ]
    lines = [json.dumps(row, ensure_ascii=False, sort_keys=True) for row in kept]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def brief(gradient: str) -> str:
    """What is said of a gradient, without the reasons: `CPU: verified; Triton: refused`."""
    parts = gradient.split("; ") if gradient.startswith("CPU: ") else [gradient]
    return "; ".join(
        part.partition("refused")[0] + "refused" if "refused" in part else part for part in parts
    )


def find(name: str) -> Entry:
    """The operator of this name."""
    for entry in read_entries():
        if entry.name == name:
            return entry
    near = did_you_mean(name, [entry.name for entry in read_entries()])
    raise AttncError(
        " ".join(filter(None, [f"there is no operator `{name}` in the gallery.", near]))
    )


def select(
    entries: Sequence[Entry],
    *,
    family: str | None = None,
    features: Sequence[str] = (),
    paper: str | None = None,
    state: str | None = None,
    words: Sequence[str] = (),
) -> list[Entry]:
    """The entries of a family, with all these features, of a paper, in a state; `words` are looked
    for in name, title, paper and spec."""

    def fits(entry: Entry) -> bool:
        text = f"{entry.name} {entry.title} {entry.paper} {entry.spec}".lower()
        return (
            family in (None, entry.family)
            and all(feature in entry.features for feature in features)
            and (paper is None or paper.lower() in entry.paper.lower())
            and state in (None, entry.state)
            and all(word.lower() in text for word in words)
        )

    return [entry for entry in entries if fits(entry)]
