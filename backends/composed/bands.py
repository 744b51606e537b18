"""Prints the rows of a pipeline as a function of a band of them (see attnc/passes/bands.py): what
has no row, or needs all rows, before it."""

from __future__ import annotations

import re
from abc import ABC
from collections.abc import Iterable

from attnc.backends.composed.rows import RowsPrinter
from attnc.backends.eager.head import quoted

from attnc.expressions.tree import Array
from attnc.stages import Bands, Growing, Pipeline

WORD = re.compile(r"[A-Za-z_]\w*")


class BandsPrinter(RowsPrinter, ABC):
    """Prints the results of a pipeline, band by band where it has bands."""

    pipeline: Pipeline

    def _results(self) -> None:
        bands = self.pipeline.bands
        if bands is None:
            super()._results()
            return
        for name in self._needed([self.spec.root.result]):
            if name not in bands.own:
                self._ensure(name)
        given = self._with_rows(bands)
        p = self.printer
        start = len(p.lines)
        p.depth += 1
        super()._results()
        p.depth -= 1
        self._call_bands(bands, given, start)

    def _with_rows(self, bands: Bands) -> list[Array]:
        """What is there before the bands and has rows."""
        every = [*(one.array for one in self.spec.inputs)]
        every += [one.array for name, one in self.equations.first.items() if name in self.printed]
        found = {array.name: array for array in every if array.name in self.printed}
        return [a for a in found.values() if [x.name for x in a.axes].count(bands.row.name) == 1]

    def _call_bands(self, bands: Bands, given: list[Array], start: int) -> None:
        """The head of the function of a band, before the lines from `start` on; and its call."""
        p, row = self.printer, bands.row.name
        words = set(WORD.findall("\n".join(p.lines[start:])))
        given = [array for array in given if p.arrays[array.name] in words]
        first, length, at = p.starts[row], p.lengths[row], p.positions[row]
        run = self.names.fresh("rows_of_band")
        body = p.lines[start:]
        del p.lines[start:]
        names = [p.arrays[array.name] for array in given]
        p.line(f"def {run}({', '.join(['offset', length, *names])}):")
        p.depth += 1
        if {first, at} & words:
            p.line(f"{first} = offset")
        if at in words:
            like = p.arrays["#like"]
            p.line(f"{at} = {first} + torch.arange({length}, device={like}.device)")
        p.lines += body
        p.depth -= 1
        root = self.spec.root
        emits = {one.array.name: one.array for one in (*root.emits, *root.offered)}
        outputs = {"out": root.result.array, **emits}
        rows = {n: a for n, a in outputs.items() if row in [axis.name for axis in a.axes]}
        places = {n: _place(a, row) for n, a in rows.items() if n not in bands.apart}
        forward = self._bytes(one for one in bands.growing if not one.trained)
        trained = self._bytes(one for one in bands.growing if one.trained)
        apart = "".join(f"{quoted(name)}, " for name in sorted(bands.apart)).rstrip()
        reals = (one.array.name for one in self.spec.inputs if one.array.kind == "real")
        made_of = "".join(f"{p.arrays[name]}, " for name in reals).rstrip()
        sliced = "".join(f"({p.arrays[a.name]}, {_place(a, row)}), " for a in given).rstrip()
        found = ", ".join(f"{quoted(name)}: {place}" for name, place in places.items())
        p.line("return in_bands(")
        p.depth += 1
        p.line(f"{run}, {first}, {length},")
        p.line(f"row_bytes=({forward}, {trained}),")
        p.line(f"whole=any(name in emit for name in ({apart})),")
        p.line(f"made_of=({made_of}),")
        p.line(f"given=({sliced}),")
        p.line(f"places={{{found}}},")
        p.depth -= 1
        p.line(")")

    def _bytes(self, growing: Iterable[Growing]) -> str:
        """Code of the bytes of one row: a product for all arrays of the same axes."""
        found: dict[tuple[str, ...], list[int]] = {}
        for one in growing:
            lengths = tuple(self.printer.lengths[axis.name] for axis in one.beside)
            item = {"bool": 1, "int": 8, "complex": 16}.get(one.kind, 0)
            found.setdefault(lengths, []).extend([item] * one.copies)
        products = []
        for lengths, items in found.items():
            reals, rest = items.count(0), sum(items)
            sizes = [f"{reals} * wide.itemsize"] if reals else []
            sizes += [str(rest)] if rest else []
            size = sizes[0] if len(sizes) == 1 else f"({' + '.join(sizes)})"
            products.append(" * ".join([size, *lengths]))
        return " + ".join(products) or "0"


def _place(array: Array, row: str) -> int:
    return [axis.name for axis in array.axes].index(row)
