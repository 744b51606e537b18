"""How a node changes with its operands: what the table of local derivatives consists of.

An `Edge` is a linear map: the change of a node is, over its edges, the sum over `bound` where
`conditions` hold of `factor` times the change of `child`. Where the guards do not hold the child is
not asked for, and nothing may be multiplied: its slope may be infinite there.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnc.errors import UnsupportedError
from attnc.expressions.index import Index
from attnc.expressions.tree import Expr
from attnc.passes.coarse import Pin
from attnc.passes.factors import Factors
from attnc.passes.refusals import ELSEWHERE


@dataclass(frozen=True, slots=True)
class Edge:
    """One operand of a node, and how the node changes with it.

    child       an operand, with the node's bound indices open in it
    factor      the slope, over the node's free indices and `bound`
    guards      truths that must hold for the child to be asked for
    bound       what a fold sums over, and `conditions` where
    folded      for a child without the bound indices: the sum of `factor` over them, as the forward
                already has it; right if no key at all makes no difference, or where one is seen
    seen        a truth to hold `folded` to, None if it is right without a key
    pin         the coarse index that the child is over instead of a place, if it is
    """

    child: Expr
    factor: Factors
    guards: tuple[Expr, ...] = ()
    bound: tuple[Index, ...] = ()
    conditions: tuple[Expr, ...] = ()
    folded: Factors | None = None
    seen: Expr | None = None
    pin: Pin | None = None


Edges = tuple[Edge, ...]


def refuse(feature: str) -> UnsupportedError:
    """What has no derivative pass yet, in the words of the feature list."""
    return UnsupportedError(f"{feature}: its derivative", "kernel", ELSEWHERE)
