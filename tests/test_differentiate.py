"""differentiate: every gradient against float64 autograd of the eager form, by dense evaluation of
the derived Graph; its form; what has no derivative."""

from __future__ import annotations

from dataclasses import replace
from time import process_time

import catalogue_calls
import gallery_cases
import numpy as np
import pytest
import torch
from eager_loader import to_torch
from gradient_problems import Problem, gallery, language, text, worst
from graph_values import values_of

from attnc.errors import NoDerivative, UnsupportedError
from attnc.expressions.canonical import canonical
from attnc.expressions.index import Index
from attnc.expressions.tree import Expr, call, position, postorder, rewrite, substitute
from attnc.graph import Graph, conjuncts
from attnc.passes import derivative_folds, derivative_rules
from attnc.passes.differentiate import cotangents, differentiate, inputs_of
from attnc.passes.edges import Edges
from attnc.passes.pipeline import prepare
from attnc.verify import verify_graph

# What differentiate refuses by feature; the oracles differentiate them.
RECURRENT = (
    "accumulated_eviction", "additive_feedback", "ahn", "constant_decay", "diag_ssm",
    "gated_delta", "hyena", "mamba", "rwkv7", "sinkhorn", "ss2d", "titans_linear", "titans_mlp",
)  # fmt: skip
STATES = ("linear", "decay", "delta", "ssm")  # families of the gallery
LANGUAGE = [name for name in catalogue_calls.CALLS if name not in RECURRENT]
# A pipeline is differentiated block by block, never as one Graph (tests/test_pipeline.py).
GALLERY = [
    path
    for path in gallery_cases.spec_paths()
    if path.stem not in RECURRENT
    and "\npipeline " not in path.read_text()
    and path.stem not in catalogue_calls.CALLS
    and path.parent.name not in STATES
]


def check(problem: Problem, tolerance: float = 1e-10) -> Graph:
    graph = differentiate(problem.graph)
    verify_graph(graph)
    given = problem.cotangents()
    assert worst(problem.values(graph, given), problem.gradients(given)) < tolerance
    return graph


def small(rng: np.random.Generator, rows: int = 5, keys: int = 7) -> dict[str, np.ndarray]:
    shapes = {"q": (2, 4, rows, 3), "k": (2, 2, keys, 3), "v": (2, 2, keys, 4)}
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def values(*numbers: float) -> np.ndarray:
    return np.array(numbers).reshape(1, 1, len(numbers), 1)


def along(source: str, v: np.ndarray, **more: np.ndarray) -> Problem:
    """An operator on rows alone: `read` of v[i]."""
    inputs = "".join(f", {name}" for name in more)
    spec = text(
        f"pipeline f(v) for i:\n    input v{inputs}: real[b, h, i, e]\n    read: {source}\n"
    )
    return Problem(spec, {"v": v, **more}, {})


@pytest.mark.parametrize("name", LANGUAGE)
def test_gradients_of_the_language(name: str) -> None:
    check(language(name))


@pytest.mark.parametrize("path", GALLERY, ids=lambda path: path.stem)
def test_gradients_of_the_gallery(path) -> None:
    problem = next(gallery(path))
    if stateful(problem.graph):
        with pytest.raises(UnsupportedError, match="its derivative"):
            differentiate(problem.graph)
    else:
        check(problem)


def stateful(graph: Graph) -> bool:
    """Whether the graph has states or repeats, its own or those of a block within."""
    reads = (node.array.role for node in postorder(*graph.roots) if node.op == "read")
    return bool(graph.recurrences or graph.iterations) or not {"state", "definition"}.isdisjoint(
        reads
    )


# --- the form, which kernels depend on -----------------------------------------------------------


def expression(graph: Graph, name: str) -> Expr:
    return next(output.expr for output in graph.outputs if output.array.name == name)


def folds(expr: Expr, *axes: str) -> list[Expr]:
    """The folds over all of the axes, the outermost included."""
    found = [node for node in postorder(expr) if node.op == "fold"]
    return [f for f in found if set(axes) <= {index.axis.name for index in f.bound}]


def named(node: Expr) -> list[str]:
    return [index.axis.name for index in node.bound]


