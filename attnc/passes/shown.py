"""Tests that a fold's own conditions decide.

    sum(i: exp(where(c, s, -inf)) x)   ->  sum(i if c: exp(s) x)     a masked pair's score in a sum
    sum(j if c: f(where(c, s, -inf)))  ->  sum(j if c: f(s))         what is known is not asked

A score that a mask hides is -inf wherever it is written, so a normalizer over rows, or one beside
another, asks again for every pair what its sums are over. Left there, its powers could not be
taken relative to a row's or a key's largest, and derivatives would multiply such powers.

does      makes tests within powers conditions of their sums; drops what a condition repeats
needs     a simplified Graph
does not  know of other folds' conditions
"""

from __future__ import annotations

import math
from dataclasses import replace

from attnc.expressions.canonical import canonical
from attnc.expressions.tree import TRUE, Expr, is_number, rewrite
from attnc.graph import Graph, conjuncts
from attnc.passes.factors import factors_of
from attnc.passes.simplify import make, simplify_node


def conditions_shown(graph: Graph) -> Graph:
    """The graph whose folds ask once for what they are over."""
    return graph.mapped(lambda expr: canonical(rewrite(expr, _shown)))


def _shown(node: Expr) -> Expr:
    if node.op != "fold":
        return simplify_node(node)
    condition, body = node.args
    if node.monoid == "sum" and node.kind == "real":
        tests, body = powers_shown(body)
        for test in tests:
            if test not in conjuncts(condition):
                condition = make("and", condition, test)
    known = frozenset(conjuncts(condition))
    return simplify_node(node.with_args((condition, _decided(body, known) if known else body)))


def _decided(body: Expr, known: frozenset[Expr]) -> Expr:
    """The body whose choices do not ask for what is known. (Conditions of folds within stay: they
    are regions of their own.)"""

    def change(node: Expr) -> Expr:
        if node.op != "where" or known.isdisjoint(conjuncts(node.args[0])):
            return simplify_node(node)
        asked = TRUE
        for test in conjuncts(node.args[0]):
            if test not in known:
                asked = test if asked == TRUE else make("and", asked, test)
        return simplify_node(node.with_args((asked, *node.args[1:])))

    return rewrite(body, change)


def powers_shown(body: Expr) -> tuple[list[Expr], Expr]:
    """exp(where(c, s, -inf)) * x as the tests of c and x exp(s)."""
    factors = factors_of(body)
    tests: list[Expr] = []
    above: list[Expr] = []
    for factor in factors.above:
        inner = factor.args[0] if factor.op == "exp" else factor
        if inner is factor or inner.op != "where" or not is_number(inner.args[2], -math.inf):
            above.append(factor)
            continue
        tests += conjuncts(inner.args[0])
        above.append(make("exp", inner.args[1]))
    return (tests, replace(factors, above=tuple(above)).expr) if tests else ([], body)
