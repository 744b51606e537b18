"""The tables of `attnc bench`, and their rows as plain data. Reasons stand under a table, as
footnotes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from attnc.bench.backward import JVP, TrainingRow
from attnc.bench.figures import Figure
from attnc.bench.recurrences import HEADS, ROWS, WIDTH, ScanRow
from attnc.bench.table import HELD, Row

if TYPE_CHECKING:
    from rich.table import Table


# What every row of a timed case begins with; "of most": the share of the products' ceiling.
HEADINGS = {
    **dict.fromkeys(("case", "keys/width", "dtype"), "left"),
    **dict.fromkeys(("ms", "spread", "GFLOP/s", "of most"), "right"),
}


@dataclass
class Footnotes:
    """Letters for reasons, in order of their first use."""

    texts: list[str] = field(default_factory=list)

    def mark(self, text: str) -> str:
        """`[a]` for the text, "" for none."""
        if not text:
            return ""
        if text not in self.texts:
            self.texts.append(text)
        return f"\\[{chr(ord('a') + self.texts.index(text))}]"

    def lines(self) -> list[str]:
        return [f"  {self.mark(text)} {text}" for text in self.texts]


def _table(title: str, headings: dict[str, str]) -> Table:
    from rich.table import Table

    table = Table(title=title)
    for heading, justify in headings.items():
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    return table


def _rate(found: float, ceiling: float) -> tuple[str, str]:
    """GFLOP/s, and the share of the most that is possible."""
    return f"{found / 1e9:.0f}", f"{found / ceiling:.0%}"


def _bar(value: float, bar: float | None, holds: bool | None) -> str:
    """`1.52 (1.3)`, with a word where the bar is missed."""
    if bar is None:
        return f"{value:.2f}"
    return f"{value:.2f} ({bar:g}{'' if holds else ' missed'})"


# --- Forward -------------------------------------------------------------------------------------


def forward_table(rows: list[Row], ceilings: Mapping[str, float]) -> list[Any]:
    """Ratios against SDPA and FlexAttention; `ceilings`: operations a second at most, by dtype."""
    notes = Footnotes()
    headings = dict.fromkeys(("case", "keys/width", "dtype"), "left")
    headings |= dict.fromkeys(
        (
            "ms",
            "spread",
            "GFLOP/s",
            "of most",
            "GB/s least",
            "error",
            "SDPA",
            "Flex",
            "mask ms",
            "first s",
        ),
        "right",
    )
    table = _table("attnc against its peers: ratio (bar)", headings)
    for row in rows:
        seconds, masks = row.attnc.median, row.setups.get("flex")
        table.add_row(
            row.case.name,
            f"{row.case.keys}/{row.case.width}",
            row.dtype,
            f"{seconds * 1e3:.2f}",
            f"{row.attnc.spread:.0%}",
            *_rate(row.operations / seconds, ceilings[row.dtype]),
            f"{row.bytes_least / seconds / 1e9:.1f}",
            f"{row.error:.1e}",
            _ratio(row, "sdpa", notes),
            _ratio(row, "flex", notes),
            f"{masks * 1e3:.0f}" if masks else "",
            f"{row.compile_seconds:.1f}",
        )
    missed = sum(False in (row.holds("sdpa"), row.holds("flex")) for row in rows)
    closing = [f"{missed} of {len(rows)} rows miss a bar"] if missed else []
    return [table, *notes.lines(), *closing]


def _ratio(row: Row, peer: str, notes: Footnotes) -> str:
    ratio = row.ratio(peer)
    if ratio is None:
        return f"- {notes.mark(row.reasons.get(peer, 'none'))}"
    bar = row.case.bars.get((row.dtype, peer))
    return f"{_bar(ratio, bar, row.holds(peer))} {notes.mark(row.notes.get(peer, ''))}".rstrip()


def plain_row(row: Row) -> dict[str, Any]:
    return {
        "case": row.case.name,
        "rows": row.case.rows,
        "keys": row.case.keys,
        "width": row.case.width,
        "dtype": row.dtype,
        "milliseconds": row.attnc.median * 1e3,
        "spread": row.attnc.spread,
        "operations": row.operations,
        "bytes": row.bytes_least,
        "error": row.error,
        "ratios": row.ratios,
        "reasons": row.reasons,
        "notes": row.notes,
        "setup_seconds": row.setups,
        "bars": {peer: bar for (dtype, peer), bar in row.case.bars.items() if dtype == row.dtype},
    }


# --- Training ------------------------------------------------------------------------------------


def training_table(rows: list[TrainingRow], ceilings: Mapping[str, float]) -> list[Any]:
    """Forward and backward against SDPA's, the tangent in forwards; `ceilings` as above."""
    notes = Footnotes()
    headings = HEADINGS | dict.fromkeys(("error", "SDPA's error", "SDPA", "jvp / forward"), "right")
    table = _table("forward + backward against SDPA: ratio (bar)", headings)
    for row in rows:
        cells = [row.case.name, f"{row.case.keys}/{row.case.width}", row.dtype]
        if row.attnc is None or row.ratio is None:
            table.add_row(*cells, f"- {notes.mark(row.reason)}", *[""] * 7)
            continue
        seconds = row.attnc.median
        table.add_row(
            *cells,
            f"{seconds * 1e3:.2f}",
            f"{row.attnc.spread:.0%}",
            *_rate(row.operations / seconds, ceilings[row.dtype]),
            f"{row.error:.1e}",
            f"{row.peer_error:.1e}",
            _bar(row.ratio, row.bar, row.ratio >= HELD * row.bar),
            _tangent(row, notes),
        )
    return [table, *notes.lines()]


