"""Values of a key that fold over the rows: loops with the roles swapped, before those of the rows.

    exp(s_ij) / sum_i exp(s_ij)       softmax over the queries: one number for each key
    a_ij / sum_j a_ij, of such a_ij   and over the keys of that: one more pass

The greatest subexpressions that depend on nothing but the grid and one key, and fold over rows, are
finished by loops that hold keys and walk rows; what is held and walked in them is one Frame, and
all else is as for rows. Such a loop may need values of rows first, as the loop of rows needs those
of keys: each is stored once, in the order of need. One that may be any power of two is stored as
mantissa and exponent.

does      replaces values of keys by reads, and says what must be stored for them
needs     one source of keys, on an axis of its own
does not  know what a row or a key is, beyond the Frame
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from attnc.expressions.canonical import canonical
from attnc.expressions.index import Index
from attnc.expressions.tree import Expr, position, postorder, substitute
from attnc.passes.exponents import scaled
from attnc.passes.fold_results import Kept, arrays_of
from attnc.passes.frame import Frame
from attnc.passes.nesting import nesting
from attnc.passes.separate import exchange
from attnc.passes.simplify import make

if TYPE_CHECKING:
    from attnc.passes.reductions import Reductions


@dataclass(frozen=True)
class Column(Kept):
    """A value of a key that loops of rows read from memory: its formula in terms of the folds of a
    frame that holds keys."""

    part: Reductions
    formula: Expr

    def reads(self) -> list[str]:
        """The names of the arrays that its loops read."""
        exprs = [self.formula, *(one.expr for one in self.part.pending.values())]
        for entry in self.part.entries.values():
            for part in entry.parts:
                terms = (term for term, _ in part.body.exponent.terms)
                exprs += (part.body.mantissa, *terms, *part.condition)
        return [node.array.name for node in postorder(*exprs) if node.op == "read"]


def with_columns(expr: Expr, reductions: Reductions) -> Expr:
    """The expression with values of keys as reads of what is stored for them."""
    frame = reductions.frame
    if len(frame.walked) != 1 or frame.around or not _folds_rows(expr, frame):
        return expr
    if frame.walked[0].axis is frame.held.axis:  # rows and keys have no names to tell them apart
        return expr
    known: dict[bytes, Expr] = {}
    stack, met = [expr], set[bytes]()
    while stack:
        node = stack.pop()
        if node.digest in met:
            continue
        met.add(node.digest)
        key = _key_of(node, frame)
        if key is None or _is_scaled(node, frame):
            stack.extend(node.args)
        elif _folds_rows(node, frame):
            if node.digest not in reductions.keyed:
                reductions.keyed[node.digest] = _value(node, key, reductions)
            known[node.digest] = reductions.keyed[node.digest]
    return exchange(expr, known) if known else expr


def _folds_rows(expr: Expr, frame: Frame) -> bool:
    return any(index.axis is frame.held.axis for node in postorder(expr) for index in node.bound)


def _key_of(node: Expr, frame: Frame) -> Index | None:
    """The one index beyond the grid that a number, or a count, depends on, if that is a key."""
    free = node.free - set(frame.grid)
    counted = node.kind == "int" and node.op == "fold"
    if not (node.kind == "real" or counted) or len(free) != 1:
        return None
    (index,) = free
    return index if index.axis is frame.walked[0].axis else None


def _is_scaled(node: Expr, frame: Frame) -> bool:
    """Whether it is a value of a key times what all keys have: the value alone is stored, once."""
    if node.op not in ("mul", "div", "neg"):
        return False
    return sum(not arg.free <= frozenset(frame.grid) for arg in node.args) == 1


def swapped(frame: Frame) -> Frame:
    """The same pairs, with keys held and rows walked."""
    return Frame(frame.grid, frame.walked[0], (frame.held,))


def _value(node: Expr, key: Index, reductions: Reductions) -> Expr:
    if node.kind == "int":  # carried as a real
        return make("to_int", _value(make("to_real", node), key, reductions))
    frame = swapped(reductions.frame)
    own = canonical(substitute(node, {key: position(frame.held)}))
    if own.digest not in reductions.columns:
        part = replace(reductions.apart(frame), columns=reductions.columns)
        formula = part.finish(own)  # what it needs itself comes first
        part.columns = {}
        over = (*frame.grid, frame.held)
        names = reductions.names
        depth = nesting(own, names) if scaled(formula, part.symbolic).exponent else None
        arrays = arrays_of("finished_column", over, depth, names)
        reductions.columns[own.digest] = Column(*arrays, part, formula)
    return reductions.columns[own.digest].at(map(position, (*frame.grid, key)))
