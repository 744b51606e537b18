"""What folds over keys come to: results that loops carry, and row values that are stored."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from attnc.expressions.index import Index
from attnc.expressions.tree import Array, Expr, Kind, read
from attnc.passes.exponents import Scaled
from attnc.passes.hoist import Names
from attnc.passes.simplify import make


@dataclass(frozen=True)
class Part:
    """One key source's share of a reduction: its condition, and its body as mantissa and exponent
    (base 2). Both are over the pair and the reduction's width.

    domain    name of the set of keys that the fold is over: what `condition` says, and what need
              not be tested because the body vanishes there"""

    walked: Index
    condition: tuple[Expr, ...]
    body: Scaled
    domain: str


@dataclass(frozen=True)
class Reduction:
    """The result of folding over keys: over grid, held and `width`; stands as `value(name)`.

    exact    a maximum that pairs are compared with: one of their own numbers, bit for bit"""

    name: str
    monoid: str
    kind: Kind
    width: Index | None
    parts: tuple[Part, ...]
    level: int = 0
    exact: bool = False


@dataclass(frozen=True)
class Kept:
    """A number of each row, or of each key, in memory: mantissa, and exponent if it has one."""

    mantissa: Array
    exponent: Array | None

    def at(self, places: Iterable[Expr]) -> Expr:
        """A read of the number."""
        places = tuple(places)
        found = read(self.mantissa, places)
        if self.exponent is None:
            return found
        return make("mul", found, make("exp2", read(self.exponent, places)))


def arrays_of(
    base: str, over: tuple[Index, ...], nesting: int | None, names: Names
) -> tuple[Array, Array | None]:
    """Arrays for a mantissa and an exponent. `nesting`: that of the exponent, None without one."""
    name = names.fresh(base)
    mantissa = Array(name, over, "real", "workspace")
    if nesting is None:
        return mantissa, None
    exponent = Array(names.fresh(f"{name}_exponent"), over, "real", "workspace")
    names.exponents[exponent.name] = nesting
    return mantissa, exponent


@dataclass(frozen=True)
class Pending(Kept):
    """A row value that later passes read from memory."""

    expr: Expr
    level: int
