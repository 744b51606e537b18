"""Derivatives as schedules, interpreted, against the eager form's float64 autograd: gradients in
two sweeps and in one, tangents, second order; what is not wanted goes; wrong schedules are found
out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from attnc.backends.numpy_oracle import evaluate
from derivative_cases import (
    EMPTY,
    HOSTILE,
    ORDINARY,
    cotangents_of,
    emits_of,
    error,
    gradients,
    leaves_of,
    run,
    spec_of,
    truth,
)
from eager_loader import load, to_torch
from gallery_cases import EXAMPLES

from attnc.cases import Shape, draw_case
from attnc.errors import AttncError
from attnc.expressions.tree import TRUE, call, number, position, read, substitute
from attnc.front import load_source, read_spec
from attnc.passes import lower
from attnc.passes.backward import lower_derivative, lower_second, lower_tangent
from attnc.passes.follow import found_products, leaders
from attnc.passes.prune import needs, only
from attnc.schedule import Schedule
from attnc.schedule.maps import MapKernel
from attnc.schedule.regions import Region
from attnc.schedule.statements import Let
from attnc.schedule.streams import StreamKernel

# One for each thing that a backward must do: grouped heads, an input a head, tables by offset and
# with two places, a dense bias, operands behind rotations and norms, weights without exponents,
# two sources of keys, a finished sum within a weight, vectors of pairs, lse beside the result.
SHELF = (
    "normalizer/shaped",
    "softmax/causal_softmax",
    "softmax/additive",
    "softmax/concat_kv",
    "softmax/gated_softmax",
    "softmax/smeared_key",
    "positional/rope",
    "positional/relative_bias",
    "positional/transformer_xl",
    "segment/weighted_extended",
    "segment/document_mask",
    "variants/cosine",
    "variants/distance",
    "variants/exp_gate",
    "variants/learned_sinks",
    "variants/per_head_windows",
    "variants/polynomial",
    "variants/query_relative",
    "variants/relu_squared",
    "variants/sigmoid_bias",
    "variants/soft_cap",
    "head/shifted_groups",
)


@pytest.mark.parametrize("sweep", ["two", "one"])
@pytest.mark.parametrize("name", SHELF)
def test_gradients(name: str, sweep: Any) -> None:
    spec = spec_of(name)
    emits = emits_of(spec)
    derivative = lower_derivative(spec, emits, sweep)
    runs = 0
    for seed, shape in enumerate((ORDINARY, EMPTY)):
        try:
            case = draw_case(spec, shape, seed)
        except AttncError:
            continue
        runs += 1
        cotangents, wanted = truth(spec, case, emits)
        found = gradients(spec, derivative, case, cotangents, (4, 3), 1 + seed)
        for input_name, grad in found.items():
            if input_name in wanted:  # not left to its default
                assert error(grad, wanted[input_name]) < 1e-9, f"{input_name} {case}"
    assert runs, "no shape made a legal call"


INPUTS = """
attention dense(q, k, v):
    input bias: real[h, i, j], slope: real, scales: real[b, h, j]
    mask: j <= i
    score: dot(q[i], k[j]) * scale * scales[j] + bias[i, j] - slope * (i - j)
    normalize: softmax(j: score)
"""
PLACES = """
attention places(q, k, v):
    axis rel in -4 .. 20
    axis ry in 0 .. 3
    input t: real[h, rel, ry], u: real[d], gate: real[b, h, i, e]
    mask: j <= i
    score: (dot(q[i], k[j]) + dot(u, k[j])) * scale + (t[i - j, j % 3] else 0)
    normalize: softmax(j: score)
    read: gate * sum(j: weight * v[j])
"""


NETWORK = """
attention network(q, k, v):
    input x: real[f], c: real[f], o: real[h, f], p: real[b, i], pk: real[b, i, j, d]
    mask: j <= i
    score: dot(q[i], k[j] + pk[i, j]) * scale + sum(f: o * relu(x * (p[i] - j / 4) + c))
    normalize: softmax(j: score)
