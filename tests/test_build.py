"""build: a Spec's equations in closed form, as they are, with names that depend on the formula."""

from __future__ import annotations

import dataclasses

import pytest
from spec_builder import Operator, X, causal, lift, op

from attnc.build import build
from attnc.errors import InternalError
from attnc.expressions import tree
from attnc.expressions.canonical import canonical
from attnc.expressions.index import Axis, Index
from attnc.expressions.tree import Array, postorder
from attnc.graph import NodeKind, node_kind
from attnc.graph_text import graph_text
from attnc.spec import Definition
from attnc.verify import verify_graph


def test_outputs_are_the_result_and_the_emits_asked_for() -> None:
    spec = causal()
    assert [o.array.name for o in build(spec).outputs] == ["causal"]
    graph = build(spec, ("lse",))
    assert [str(i) for i in graph.outputs[0].array.indices] == ["b", "h", "i", "e"]
    assert [str(i) for i in graph.outputs[1].array.indices] == ["b", "h", "i"]
    assert [str(i) for i in graph.rows] == ["i"]
    verify_graph(graph)
    with pytest.raises(InternalError, match="no emit"):
        build(spec, ("nothing",))


def test_equations_are_put_in() -> None:
    roles = {n.array.role for n in postorder(*build(causal()).roots) if n.op == "read"}
    assert roles == {"input"}


def test_equal_folds_have_equal_digests() -> None:
    """The normalizer's sum over l and the emit's sum over j are one node."""
    graph = build(causal(), ("lse",))
    folds = [n for n in postorder(graph.outputs[1].expr) if n.op == "fold" and "j" in str(n.attr)]
    inside = {n.digest for n in postorder(graph.outputs[0].expr)}
    assert folds and all(fold.digest in inside for fold in folds)


def test_bound_indices_are_named_by_height() -> None:
    j = Axis("j")
    i, a, b = Index("i", Axis("i")), Index("x", j, 7), Index("y", j, 9)

    def nested(outer: Index, inner: Index) -> tree.Expr:
        near = op("lt", inner, outer)
        counted = tree.fold("sum", (inner,), tree.number(1.0), lift(near))
        return tree.fold("max", (outer,), lift(X(counted) + op("to_real", i)))

    first, second = canonical(nested(a, b)), canonical(nested(b, a))
    assert first == second
    assert first.bound == (Index("j", j, 2),)


def test_no_capture_where_a_definition_is_read_at_its_own_index() -> None:
    """mean(j: x[j] - mean(j: x[j])) reads one text twice."""
    o = Operator()
    x = o.input("x", o.j)
    j = o.index(o.j)
    mean = o.define("mean", (), o.sum(j, o.at(x, j)))
    k = o.index(o.j)
    outer = o.sum(k, o.at(x, k) - X(tree.read(mean, ())))
    i, e = o.index(o.i), o.index(o.e)
    graph = build(o.spec("f", outer * op("to_real", i), (i,), (e,), ()))
    verify_graph(graph)
    assert len({n.bound for n in postorder(graph.outputs[0].expr) if n.op == "fold"}) == 2


def test_else_becomes_a_condition_on_places() -> None:
    o = Operator()
    i, e = o.index(o.i), o.index(o.e)
    shifted = tree.call("default", lift(o.at(o.q, op("sub", i, 1), o.index(o.d))), tree.number(0.0))
    graph = build(o.spec("f", X(shifted), (i,), (e,), ()))
    nodes = list(postorder(graph.outputs[0].expr))
    assert not any(n.op == "default" for n in nodes)
    (choice,) = [n for n in nodes if n.op == "where"]
    assert {n.op for n in postorder(choice.args[0])} >= {"lt", "ge", "or", "start", "length"}


def test_else_asks_about_reads_under_a_fold() -> None:
    o = Operator()
    i, d, u = o.index(o.i), o.index(o.d), o.index(Axis("u"))
    taps = o.sum(u, o.at(o.q, op("add", i, u), d))
    shifted = tree.call("default", lift(taps), tree.number(0.0))
    graph = build(o.spec("f", X(shifted), (i,), (d,), ()))
    verify_graph(graph)
    (choice,) = [
        n for n in postorder(graph.outputs[0].expr) if n.op == "where" and n.kind == "real"
    ]
    assert choice.args[0].op == "gt" and choice.args[0].args[0].op == "fold"


def test_a_score_of_minus_infinity_counts_as_masked() -> None:
    graph = build(causal())
    tests = [n for n in postorder(graph.outputs[0].expr) if n.op == "ne"]
    assert tests, "every fold over visible keys asks for the score"


def test_long_sums_and_deep_definitions() -> None:
    """Thousands of terms, a thousand equations deep: no recursion."""
    o = Operator()
    i, e = o.index(o.i), o.index(o.e)
    expr = tree.call("add", *(tree.number(float(n)) for n in range(5000)))
    array = o.define("a0", (i,), X(expr))
    for n in range(1, 1000):
        array = o.define(f"a{n}", (i,), X(tree.read(array, (tree.position(i),))) + 1.0)
    graph = build(o.spec("f", X(tree.read(array, (tree.position(i),))), (i,), (e,), ()))
    assert sum(n.op == "add" for n in postorder(graph.outputs[0].expr)) > 5000


def test_chains_take_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """An equation that reads another in the same row takes what that one stands for as it is."""
    made = 0
    digest = tree._digest

    def counted(expr: tree.Expr) -> bytes:
        nonlocal made
        made += 1
        return digest(expr)

    monkeypatch.setattr(tree, "_digest", counted)
    counts = []
    for length in (100, 400):
        o = Operator()
        i, e = o.index(o.i), o.index(o.e)
        array = o.define("a0", (i,), X(tree.number(1.0)))
        for n in range(1, length):
            row = o.index(o.i)
            below = X(tree.read(array, (tree.position(row),)))
            array = o.define(f"a{n}", (row,), below * 0.5 + 1.0)
        spec = o.spec("f", X(tree.read(array, (tree.position(i),))), (i,), (e,), ())
        made = 0
        build(spec)
        counts.append(made)
    assert counts[1] < 6 * counts[0]


def test_kinds_of_nodes() -> None:
    graph = build(causal())
    kinds = {node_kind(node) for node in postorder(graph.outputs[0].expr)}
    assert {NodeKind.LOAD, NodeKind.MAP, NodeKind.REDUCE, NodeKind.CONSTANT} <= kinds


def test_a_written_emit() -> None:
    spec = causal()
    row = spec.root.result.array.indices[:3]
    emit = Definition(Array("twice", row, "real", "output"), lift(op("to_real", row[2]) * 2.0))
    spec = dataclasses.replace(spec, root=dataclasses.replace(spec.root, emits=(emit,)))
    assert [o.array.name for o in build(spec, ("twice",)).outputs] == ["causal", "twice"]


def test_a_formula_is_printed_once() -> None:
    """Scores that differ in the number of their key are one line of the printed graph."""
    lines = graph_text(build(causal())).splitlines()
    assert sum("q[" in line for line in lines) == 1