def test_softmax_is_one_fold_a_gradient() -> None:
    """dQ is one fold over keys, dK and dV one over heads and rows each, with the heads of a key
    head as a condition; the only other folds over keys are the forward's own."""
    problem = language("causal_softmax")
    problem = replace(problem, emits=())
    graph, forward = differentiate(problem.graph), problem.graph.outputs[0]
    row_sum, _ = folds(forward.expr, "j")
    query = expression(graph, "q_grad")
    assert query.op == "fold" and named(query) == ["j"]
    inner = folds(query.args[1], "j")
    assert row_sum in inner and len(inner) == 2, "the row sum and the output"
    for name in ("k_grad", "v_grad"):
        whole = expression(graph, name)
        assert whole.op == "fold" and named(whole) == ["h", "i"]
        assert any(c.op == "eq" for c in conjuncts(whole.args[0])), "h // group == hk"
        assert not folds(whole.args[1], "i")


def out_index(expr: Expr, name: str) -> Index:
    return next(index for index in expr.free if index.axis.name == name)


def test_the_forwards_output_stands_in_the_query_gradient() -> None:
    """<g, out> with `out` as the forward has it, so that the saved output can take its place."""
    problem = replace(language("causal_softmax"), emits=())
    forward = problem.graph.outputs[0].expr
    query = expression(differentiate(problem.graph), "q_grad")
    (delta,) = [
        f
        for f in folds(query, "e")
        if any(n.op == "fold" and "j" in named(n) for n in f.args[1].args)
    ]
    twin = next(arg for arg in delta.args[1].args if arg.op == "fold")
    e = out_index(forward, "e")
    moved = substitute(forward, {e: position(delta.bound[0])})
    assert canonical(moved) == canonical(twin)


def test_sources_under_one_normalizer_share_their_row_value() -> None:
    graph = differentiate(replace(language("memory_slots"), emits=()).graph)
    query = expression(graph, "q_grad")
    rows = {
        f.digest
        for f in folds(query, "e")
        if len([n for n in postorder(f.args[1]) if n.op == "fold" and n.free & set(f.bound)]) > 1
    }
    assert len(rows) == 1


def test_equal_sums_are_one_node() -> None:
    """k read twice, in the score and as the value: one fold over heads and rows."""
    spec = text(
        """
        attention tied(q, k):
            input q: real[b, h, i, d], k: real[b, hk, j, d]
            score: dot(q[i], k[j]) * scale
            normalize: softmax(j: score)
            read: sum(j: weight * k[j])
        """
    )
    given = small(np.random.default_rng(1))
    problem = Problem(spec, {"q": given["q"], "k": given["k"]}, {})
    graph = check(problem)
    whole = expression(graph, "k_grad")
    assert whole.op == "fold" and named(whole) == ["h", "i"]


# --- points that need care -----------------------------------------------------------------------


def test_ties_follow_pytorch() -> None:
    v = values(-1.0, 0.0, 0.0, 2.0, 2.0)
    for source in (
        "max(v[i], 0)", "max(0, v[i])", "min(v[i], 0)", "max(v[i], 2)", "min(v[i], 2.0)",
        "abs(v[i])", "max(i: v[i]) * v[i]", "min(i: v[i] ** 2)", "clamp(v[i], 0, 2)",
    ):  # fmt: skip
        check(along(source, v))
    (gradient,) = differentiated(along("max(i: v[i])", v)).values()
    assert gradient.ravel().tolist() == [0, 0, 0, 2.5, 2.5]  # five rows, shared by two
    (gradient,) = differentiated(along("max(v[i], 0)", v)).values()
    assert gradient.ravel().tolist() == [0, 0, 0, 1, 1]


def differentiated(problem: Problem) -> dict[str, np.ndarray]:
    """The gradients for a cotangent of ones."""
    graph = differentiate(problem.graph)
    ones = {name: np.ones_like(array) for name, array in problem.cotangents().items()}
    return problem.values(graph, ones)


