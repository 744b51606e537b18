"""What kernels cannot run, in the words of the feature list."""

from __future__ import annotations

from collections.abc import Iterable

from attnc.errors import UnsupportedError
from attnc.expressions.tree import Expr

ELSEWHERE = ("eager", "numpy")


def refuse(feature: str) -> UnsupportedError:
    """What kernels cannot run yet, in the words of the feature list."""
    return UnsupportedError(feature, "kernel", ELSEWHERE)


def check_supported(nodes: Iterable[Expr]) -> None:
    """Raises UnsupportedError for operations that no loop over keys has."""
    for node in nodes:
        if node.op in ("topk", "rank", "argmax", "argmin"):
            raise refuse("bucketing" if node.op == "rank" else "token_topk")
        if node.op == "solve":
            raise refuse("simplex_projection: a solve that is not of a row")
        if node.op == "grad" or node.kind == "complex":
            raise refuse("gradient_state" if node.op == "grad" else "lti_ssm: complex numbers")