"""


NORMED = """
attention normed(q, k, v):
    mask: j <= i
    score: dot(l2norm(d: q[i]), l2norm(d: k[j])) * 4
    normalize: softmax(j: score)
    read: layernorm(e: sum(j: weight * v[j]))
"""


def test_weights_of_normed_rows_and_keys() -> None:
    """What is prepared from a sum over a row's width comes after that sum."""
    spec = read_spec(load_source(NORMED))
    case = draw_case(spec, ORDINARY, 1)
    found = run(spec, lower(spec, ("weight",)), case.tensors, case)["weight"]
    wanted = evaluate(spec, case.tensors, case.numbers, emit=("weight",), **case.extras)["weight"]
    assert np.abs(found - wanted).max() < 1e-12


@pytest.mark.parametrize("sweep", ["two", "one"])
@pytest.mark.parametrize("text", [INPUTS, PLACES, NETWORK, NORMED])
def test_inputs_of_every_shape(text: str, sweep: Any) -> None:
    """A number for each pair, one for all, one a key; a table of two dimensions, a vector for all
    rows, a gate; a network of row and key with hidden widths, a vector for each pair; norms of
    rows, keys and results (a mean within a variance)."""
    spec = read_spec(load_source(text))
    derivative = lower_derivative(spec, emits_of(spec), sweep)
    for shape in (ORDINARY, EMPTY):
        case = draw_case(spec, shape, 1)
        cotangents, wanted = truth(spec, case, emits_of(spec))
        found = gradients(spec, derivative, case, cotangents, splits=2)
        assert found.keys() == wanted.keys()
        for name, grad in found.items():
            assert error(grad, wanted[name]) < 1e-9, name


@pytest.mark.parametrize("name", ["softmax/causal_softmax", "variants/learned_sinks"])
def test_scores_far_from_zero(name: str) -> None:
    """Powers are relative to what was saved, each term's own: none is formed that overflows."""
    spec = spec_of(name)
    emits = emits_of(spec)
    case = draw_case(spec, HOSTILE, 1)
    cotangents, wanted = truth(spec, case, emits)
    for sweep in ("two", "one"):
        derivative = lower_derivative(spec, emits, sweep)  # type: ignore[arg-type]
        for input_name, grad in gradients(spec, derivative, case, cotangents, splits=2).items():
            assert error(grad, wanted[input_name]) < 1e-9, input_name


def streams(schedule: Schedule) -> list[StreamKernel]:
    return [kernel for kernel in schedule.kernels if isinstance(kernel, StreamKernel)]


def test_one_sweep_has_five_products() -> None:
    derivative = lower_derivative(spec_of("softmax/causal_softmax"), (), "one")
    sums, kernel = streams(derivative.backward)
    assert sums.held.name == "i" and len(sums.loops[0].products) == 2, "<g, out> from its terms"
    assert [one.width for one in sums.carried] == [None]
    (loop,) = kernel.loops
    assert kernel.held.name == "i" and not loop.around
    assert len(loop.products) == 2 and len(loop.contributions) == 1 and len(loop.deposits) == 2
    assert leaders(derivative.backward.kernels) == {kernel.name: sums}
    assert len(found_products(loop, sums.loops[0])) == 2, "those of the row sums, not formed again"
    powers = [let for let in loop.pair_values if "exp2" in {n.op for n in nodes(let.expr)}]
    assert len(powers) == 1, "each weight once"
    assert derivative.reads == ("out",), "what the mean of the terms is near to"
    assert [array.name for array in derivative.saved] == ["saved_power", "saved_row"]


def nodes(expr: Any) -> Iterator[Any]:
    stack = [expr]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(node.args)


def test_two_sweeps_hold_rows_and_keys() -> None:
    derivative = lower_derivative(spec_of("softmax/causal_softmax"))
    sums, rows, keys = streams(derivative.backward)
    assert sums.held.name == "i" and len(sums.loops[0].products) == 2, "<g, out> from its terms"
    assert [store.array.name for store in rows.stores] == ["q_grad"]
    assert [store.array.name for store in keys.stores] == ["k_grad", "v_grad"]
    assert not any(one.monoid == "max" for one in (*rows.carried, *keys.carried))