def test_the_branch_not_taken_gives_zero() -> None:
    v = values(4.0, 0.0, -1.0, -2.0)
    for source in (
        "where(v[i] > 0, log(v[i]) / sqrt(v[i]), 2 * v[i])",
        "where(v[i] > 0, 1 / v[i], 0) * v[i]",
        "exp(where(v[i] > 0, v[i] ** -0.5, v[i]))",
        "ratio(v[i], max(v[i], 0)) * v[i]",
        "where(v[i] == 0, 1, sqrt(v[i] * v[i]))",
    ):
        check(along(source, v))


def test_products_with_zeros() -> None:
    for v in (values(2.0, 3.0, -1.0), values(2.0, 0.0, 3.0), values(0.0, 0.0, 3.0)):
        check(along("prod(i: v[i])", v))
    check(along("prod(i if i != 1: exp(v[i]))", values(0.5, 0.0, -1.0)))


def test_every_function() -> None:
    rng = np.random.default_rng(3)
    v, w = rng.uniform(0.2, 0.9, size=(2, 1, 2, 4, 3))
    for source in FUNCTIONS:
        check(along(source, v, w=w))


FUNCTIONS = (
    "v[i] + w[i]", "v[i] - w[i]", "v[i] * w[i]", "v[i] / w[i]", "-v[i] * w[i]", "v[i] ** 3 * w[i]",
    "v[i] ** w[i]", "2 ** v[i] * w[i]", "exp(v[i]) * w[i]", "log(v[i]) * w[i]", "sqrt(v[i] + w[i])",
    "asin(v[i] * w[i])", "acos(v[i] - w[i])", "atan(v[i] / w[i])",
    "sin(v[i]) * cos(w[i])", "tanh(v[i] * w[i])", "erf(v[i]) + w[i]", "abs(v[i] - w[i])",
    "sigmoid(v[i]) * w[i]", "softplus(v[i]) * w[i]", "max(v[i], w[i]) * min(v[i], w[i])",
    "floor(v[i] * 5) * w[i]", "sign(v[i] - w[i]) * w[i]", "stop(v[i]) * v[i] * w[i]",
    "where(v[i] < w[i], v[i] * w[i], v[i] / w[i])",
)  # fmt: skip


def test_empty_rows_have_zero_gradients() -> None:
    """Rows before the first key, and what only they read; a gate inside and outside of the sum."""
    rng = np.random.default_rng(4)
    for read in ("sum(j: weight * v[j]) * g[i]", "sum(j: weight * g[i] * v[j])"):
        spec = text(
            f"""
            attention f(q, k, v):
                input g: real[b, h, i]
                mask: j <= i
                score: dot(q[i], k[j]) * scale
                normalize: softmax(j: score)
                read: {read}
            """
        )
        given = small(rng) | {"g": rng.normal(size=(2, 4, 5))}
        problem = Problem(spec, given, {}, {"offset": -2}, ("lse",))
        graph = check(problem)
        found = problem.values(graph, problem.cotangents())
        assert all(np.isfinite(array).all() for array in found.values())
        assert (found["q_grad"][:, :, :2] == 0).all() and (found["g_grad"][:, :, :2] == 0).all()


@pytest.mark.parametrize("name", ["normalizer/shaped", "variants/learned_sinks"])
def test_a_divisor_of_empty_rows_stays_under_a_guard(name: str) -> None:
    """What multiplies or divides by a row sum of nothing: 0 of such rows, in both orders."""
    path = next(p for p in GALLERY if p.match(f"{name}.attn"))
    problem = next(gallery(path))
    problem = replace(problem, keywords={**problem.keywords, "offset": -2})
    first = check(problem)
    given, rng = problem.cotangents(), np.random.default_rng(15)
    sizes = problem.values(first, given)
    again = {a.name: rng.normal(size=sizes[n].shape) for n, a in cotangents(first).items()}
    found = problem.values(differentiate(first), {**given, **again})
    assert all(np.isfinite(array).all() for array in found.values())


def test_row_values_of_empty_rows_multiply_nothing() -> None:
    """A maximum of no keys is infinite, and a sum of none 0: neither meets a sum over none."""
    spec = text(
        """
        attention f(q, k, v, gamma):
            input gamma: real[h]
            mask: j <= i
            score: dot(q[i], k[j])
            normalize: exp(score) - gamma * max(j: score) + gamma / sum(j: exp(score))
        """
    )
    given = small(np.random.default_rng(16)) | {"gamma": np.array([0.5, -1.0, 0.2, 2.0])}
    check(Problem(spec, given, {}, {"offset": -2}))


