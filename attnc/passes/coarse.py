"""What depends on a query head through its key head alone.

    does      finds parts of a Graph that depend on a fine index (h) only at places of a coarse axis
              (hk, at h // group), and says them over the coarse index
    needs     such places as the Spec writes them: one expression for each coarse axis
    does not  sum: whoever uses the part sums over the fine indices whose place is the coarse one

So a key's norm or rotation is differentiated once a key head, after its query heads are summed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from attnc.expressions.index import Index
from attnc.expressions.tree import Expr, position, postorder
from attnc.passes.contexts import unbound
from attnc.passes.separate import exchange


@dataclass(frozen=True, slots=True)
class Pin:
    """`index` stands for `place`."""

    index: Index
    place: Expr


@dataclass
class Coarse:
    """Fine and coarse indices of a graph's expressions."""

    loose: dict[bytes, frozenset[Index]] = field(default_factory=dict)

    def over(self, part: Expr, taken: frozenset[Index]) -> tuple[Expr, Pin] | None:
        """The part over a coarse index that is not among `taken`, and which; None if it depends on
        the fine one otherwise."""
        fine = part.free - self._loose(part)
        if len(fine) != 1:
            return None
        (index,) = fine
        places = {place for place in _places(part) if index in place.free}
        if len(places) != 1:
            return None
        (place,) = places
        axis = next(
            axis
            for node in postorder(part)
            if node.op == "read"
            for at, axis in zip(node.args, node.array.axes, strict=True)
            if at == place
        )
        coarse = unbound(Index(axis.name, axis), part.free)
        if coarse in taken:
            return None
        found = exchange(part, {place.digest: position(coarse)})
        return None if index in found.free else (found, Pin(coarse, place))

    def _loose(self, part: Expr) -> frozenset[Index]:
        """The free indices that stand elsewhere than at places of coarse axes."""
        for node in postorder(part, done=self.loose):
            if node.op == "index":
                self.loose[node.digest] = node.free
                continue
            args = node.args
            if node.op == "read":
                pairs = zip(args, node.array.axes, strict=True)
                args = tuple(at for at, axis in pairs if not _is_place(at, axis.form))
            below = frozenset().union(*(self.loose[arg.digest] for arg in args))
            self.loose[node.digest] = below & node.free
        return self.loose[part.digest]


def _is_place(at: Expr, form: str) -> bool:
    return form == "coarse" and at.op != "index"


def _places(part: Expr) -> list[Expr]:
    return [
        at
        for node in postorder(part)
        if node.op == "read"
        for at, axis in zip(node.args, node.array.axes, strict=True)
        if _is_place(at, axis.form)
    ]
