"""The values of a Graph, by the oracle and by the eager form: a Spec is put around its formulas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from attnc.backends.numpy_oracle import evaluate
from eager_loader import load

from attnc.expressions.tree import Expr, call, number, rewrite
from attnc.graph import Graph
from attnc.passes.differentiate import inputs_of
from attnc.spec import Definition, Input, Spec


def written(expr: Expr) -> Expr:
    """The expression in operations that a text may have: the passes' own are spelt out."""

    def change(node: Expr) -> Expr:
        spelling = SPELLINGS.get(node.op)
        return spelling(*node.args) if spelling else node

    return rewrite(expr, change)


ONE, TWO = number(1.0), number(2.0)
SPELLINGS: dict[str, Callable[[Expr], Expr]] = {
    "softplus": lambda x: call("log", call("add", ONE, call("exp", x))),
    "sigmoid": lambda x: call("div", ONE, call("add", ONE, call("exp", call("neg", x)))),
    "exp2": lambda x: call("pow", TWO, x),
    "log2": lambda x: call("div", call("log", x), call("log", TWO)),
    "log1p": lambda x: call("log", call("add", ONE, x)),
}


def spec_of(spec: Spec, graph: Graph) -> Spec:
    """A Spec whose result and emits are the graph's outputs, without clauses, states or checks.
    `spec` is what the graph was derived from: its axes, numbers and inputs stay."""
    known = {given.name for given in spec.inputs}
    more = tuple(
        Input(array, False, None, spec.root.result.span)
        for array in inputs_of(graph)
        if array.name not in known
    )
    first, *rest = (Definition(output.array, written(output.expr)) for output in graph.outputs)
    root = replace(
        spec.root,
        sources=(),
        statements=(),
        states=(),
        updates=(),
        result=first,
        emits=tuple(rest),
        offered=(),
    )
    return replace(spec, inputs=(*spec.inputs, *more), root=root, checks=(), definitions={})


def values_of(
    spec: Spec,
    graph: Graph,
    tensors: Mapping[str, np.ndarray],
    numbers: Mapping[str, Any],
    **keywords: Any,
) -> dict[str, np.ndarray]:
    """Each output of the graph by name, dense float64."""
    names = [output.array.name for output in graph.outputs]
    whole = spec_of(spec, graph)
    found = evaluate(whole, tensors, numbers, emit=names[1:], **keywords)
    return {name: found["out" if n == 0 else name] for n, name in enumerate(names)}


def eager_of(spec: Spec, graph: Graph) -> Callable[..., dict[str, torch.Tensor]]:
    """The graph as a torch function of its inputs by name."""
    names = [output.array.name for output in graph.outputs]
    run = load(spec_of(spec, graph))

    def call(**given: Any) -> dict[str, torch.Tensor]:
        found = run(**given, emit=names[1:])
        return {name: found["out" if n == 0 else name] for n, name in enumerate(names)}

    return call