def test_a_divisor_that_is_zero_only_where_nothing_is_seen() -> None:
    """An empty row divides by its query's length, which is 0 there: no NaN comes out."""
    spec = text(
        """
        attention f(q, k, v):
            mask: j < i
            n[i] = sum(d: q[i] * q[i])
            score: dot(q[i], k[j]) / (n[i] * sum(j: 1))
            normalize: score / n[i]
        """
    )
    given = small(np.random.default_rng(5), 5, 5)
    given["q"][:, :, 0] = 0.0
    check(Problem(spec, given, {}))


def test_dropout_reads_the_same_numbers() -> None:
    spec = text(
        """
        attention f(q, k, v):
            score: dot(q[i], k[j])
            normalize: dropout(softmax(j: score), 0.4)
        """
    )
    graph = check(Problem(spec, small(np.random.default_rng(6)), {}, {"seed": 7}))
    query = expression(graph, "q_grad")
    assert query.op == "fold" and len(folds(query.args[1], "j")) == 2


def test_places_from_data_and_borders() -> None:
    spec = text(
        """
        attention f(q, k, v):
            input table: real[h, r], kind: int[b, j], place: int[b, j]
            score: dot(q[i], k[place[j]]) + (table[kind[j]] else 0) + (dot(q[i], k[j - 1]) else 0)
            normalize: softmax(j: score)
        """
    )
    rng = np.random.default_rng(7)
    given = small(rng) | {"table": rng.normal(size=(4, 3))}
    given["kind"] = rng.integers(-1, 4, (2, 7))
    given["place"] = rng.integers(0, 7, (2, 7))
    check(Problem(spec, given, {}))


def test_an_axis_twice() -> None:
    spec = text(
        """
        pipeline f(x) for n:
            input x: real[b, n, c], w: real[m, l in m]
            read: x[n] * sum(m: w[m, m]) * (w[1, 0] else 0)
        """
    )
    rng = np.random.default_rng(8)
    check(Problem(spec, {"x": rng.normal(size=(2, 3, 2)), "w": rng.normal(size=(4, 4))}, {}))


@pytest.mark.parametrize("emits", [("entropy", "max"), ("weight", "colsum"), ("score", "argmax")])
def test_emits_that_are_offered(emits: tuple[str, ...]) -> None:
    problem = replace(language("causal_softmax"), emits=emits)
    given = problem.cotangents()
    found = problem.values(differentiate(problem.graph), given)
    wanted = problem.gradients(given)
    assert worst(found, wanted) < 1e-10
    without = {name: g if name == "out_grad" else np.zeros_like(g) for name, g in given.items()}
    assert worst(problem.values(differentiate(problem.graph), without), wanted) > 1e-3


def test_weights_by_a_log_sum() -> None:
    """exp(s - lse), the sum in the exponent: its adjoint is <g, out> too."""
    spec = text(
        """
        attention f(q, k, v):
            mask: j <= i
            score: dot(q[i], k[j]) * scale
            normalize: exp(score - lse(j: score))
        """
    )
    graph = check(Problem(spec, small(np.random.default_rng(13)), {}))
    query = expression(graph, "q_grad")
    assert query.op == "fold" and len(folds(query.args[1], "j")) == 2


def test_long_texts() -> None:
    """Many terms, deep functions, choices within choices: no recursion."""
    terms = " + ".join(f"dot(q[i], k[j]) * {n}e-6" for n in range(60))
    deep = "tanh(" * 80 + "dot(q[i], k[j])" + ")" * 80
    lines = "".join(f"    a{n}[i, j] = where(i != j + {n}, a{n - 1}, 0)\n" for n in range(1, 60))
    choices = f"    a0[i, j] = dot(q[i], k[j])\n{lines}    normalize: softmax(j: a59) * a59\n"
    for body in (
        f"    score: {terms}\n    normalize: softmax(j: score)\n",
        f"    score: {deep}\n    normalize: softmax(j: score)\n",
        f"    score: dot(q[i], k[j])\n{choices}",
    ):
        check(Problem(text(f"attention f(q, k, v):\n{body}"), small(np.random.default_rng(14)), {}))