@pytest.mark.parametrize("sweep", ["two", "one"])
def test_what_is_not_wanted_goes(sweep: Any) -> None:
    spec = spec_of("variants/learned_sinks")
    derivative = lower_derivative(spec, (), sweep)
    case = draw_case(spec, ORDINARY, 0)
    cotangents, wanted = truth(spec, case)
    whole = derivative.backward
    for input_name, grad in derivative.gradients:
        slim = replace(derivative, backward=only(whole, (grad,)))
        found = gradients(spec, slim, case, cotangents)
        assert list(found) == [input_name]
        assert error(found[input_name], wanted[input_name]) < 1e-9
    (values,) = streams(only(whole, ("v_grad",)))
    assert len(values.loops[0].products) == 1, "values need no product with the cotangent"
    rows = {"one": "i", "two": "j"}[sweep]
    kernel = streams(whole)[-1]
    assert kernel.held.name == rows
    one = {"one": "keyed_grad_2", "two": "acc_2"}[sweep]
    assert needs(whole)[kernel.name][one] == {"v_grad"}


FOLLOWED = """
attention op(q, k, v):
    input slope: real[h], {inputs}
    mask: {mask}
    score: {score}
    normalize: {normalize}
"""


@pytest.mark.parametrize(
    ("mask", "score", "normalize", "follows"),
    [
        ("j <= i", "dot(q[i], k[j]) * scale - slope * (i - j)", "softmax(j: score)", True),
        ("j <= i and doc[j] == 0", "dot(q[i], k[j])", "softmax(j: score)", True),
        ("doc[i] == doc[j]", "tanh(dot(q[i], k[j]))", "softmax(j: score)", True),
        ("0 <= i - j < 9", "dot(q[i], k[j])", "softmax_sink(j: score, slope)", True),
        ("j <= i", "dot(q[i], k[j])", "relu(score) / (sum(j: relu(score)) + 1)", True),
        ("j <= i", "dot(q[i], k[j])", "sigmoid(score + slope)", False),
    ],
)
def test_who_follows_the_sums_of_rows(mask: str, score: str, normalize: str, follows: bool) -> None:
    """Where a row's mean of dP is summed first; a weight by itself has none, and holds keys."""
    text = FOLLOWED.format(mask=mask, score=score, normalize=normalize, inputs="doc: int[b, j]")
    spec = read_spec(load_source(text))
    kernels = lower_derivative(spec, (), "one").backward.kernels
    found = leaders(kernels)
    assert bool(found) == follows
    if not follows:
        assert {one.held.name for one in kernels if isinstance(one, StreamKernel)} == {"j"}
        return
    (name,) = found
    (kernel,) = (one for one in kernels if isinstance(one, StreamKernel) and one.name == name)
    leader = found[name]
    assert found_products(kernel.loops[0], leader.loops[0])
    for change in (
        {"held_values": (*leader.held_values, Let("more", position(leader.held)))},
        {"loops": tuple(replace(one, region=Region(TRUE, TRUE)) for one in leader.loops)},
        {"idle": TRUE},
        {"grid": leader.grid[::-1]},
        {"loops": tuple(replace(one, products=()) for one in leader.loops)},
    ):
        other = replace(leader, **change)  # type: ignore[arg-type]
        assert bool(leaders((other, kernel))) == ("held_values" in change), change
    (store,) = leader.stores
    turned = substitute(
        read(store.array, map(position, store.array.indices)), {leader.held: number(1)}
    )
    reads = replace(kernel, held_values=(*kernel.held_values, Let("before", turned)))
    assert not leaders((leader, reads)), "another row's sum is not there yet"


