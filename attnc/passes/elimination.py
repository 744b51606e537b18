"""Systems of rows of several unknowns that see one another at earlier rows.

does      eliminates one unknown after another from the last, then finds each from the first on: a
          unit triangular system of rows a turn
needs     matrices over pairs of rows that are 0 but where the second row is the earlier one
does not  look into matrices; they stay such, for each product of two is one of them
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from attnc.expressions.tree import Expr
from attnc.passes.simplify import make


@dataclass
class System:
    """Unknown a is right[a] less the sum over b of matrix[a][b] times unknown b.

    solve     (matrix, right): X of (1 + matrix) X = right, rows
    between   (left, matrix, right): left (1 + matrix)^-1 right, pairs
    product   (pair, row): what earlier rows give
    """

    solve: Callable[[Expr, Expr], Expr]
    between: Callable[[Expr, Expr, Expr], Expr]
    product: Callable[[Expr, Expr], Expr]
    matrix: list[list[Expr]] = field(default_factory=list)
    right: list[Expr] = field(default_factory=list)

    def solved(self) -> list[Expr]:
        """The unknowns."""
        matrix, right = self.matrix, self.right
        for last in range(len(right) - 1, 0, -1):
            alone = self.solve(matrix[last][last], right[last])
            for a in range(last):
                left = matrix[a][last]
                right[a] = make("sub", right[a], self.product(left, alone))
                for b in range(last):
                    between = self.between(left, matrix[last][last], matrix[last][b])
                    matrix[a][b] = make("sub", matrix[a][b], between)
        found: list[Expr] = []
        for a in range(len(right)):
            for b, one in enumerate(found):
                right[a] = make("sub", right[a], self.product(matrix[a][b], one))
            found.append(self.solve(matrix[a][a], right[a]))
        return found