@pytest.mark.parametrize("term", ["a{m}[i, j] * {n}.5", "dot(q[i], k[j]) * {n}.5"])
def test_chains_of_choices_take_linear_time(term: str) -> None:
    """Guards pile up; what they share is rebuilt once."""

    def seconds(count: int) -> float:
        lines = "".join(
            f"    a{n}[i, j] = where(a{n - 1}[i, j] > {n}, {term.format(m=n - 1, n=n)},"
            f" a{n - 1}[i, j])\n"
            for n in range(1, count + 1)
        )
        body = f"    a0[i, j] = dot(q[i], k[j])\n{lines}    normalize: softmax(j: a{count})\n"
        graph = prepare(text(f"attention f(q, k, v):\n{body}"))
        begun = process_time()
        differentiate(graph)
        return process_time() - begun

    seconds(5)
    assert min(seconds(160) for _ in range(3)) < 12 * max(seconds(40), 0.05)


# --- twice ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["causal_softmax", "rope", "memory_slots", "softplus_reweighted"])
def test_second_order(name: str) -> None:
    problem = language(name)
    first = differentiate(problem.graph)
    second = differentiate(first)
    verify_graph(second)
    assert len({a.name for a in inputs_of(second)} | {o.array.name for o in second.outputs}) == len(
        inputs_of(second)
    ) + len(second.outputs)
    given, rng = problem.cotangents(), np.random.default_rng(9)
    leaves = to_torch(problem.tensors, grad=True) | to_torch(given, grad=True)
    outputs = problem.outputs({n: leaves[n] for n in problem.tensors})
    ours, theirs = cotangents(problem.graph), cotangents(first)
    loss = sum((y * leaves[ours[n].name]).sum() for n, y in outputs.items())
    pulled = torch.autograd.grad(loss, [leaves[n] for n in problem.reals], create_graph=True)
    again = {theirs[f"{n}_grad"].name: rng.normal(size=leaves[n].shape) for n in problem.reals}
    total = sum(
        (x * torch.from_numpy(g)).sum() for x, g in zip(pulled, again.values(), strict=True)
    )
    by = [*problem.reals, *given]
    wanted = dict(zip(by, torch.autograd.grad(total, [leaves[n] for n in by]), strict=True))
    tensors = {**problem.tensors, **given, **again}
    found = values_of(problem.spec, second, tensors, problem.numbers, **problem.keywords)
    assert worst(found, {n: x.detach().numpy() for n, x in wanted.items()}) < 1e-10


# --- what has none -------------------------------------------------------------------------------


def test_no_gradient_by_an_integer() -> None:
    problem = language("document_mask")
    with pytest.raises(NoDerivative, match="`doc`: it is an integer"):
        differentiate(problem.graph, ["q", "doc"])
    with pytest.raises(NoDerivative, match="`nothing`"):
        differentiate(problem.graph, ["nothing"])
    graph = differentiate(problem.graph, ["v"])
    assert [output.array.name for output in graph.outputs] == ["v_grad"]


@pytest.mark.parametrize("name", RECURRENT)
def test_refused_by_feature(name: str) -> None:
    with pytest.raises(UnsupportedError, match="its derivative"):
        differentiate(language(name).graph)


def test_complex_numbers_are_refused() -> None:
    spec = text(
        """
        attention f(q, k, v):
            input z: complex[h]
            score: dot(q[i], k[j]) * re(z * z)
            normalize: softmax(j: score)
        """
    )
    with pytest.raises(UnsupportedError, match="complex numbers"):
        differentiate(prepare(spec))


def test_an_input_without_influence_has_gradient_zero() -> None:
    spec = text(
        """
        attention f(q, k, v):
            input limit: real[h]
            mask: dot(q[i], k[j]) > limit
            normalize: by_sum(j: 1.0)
        """
    )
    given = small(np.random.default_rng(10)) | {"limit": np.zeros(4)}
    check(Problem(spec, given, {}))