def scan_table(rows: list[ScanRow]) -> Any:
    """Recurrences against their chunkwise form in torch, eager and compiled."""
    peers = list(dict.fromkeys(name for row in rows for name in row.ratios))
    headings = {"case": "left", "what": "left"}
    headings |= dict.fromkeys(("ms", "spread", "error", "of gradients", *peers), "right")
    shape = f"B1 H{HEADS} T{ROWS} D{WIDTH} float32"
    table = _table(f"recurrences, {shape}, against chunked torch: ratio (bar)", headings)
    for row in rows:
        bars = [(ratio, row.bars[name]) for name, ratio in row.ratios.items()]
        table.add_row(
            row.case.name,
            row.what,
            f"{row.attnc.median * 1e3:.2f}",
            f"{row.attnc.spread:.0%}",
            *(f"{error:.1e}" for error in row.errors),
            *(_bar(ratio, bar, ratio >= HELD * bar) for ratio, bar in bars),
        )
    return table


def plain_scan(row: ScanRow) -> dict[str, Any]:
    return {
        "case": row.case.name,
        "what": row.what,
        "milliseconds": row.attnc.median * 1e3,
        "spread": row.attnc.spread,
        "errors": row.errors,
        "ratios": row.ratios,
        "bars": row.bars,
    }


def _tangent(row: TrainingRow, notes: Footnotes) -> str:
    if row.tangent is None:
        return f"- {notes.mark(row.tangent_reason)}"
    return _bar(row.tangent, JVP, row.tangent * HELD <= JVP)


def plain_training(row: TrainingRow) -> dict[str, Any]:
    return {
        "case": row.case.name,
        "keys": row.case.keys,
        "width": row.case.width,
        "dtype": row.dtype,
        "milliseconds": None if row.attnc is None else row.attnc.median * 1e3,
        "ratios": row.ratios,
        "bar": row.bar,
        "operations": row.operations,
        "error": row.error,
        "peer_error": row.peer_error,
        "tangent": row.tangent,
        "reasons": [text for text in (row.reason, row.tangent_reason) if text],
    }


# --- Calls ---------------------------------------------------------------------------------------


def figures_table(
    figures: list[Figure], title: str = "what a call costs beside its kernel"
) -> list[Any]:
    """Single figures beside their bars (at most)."""
    notes = Footnotes()
    table = _table(title, {"figure": "left", "": "right", "bar": "right"})
    for figure in figures:
        value = "-" if figure.value is None else f"{figure.value:.4g} {figure.unit}".strip()
        mark = notes.mark(figure.note)
        bar = "" if figure.bar is None else f"{figure.bar:.4g}"
        table.add_row(
            figure.name, f"{value} {mark}", bar if figure.holds is not False else f"{bar} missed"
        )
    return [table, *notes.lines()]
