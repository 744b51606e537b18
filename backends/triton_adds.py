"""Prints what a tile of pairs adds: to carried values, to walked rows, to tables, to memory.

What is masked adds the identity of its monoid; where a term vanishes by itself at masked pairs, no
test is made.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from attnc.backends.triton_frame import INITIAL, indented
from attnc.backends.triton_operands import Operands
from attnc.backends.triton_pairs import Pairs
from attnc.backends.triton_printer import Printer
from attnc.backends.triton_region import float_text
from attnc.backends.triton_scatter import print_scatter
from attnc.backends.triton_texts import unwrapped
from attnc.backends.triton_vectors import print_vectors

from attnc.errors import UnsupportedError
from attnc.expressions.tree import Expr, position
from attnc.schedule.statements import Carried, Contribution, PairStore, Scatter, is_pairwise


@dataclass
class Additions(Pairs):
    """Prints additions into `combine`.

    held      what is loaded once, before the walk
    hidden    pairs may be masked in whole tiles too
    rescaled  the carried values that the step has brought to the new reference
    """

    held: list[str]
    combine: list[str]
    hidden: bool
    rescaled: set[str] = field(default_factory=set)

    def print_all(self, operands: Operands) -> None:
        """Everything that the pairs of the loop add."""
        for contribution in self.loop.contributions:
            self.contribute(contribution, operands)
        for carried in self.stream.kernel.carried:
            self.rescale_untouched(carried)
        for one in self.loop.deposits:
            at = position(self.loop.walked)
            self.scatter(Scatter(one.array, at, one.term, one.width, one.operand), operands)
        for scatter in self.loop.scatters:
            self.scatter(scatter, operands)
        for store in self.loop.pair_stores:
            self.store_pairs(store)

    def contribute(self, contribution: Contribution, operands: Operands) -> None:
        """What a tile of pairs adds to a carried value."""
        kernel, lines = self.stream.kernel, self.combine
        carried = next(c for c in kernel.carried if c.name == contribution.carried)
        term = self.full(contribution.term, lines, carried.name)
        if not self.vanishes(contribution.term):
            term = self.masked(term, carried.name, INITIAL[carried.monoid])
        if carried.width is None:
            self.reduce_rows(carried, term)
            return
        if carried.monoid != "sum" or contribution.operand is None:
            raise UnsupportedError(f"a `{carried.monoid}` of tiles", "triton", ("eager", "numpy"))
        name = self.stream.scope.values[carried.name].text
        if is_pairwise(contribution.operand, self.loop.walked, kernel.held):
            self.add_vectors(contribution.operand, carried, term, operands.count)
            return
        tile = operands.carried_tile(contribution.operand, carried.width, lines)
        before = f"{name} * rescale[:, None]" if self.rescales(carried) else name
        dot = f"{term}.to(QUERY), {tile}, {before}"
        lines.append(f"{name} = tl.dot({dot}, input_precision=PRECISION, out_dtype=ACC)")

    def add_vectors(self, vector: Expr, carried: Carried, term: str, count: str) -> None:
        """Adds the term times a vector of the pair."""
        assert carried.width is not None
        stream, name = self.stream, self.stream.scope.values[carried.name].text
        if self.rescales(carried):
            self.combine.append(f"{name} = {name} * rescale[:, None]")
        self.combine += print_vectors(
            stream, self.loop, vector, carried.width, term, name, count, self.hidden
        )

    def reduce_rows(self, carried: Carried, term: str) -> None:
        """Adds to a row statistic."""
        if carried.monoid == "prod":
            raise UnsupportedError("a product over keys", "triton", ("eager", "numpy"))
        name = self.stream.scope.values[carried.name].text
        total = f"tl.{carried.monoid}({unwrapped(term)}, 1)"
        joined = f"{name} * rescale + {total}" if self.rescales(carried) else f"{name} + {total}"
        if carried.monoid != "sum":
            joined = f"gpu_{'larger' if carried.monoid == 'max' else 'smaller'}({name}, {total})"
        self.combine.append(f"{name} = {joined}")

    def rescales(self, carried: Carried) -> bool:
        """Whether this use is the one of the step that brings a carried value to the new
        reference: the first."""
        first = carried.name not in self.rescaled
        self.rescaled.add(carried.name)
        return first and carried.rescaled and self.loop.exponent is not None

    def rescale_untouched(self, carried: Carried) -> None:
        """Brings to the new reference what no pair of this walk adds to."""
        if self.rescales(carried):
            name = self.stream.scope.values[carried.name].text
            factor = "rescale[:, None]" if carried.width is not None else "rescale"
            self.combine.append(f"{name} = {name} * {factor}")

    def scatter(self, scatter: Scatter, operands: Operands) -> None:
        """What a tile of pairs adds to a table: 0 at masked pairs and in rows that do not count."""
        stream = self.stream
        term = self.masked(self.full(scatter.term, self.combine, "added"), "added", "0.0")
        counted = f"{stream.scope.inside[stream.kernel.held].text}[:, None]"
        self.combine.append(f"{term} = tl.where({counted}, {term}, 0.0)")
        print_scatter(stream, self.loop, scatter, term, operands, self.held, self.combine)

    def store_pairs(self, store: PairStore) -> None:
        """One number for each pair of the tile, and what stands where it is masked."""
        stream = self.stream
        pointer, body = stream.arguments.pointer(store.array), list[str]()
        bottom = float_text(repr(store.otherwise)) if store.otherwise else "0.0"
        term = self.masked(self.full(store.term, self.combine, "pair"), "pair", bottom)
        printer = Printer(stream.scope, self.over, body, store.array.name)
        entry, guards = printer.address(store.array, tuple(map(position, store.array.indices)))
        mask = " & ".join(dict.fromkeys([*guards, "(block == 0)"]))
        body.append(f"tl.store({entry}, {term}, mask={mask})")
        self.combine += [f"if {pointer} is not None:", *indented(body)]

    def masked(self, term: str, stem: str, identity: str) -> str:
        """The term, the identity of the monoid where a pair is masked."""
        name = self.bound(term, f"{stem}_term", self.combine)
        line = f"{name} = tl.where(seen, {name}, {identity})"
        self.combine += [line] if self.hidden else ["if EDGE:", f"    {line}"]
        return name

    def vanishes(self, term: Expr) -> bool:
        """Whether a term is 0 by itself where the exponent is -inf: exp2(exponent - reference)."""
        lets = {statement.name: statement.expr for statement in self.loop.lifted}
        while term.op == "value" and str(term.attr) in lets:
            term = lets[str(term.attr)]
        if term.op != "exp2" or term.args[0].op != "sub" or self.loop.exponent is None:
            return False
        left, right = term.args[0].args
        return left == self.loop.exponent and right.op == "value" and right.attr == "reference"
