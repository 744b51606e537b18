"""tangent: forward mode against the eager form's derivatives, by duality and directly."""

from __future__ import annotations

from dataclasses import replace

import catalogue_calls
import numpy as np
import pytest
import torch
from eager_loader import to_torch
from gallery_cases import spec_paths
from gradient_problems import Problem, gallery, language, text
from graph_values import values_of
from test_differentiate import FUNCTIONS, LANGUAGE, RECURRENT, along, small, values

from attnc.errors import UnsupportedError
from attnc.expressions.tree import postorder
from attnc.passes import tangent as tangents_module
from attnc.passes.differentiate import cotangents, differentiate, inputs_of
from attnc.passes.tangent import tangent, tangents
from attnc.verify import verify_graph

GALLERY = ("alibi", "cosine", "gated_softmax", "learned_sinks", "relative_bias", "concat_kv")


def check(problem: Problem) -> dict[str, np.ndarray]:
    """<cotangent, J direction> = <J^T cotangent, direction>, at a random pair; and the values."""
    graph = tangent(problem.graph)
    verify_graph(graph)
    cotangent, directions = problem.cotangents(), problem.directions()
    found = problem.values(graph, problem.along(directions))
    names = cotangents(problem.graph)
    left = sum((cotangent[array.name] * found[f"{n}_dot"]).sum() for n, array in names.items())
    pulled = problem.gradients(cotangent)
    terms = [(pulled[n] * directions[n]).sum() for n in problem.reals]
    assert abs(left - sum(terms)) <= 1e-10 * max(map(abs, (*terms, 1e-3)))
    return found


@pytest.mark.parametrize("name", LANGUAGE)
def test_tangents_of_the_language(name: str) -> None:
    check(language(name))


@pytest.mark.parametrize("name", GALLERY)
def test_tangents_of_the_gallery(name: str) -> None:
    check(next(gallery(next(path for path in spec_paths() if path.stem == name))))


def test_outputs_and_their_tangents_in_order() -> None:
    problem = language("causal_softmax")
    graph = tangent(problem.graph)
    assert [output.array.name for output in graph.outputs] == ["out", "lse", "out_dot", "lse_dot"]
    assert {array.name for array in inputs_of(graph)} == {"k", "k_dot", "q", "q_dot", "v", "v_dot"}
    directions = problem.directions()
    found = problem.values(graph, problem.along(directions))

    def run(*point: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(problem.outputs(dict(zip(problem.reals, point, strict=True))).values())

    point = to_torch(problem.tensors)
    value, change = torch.func.jvp(
        run, tuple(point[n] for n in problem.reals), tuple(to_torch(directions).values())
    )
    for name, wanted in zip(("out", "lse", "out_dot", "lse_dot"), (*value, *change), strict=True):
        assert np.abs(found[name] - wanted.numpy()).max() < 1e-13


def test_softmax_walks_the_keys_once() -> None:
    """The tangent's own fold over keys, beside the forward's two and that of the row sum."""
    graph = tangent(replace(language("causal_softmax"), emits=()).graph)
    moved = graph.outputs[1].expr
    walks = [n for n in postorder(moved) if n.op == "fold" and n.bound[0].axis.name == "j"]
    assert moved.op == "fold" and len(walks) == 3  # the row sum, its tangent, and this


def test_every_function() -> None:
    rng = np.random.default_rng(3)
    v, w = rng.uniform(0.2, 0.9, size=(2, 1, 2, 4, 3))
    for source in FUNCTIONS:
        check(along(source, v, w=w))
    for source in ("prod(i: v[i])", "max(i: v[i]) * v[i]", "max(v[i], 0)"):
        check(along(source, values(0.0, 2.0, 2.0)))


def test_empty_rows_do_not_move() -> None:
    problem = Problem(
        text(
            """
            attention f(q, k, v):
                mask: j <= i
                score: dot(q[i], k[j]) * scale
                normalize: softmax(j: score)
            """
        ),
        small(np.random.default_rng(4)),
        {},
        {"offset": -2},
    )
    found = check(problem)
    assert (found["out_dot"][:, :, :2] == 0).all() and np.isfinite(found["out_dot"]).all()
    graph = tangent(replace(problem, emits=("lse",)).graph)
    found = replace(problem, emits=("lse",)).values(graph, problem.along(problem.directions()))
    assert (found["lse"][:, :, :2] == -np.inf).all() and (found["lse_dot"][:, :, :2] == 0).all()


@pytest.mark.parametrize("name", ["causal_softmax", "rope", "softplus_reweighted"])
def test_forward_over_reverse(name: str) -> None:
    """The Hessian is symmetric: <u, H w> = <w, H u>, for the sum of outputs by cotangents."""
    problem = language(name)
    first = differentiate(problem.graph)
    graph = tangent(first)
    verify_graph(graph)
    given, named = problem.cotangents(), tangents(first)

    def product(directions: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        still = {a.name: np.zeros_like(given[n]) for n, a in named.items() if n in given}
        moves = {named[n].name: d for n, d in directions.items()}
        tensors = {**problem.tensors, **given, **still, **moves}
        found = values_of(problem.spec, graph, tensors, problem.numbers, **problem.keywords)
        return {n: found[f"{n}_grad_dot"] for n in problem.reals}

    u, w = problem.directions(1), problem.directions(2)
    there, back = product(w), product(u)
    left = sum((u[n] * there[n]).sum() for n in problem.reals)
    right = sum((w[n] * back[n]).sum() for n in problem.reals)
    assert abs(left) > 1e-3 and abs(left - right) < 1e-10 * abs(left)


@pytest.mark.parametrize("name", RECURRENT)
def test_states_carry_their_tangents(name: str) -> None:
    """What has states moves with them; blocks with states, repeats and complex numbers do not."""
    graph = language(name).graph
    if name in ("ahn", "diag_ssm", "hyena", "sinkhorn", "ss2d"):
        with pytest.raises(UnsupportedError, match="its derivative"):
            tangent(graph)
        return
    moved = tangent(graph)
    verify_graph(moved)
    (before,), (after,) = graph.recurrences, moved.recurrences
    real = sum(state.kind == "real" for state in before.states)
    assert len(after.states) == len(before.states) + real


def test_a_pole_without_its_guard_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tangents_module, "POLES", frozenset())
    with pytest.raises(AssertionError):
        test_empty_rows_do_not_move()


def test_all_of_the_language_is_here() -> None:
    assert set(catalogue_calls.CALLS) == {*LANGUAGE, *RECURRENT}