MEAN = """
attention mean(q, k, v):
    input gate: real[b, h, i, e], keep: real[b, hk, j]
    score: dot(q[i], k[j]) * scale
    normalize: softmax(j: score)
    read: {}
"""
MEANS = {
    "whole": "sum(j: weight * v[j])",
    "gated": "gate[i] * sum(j: weight * v[j])",
    "of_the_row": "gate[i, 0] * sum(j: weight * v[j])",
    "thinned": "sum(j: weight * keep[j] * v[j])",
}


@pytest.mark.parametrize("name", [*MEANS, "softmax/concat_kv"])
def test_what_a_mean_is_near_to_may_be_any_number(name: str) -> None:
    """An output that was rounded to 16 bits changes no gradient."""
    text = MEAN.format(MEANS.get(name))
    spec = spec_of(name) if name not in MEANS else read_spec(load_source(text))
    case = draw_case(spec, ORDINARY, 0)
    cotangents, wanted = truth(spec, case)
    derivative = lower_derivative(spec)
    found = gradients(spec, derivative, case, cotangents, outputs="float16")
    assert all(error(grad, wanted[name]) < 1e-9 for name, grad in found.items())


def test_mutants_of_a_backward_are_found_out() -> None:
    """A sign, a term dropped, a mask, what was saved, delta."""
    spec = spec_of("softmax/causal_softmax")
    case = draw_case(spec, ORDINARY, 0)
    cotangents, wanted = truth(spec, case)
    survivors = []
    for sweep in ("two", "one"):
        derivative = lower_derivative(spec, (), sweep)  # type: ignore[arg-type]
        for what, schedule in mutants(derivative.backward):
            mutant = replace(derivative, backward=schedule)
            try:
                found = gradients(spec, mutant, case, cotangents, outputs="float16")
            except AssertionError:
                continue  # a region that does not fit its mask
            if all(error(grad, wanted[name]) < 1e-9 for name, grad in found.items()):
                survivors.append(what)
    assert not survivors


def mutants(schedule: Schedule) -> Iterator[tuple[str, Schedule]]:
    for place, kernel in enumerate(schedule.kernels):
        if kernel.name.endswith("_near"):  # type: ignore[union-attr]
            continue  # what a mean is near to may be any number
        for what, changed in changes(kernel):
            kernels = (*schedule.kernels[:place], changed, *schedule.kernels[place + 1 :])
            yield f"{kernel.name}: {what}", replace(schedule, kernels=kernels)  # type: ignore[union-attr]


def changes(kernel: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(kernel, MapKernel):
        for n, store in enumerate(kernel.stores):
            other = replace(store, expr=call("neg", store.expr))
            yield (
                "sign",
                replace(kernel, stores=(*kernel.stores[:n], other, *kernel.stores[n + 1 :])),
            )
        return
    (loop,) = kernel.loops
    for name in ("contributions", "deposits"):
        every = getattr(loop, name)
        for n, one in enumerate(every):
            rest = (*every[:n], *every[n + 1 :])
            if name == "contributions":
                yield "a term dropped", with_loop(kernel, replace(loop, **{name: rest}))
            other = (*every[:n], replace(one, term=call("neg", one.term)), *every[n + 1 :])
            yield f"sign in {name}", with_loop(kernel, replace(loop, **{name: other}))
    yield "mask", with_loop(kernel, replace(loop, visible=None))
    for n, let in enumerate(loop.walked_values):
        squared = replace(let, expr=call("mul", let.expr, let.expr))
        lets = (*loop.walked_values[:n], squared, *loop.walked_values[n + 1 :])
        yield "value of a row", with_loop(kernel, replace(loop, walked_values=lets))


def with_loop(kernel: StreamKernel, loop: Any) -> StreamKernel:
    return replace(kernel, loops=(loop,))


# --- forward mode, second order -------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "softmax/causal_softmax",
        "softmax/concat_kv",
        "positional/rope",
        "variants/soft_cap",
        "variants/stick_breaking",
    ],
)
def test_tangents(name: str) -> None:
    spec = spec_of(name)
    emits = emits_of(spec)
    schedule = lower_tangent(spec, emits)
    case = draw_case(spec, ORDINARY, 3)
    given = to_torch(case.tensors)
    real = {n: t for n, t in given.items() if t.is_floating_point()}
    rng = np.random.default_rng(5)
    dots = {n: torch.from_numpy(rng.normal(size=tuple(t.shape))) for n, t in real.items()}

    def operator(*tensors: Any) -> tuple[Any, ...]:
        renewed = {**given, **dict(zip(real, tensors, strict=True))}
        return tuple(load(spec)(**renewed, **case.numbers, **case.extras, emit=emits).values())

    outs, moves = torch.func.jvp(operator, tuple(real.values()), tuple(dots.values()))
    arrays = {**case.tensors, **{f"{n}_dot": t.numpy() for n, t in dots.items()}}
    found = run(spec, schedule, arrays, case)
    names = [argument.name for argument in schedule.signature.outputs]
    for output, wanted in zip(names, (*outs, *moves), strict=True):
        finite = np.isfinite(wanted.numpy())
        assert error(found[output][finite], wanted.numpy()[finite]) < 1e-9, output