# --- mutants -------------------------------------------------------------------------------------

SPELLINGS = {"add": "+", "sub": "-", "neg": "-v", "mul": "*", "div": "/", "pow": "**"}
UNWRITTEN = ("exp2", "log2", "log1p")  # only passes write them


@pytest.mark.parametrize("op", [op for op in derivative_rules._SLOPES if op not in UNWRITTEN])
def test_a_rule_that_is_wrong_is_noticed(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sign of each rule's last edge, against the functions above."""
    rule = derivative_rules._SLOPES[op]

    def wrong(node: Expr, result: Expr) -> Edges:
        *rest, last = rule(node, result)
        return (
            *rest,
            replace(last, factor=replace(last.factor, negative=not last.factor.negative)),
        )

    monkeypatch.setitem(derivative_rules._SLOPES, op, wrong)
    rng = np.random.default_rng(3)
    v, w = rng.uniform(0.2, 0.9, size=(2, 1, 2, 4, 3))
    sources = [source for source in FUNCTIONS if SPELLINGS.get(op, op) in source]
    assert any(not right(along(source, v, w=w)) for source in sources)


def right(problem: Problem) -> bool:
    given = problem.cotangents()
    error = worst(problem.values(differentiate(problem.graph), given), problem.gradients(given))
    return error < 1e-10


@pytest.mark.parametrize("op", UNWRITTEN)
def test_functions_that_no_text_has(op: str) -> None:
    """By central differences of the graph with the function put in."""
    problem = along("exp(v[i]) * v[i]", np.random.default_rng(12).uniform(0.5, 2, (1, 1, 3, 1)))

    def change(node: Expr) -> Expr:
        return call(op, node.args[0]) if node.op == "exp" else node

    output = problem.graph.outputs[0]
    graph = replace(problem.graph, outputs=(replace(output, expr=rewrite(output.expr, change)),))
    v, name = problem.tensors["v"], output.array.name
    given = {array.name: np.ones_like(v) for array in cotangents(graph).values()}
    found = problem.values(differentiate(graph), given)["v_grad"]
    high, low = (values_of(problem.spec, graph, {"v": v + h}, {})[name] for h in (1e-5, -1e-5))
    assert np.abs((high - low) / 2e-5 - found).max() < 1e-8


@pytest.mark.parametrize("mutant", ["no delta", "unscaled", "sign", "not summed"])
def test_a_row_factor_that_is_wrong_is_noticed(
    mutant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = derivative_folds._row_factors

    def wrong(node, inner, wide):
        edges = original(node, inner, wide)
        if edges is None:
            return None
        first, second, *rest = edges
        assert second.folded is not None
        if mutant == "no delta":
            return (first, *rest)
        if mutant == "unscaled":
            return (replace(first, factor=replace(first.factor, below=())), second, *rest)
        if mutant == "not summed":
            return (first, replace(second, folded=second.factor), *rest)
        flipped = replace(second.folded, negative=not second.folded.negative)
        return (first, replace(second, folded=flipped), *rest)

    problem = replace(language("causal_softmax"), emits=())
    assert right(problem)
    monkeypatch.setattr(derivative_folds, "_row_factors", wrong)
    assert not right(problem)


@pytest.mark.parametrize("mutant", ["one of the ties", "no guard"])
def test_a_fold_that_is_wrong_is_noticed(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if mutant == "one of the ties":
        rule = derivative_folds.FOLDS["max"]

        def evenly(node, wide):
            return tuple(replace(e, factor=replace(e.factor, below=())) for e in rule(node, wide))

        monkeypatch.setitem(derivative_folds.FOLDS, "max", evenly)
        assert not right(along("max(i: v[i])", values(1.0, 2.0, 2.0)))
        return
    rule = derivative_rules._SLOPES["where"]

    def unguarded(node, result):
        return tuple(replace(e, guards=()) for e in rule(node, result))

    monkeypatch.setitem(derivative_rules._SLOPES, "where", unguarded)
    assert not right(along("where(v[i] > 0, log(v[i]), 2 * v[i])", values(1.0, 0.0, -2.0)))