def refusal(name: str, sweep: Any) -> str:
    """Why there is no backward, if there is none."""
    try:
        lower_derivative(spec_of(name), (), sweep)
    except AttncError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("portion", range(4))
def test_one_sweep_makes_what_two_make(portion: int) -> None:
    """Of the whole gallery: what the CPU refuses, Triton refuses too."""
    names = sorted(
        str(path.relative_to(EXAMPLES).with_suffix("")) for path in EXAMPLES.glob("*/*.attn")
    )
    for name in names[portion::4]:
        refused = refusal(name, "one")
        assert not refused or refused == refusal(name, "two"), name


def test_tangents_share_the_weights_of_the_forward() -> None:
    (kernel,) = streams(lower_tangent(spec_of("softmax/causal_softmax")))
    assert len(kernel.loops[0].products) == 3 and len(kernel.loops[0].lifted) == 1


SECOND = (
    "softmax/causal_softmax",
    "variants/relu_squared",
    "variants/feature_sum",  # powers along a width
    "variants/relu_length",  # counts
    "window/interval_mask",  # rows without keys, whose sums are divided by
    "models/padded_causal",
    "axis/channel_gram",  # rows and keys on one axis, ties of a maximum
    "softmax/smeared_key",  # a key that reads another
    "normalizer/sparsemax",  # an equation's root
    "grid/botnet",  # sums over heads inside of sums over pairs
)


@pytest.mark.parametrize("sweep", ["two", "one"])
@pytest.mark.parametrize("name", SECOND)
def test_second_order(name: str, sweep: Any) -> None:
    spec = spec_of(name)
    schedule = lower_second(spec, (), sweep)
    case = draw_case(spec, Shape(5, 5, 3, 2, 1, 2, 2), 3)
    given, leaves = leaves_of(case)
    outputs = load(spec)(**given, **case.numbers, **case.extras, emit=())
    cotangent = torch.from_numpy(cotangents_of(outputs)["out"]).requires_grad_()
    first = torch.autograd.grad(
        (outputs["out"] * cotangent).sum(), list(leaves.values()), create_graph=True
    )
    rng = np.random.default_rng(5)
    again = {n: rng.normal(size=tuple(t.shape)) for n, t in leaves.items()}
    whole = sum((g * torch.from_numpy(c)).sum() for g, c in zip(first, again.values(), strict=True))
    wanted = torch.autograd.grad(whole, [*leaves.values(), cotangent])  # type: ignore[arg-type]
    arrays = {**case.tensors, "out_grad": cotangent.detach().numpy()}
    arrays.update((f"{n}_grad_grad", c) for n, c in again.items())
    found = run(spec, schedule, arrays, case)
    made = {argument.name.rstrip("_"): argument.name for argument in schedule.signature.outputs}
    for input_name, grad in zip((*leaves, "out_grad"), wanted, strict=True):
        assert error(found[made[f"{input_name}_grad"]], grad.numpy()) < 1e-9, input_name
