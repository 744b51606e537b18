"""Pipelines: blocks as operators of their own, and what the equations between them became."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from attnc.backends.composed import Equation, steps_of
from gallery_cases import EXAMPLES
from torch.utils.checkpoint import checkpoint

from attnc.cases import Shape, draw_case
from attnc.compiler import lower, lower_trained
from attnc.errors import AttncError, UnsupportedError
from attnc.family import trains
from attnc.front import load_source, read_spec
from attnc.operator import Operator
from attnc.spec import Repeat, Spec
from attnc.stages import KernelStage

SHAPE = Shape(9, 11, 4, 3, 2, 2, 2)


def spec_of(*lines: str, header: str = "pipeline p(q, k, v) for i") -> Spec:
    return read_spec(load_source("\n".join([f"{header}:", *(f"    {line}" for line in lines)])))


def became(spec: Spec) -> dict[str, tuple[str, ...]]:
    stages = lower(spec)
    assert stages.pipeline is not None, stages.refusal
    steps = steps_of(spec, stages.pipeline)
    return {s.definition.array.name: s.became for s in steps if isinstance(s, Equation)}


def agrees(spec: Spec, shape: Shape = SHAPE, **numbers: object) -> None:
    """The composed form and the oracle, and gradients of the dense form, in float64."""
    case = draw_case(spec, shape, 3, numbers)
    run, eager = Operator(spec, "cpu"), Operator(spec, "eager")
    truth = run.reference(**case.tensors, **case.numbers, **case.extras)
    results = []
    for one in (run, eager):
        tensors = {
            name: torch.from_numpy(x).requires_grad_(x.dtype == np.float64)
            for name, x in case.tensors.items()
        }
        out = one(**tensors, **case.numbers, **case.extras)
        np.testing.assert_allclose(out.detach().numpy(), truth, rtol=1e-10, atol=1e-10)
        out.sin().sum().backward()
        results.append({n: x.grad for n, x in tensors.items() if x.grad is not None})
    assert results[0].keys() == results[1].keys()
    for name, gradient in results[0].items():
        torch.testing.assert_close(gradient, results[1][name], rtol=1e-9, atol=1e-9)


FORMS = {
    "sum by group": (
        (
            "axis c < (len(j) + 3) // 4",
            "s[c] = sum(j if j // 4 == c: v[j])",
            "read: q[i] @ k[0] * s[0]",
        ),
        "a sum by group",
    ),
    "mean by group": (
        ("axis c < 3", "s[c] = mean(j if j % 3 == c: v[j])", "read: s[2]"),
        "a sum by group",
    ),
    "maximum by group": (
        ("axis c < (len(j) + 3) // 4", "s[c] = max(j if j // 4 == c: v[j])", "read: s[1]"),
        "a maximum by group",
    ),
    "softmax by group": (
        (
            "axis c < (len(j) + 3) // 4",
            "w[j] = 30 * sum(d: k[j])",
            "s[c] = sum(j if j // 4 == c: softmax(j if j // 4 == c: w[j]) * v[j])",
            "read: s[1]",
        ),
        "a sum by group",
    ),
    "cumulative sum": (("s[j] = sum(l in j if l <= j: v[l])", "read: s[4]"), "a cumulative sum"),
    "before": (("s[j] = sum(l in j if l < j: v[l])", "read: s[4]"), "a cumulative sum"),
    "of exponentials": (
        (
            "w[j] = 300 * sum(d: k[j])",
            "s[j] = sum(l in j if l <= j: exp(w[l]) * v[l]) / sum(l in j if l <= j: exp(w[l]))",
            "read: s[4]",
        ),
        "a cumulative sum",
    ),
    "cumulative maximum": (
        ("s[j] = max(l in j if l <= j: v[l])", "read: s[4]"),
        "a cumulative maximum",
    ),
    "convolution": (
        ("s[j] = sum(l in j if l <= j: k[j - l] @ k[0] * v[l])", "read: s[4]"),
        "a causal convolution by FFT",
    ),
    "matrix": (
        ("input w: real[h, e, f in e]", "s[j] = v[j] @ w", "read: s[0]"),
        "a product of matrices",
    ),
    "ranks": (
        ("r[j] = rank(j: sum(d: k[j]))", "read: v[r[2]] * (q[i] @ k[r[0]])"),
        "ranks, by sorting",
    ),
    "dense": (
        ("s[j] = sum(l in j: cos(sum(e: v[j]) * sum(e: v[l])) * v[l])", "read: s[4]"),
        "no formula that a library knows: dense, memory of",
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_equations_become_what_a_library_does(name: str) -> None:
    lines, words = FORMS[name]
    spec = spec_of(*lines)
    assert any(words in one for all_of in became(spec).values() for one in all_of), became(spec)
    agrees(spec)


TWO = (
    "axis a < 3",
    "qa[a] = mean(i if i * 3 // len(i) == a: q[i])",
    "attention gather for a over j:",
    "    score: dot(qa[a], k[j]) * scale",
    "    normalize: softmax(j: score)",
    "attention spread for i over a:",
    "    score: dot(q[i], qa[a]) * scale",
    "    normalize: softmax(a: score)",
    "    read: sum(a: weight * gather[a])",
    "emit share[i] = spread.lse[i]",
    "read: spread[i] * 2",
)


def test_two_blocks_are_two_operators() -> None:
    spec = spec_of(*TWO)
    stages = lower(spec)
    assert stages.refusal is None and stages.pipeline is not None
    kernels = stages.pipeline.kernels
    assert [one.block for one in kernels] == ["gather", "spread"]
    assert [name for name, _ in kernels[1].arguments] == ["q", "qa", "gather"]
    assert dict(kernels[1].provides) == {"spread": "out", "spread.lse": "lse"}
    order = [s.block if isinstance(s, KernelStage) else s.definition.array.name
             for s in steps_of(spec, stages.pipeline)]  # fmt: skip
    assert order == ["qa", "gather", "spread", "out"]
    agrees(spec)
    case = draw_case(spec, SHAPE, 5, {})
    op = Operator(spec, "cpu")
    out, share = op(**case.tensors, emit=("share",))
    truth = op.reference(**case.tensors, emit=("share",))
    assert isinstance(out, np.ndarray)
    for one, other in zip((out, share), truth, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)


def test_explain_says_what_each_stage_became() -> None:
    text = Operator(spec_of(*TWO), "cpu").explain()
    for words in ("2 operators", "a sum by group", "stage gather: makes gather of k, v, qa",
                  "stream kernel p_spread", "backward: gradients of q, qa, gather"):  # fmt: skip
        assert words in text


def test_what_trains_in_stages_alone() -> None:
    """A kernel with means of keys inside has no gradient: where one is asked for, they are made
    before it."""
    spec = read_spec(load_source(EXAMPLES / "head" / "razor_heads.attn"))
    stages = lower(spec)
    assert stages.schedule is not None and not trains(stages)
    found = lower_trained(spec, stages)
    assert found.pipeline is not None and trains(found)
    assert lower_trained(spec, found) is found
    said = Operator(spec, "cpu").explain()
    assert "calls with gradients run otherwise" in said and said.count("backward: refused") == 1


@pytest.mark.usefixtures("quick_build")
def test_a_loop_of_a_block_stays_with_it() -> None:
    """Rows and columns in turn, after as many turns as the text says: not the first values."""
    agrees(
        spec_of(
            "axis c < (len(j) + 1) // 2",
            "kc[c] = mean(j if j // 2 == c: k[j])",
            "attention fine for i over c:",
            "    score: dot(q[i], kc[c])",
            "    normalize: sinkhorn(i, c: score, 2)",
            "    read: sum(c: weight * kc[c])",
            "read: fine[i]",
        )
    )


CHOSEN = (
    "mask: j <= i + 3",
    "score: dot(q[i], k[j]) * scale",
    "best[i, j] = topk(j: score, min(4, len(j)))",
    "normalize: by_sum(j: where(best, exp(score), 0))",
)
REPEATED = (
    "x[i] = q[i]",
    "repeat r < 2:",
    "    x[i] = sum(j: softmax(j: dot(x[i], k[j])) * k[j])",
    "score: dot(x[i], k[j])",
    "normalize: softmax(j: score)",
)


HARD = (
    "mask: j <= i + 3",
    "score: dot(q[i], k[j]) * scale",
    "best[i] = argmax(j: score)",
    "normalize: where(j == best[i], 1, 0) + 0.1 * softmax(j: score)",
)


def test_a_choice_inside_a_kernel_is_made_before_where_gradients_are_asked_for() -> None:
    spec = spec_of(*HARD, header="attention a(q, k, v)")
    stages = lower(spec)
    assert stages.schedule is not None and not trains(stages)
    found = lower_trained(spec, stages)
    assert found.pipeline is not None and trains(found)


@pytest.mark.usefixtures("quick_build")
@pytest.mark.parametrize("lines", [CHOSEN, REPEATED], ids=["chosen", "repeated"])
def test_what_no_kernel_can_is_made_of_all_pairs_before(lines: tuple[str, ...]) -> None:
    spec = spec_of(*lines, header="attention a(q, k, v)")
    assert lower(spec).pipeline is not None
    agrees(spec)


@pytest.mark.usefixtures("quick_build")
def test_a_repeat_that_starts_with_whole_numbers() -> None:
    """What it makes real is real from the start, for kernels and libraries; the rest is whole. A
    start may read those above it."""
    spec = spec_of(
        "mass[j] = 0",
        "mean[j] = 0",
        "both[j] = mean[j] + 2",
        "place[j] = 0",
        "repeat r < 3:",
        "    mass[j] = mean[j] * 2 + r",
        "    both[j] = both[j] + mean[j]",
        "    mean[j] = mean[j] / 3 + dot(k[j], k[place[j]])",
        "    place[j] = (place[j] + r) % len(j)",
        "attention a for i over j:",
        "    score: dot(q[i], k[j]) + mass[j] + place[j] // 2",
        "    normalize: softmax(j: score)",
        "read: a[i] + mean[0] * both[0]",
    )
    (repeat,) = (one for one in spec.root.statements if isinstance(one, Repeat))
    kinds = {line.array.name: line.array.kind for line in repeat.statements}
    assert kinds == {"mass": "real", "both": "real", "mean": "real", "place": "int"}
    agrees(spec)


def test_a_refusal_names_its_stage() -> None:
    lines = (
        "attention near for i over j, l in j:",
        "    score: sum(d: q[i] * k[j] * k[l])",
        "    normalize: softmax(j, l: score)",
        "    read: sum(j, l: weight * v[j] * v[l]) + sum(j: v[j])",
        "read: near[i]",
    )
    with pytest.raises(UnsupportedError, match="in the stage `near`"):
        Operator(spec_of(*lines), "cpu")


@pytest.mark.parametrize("backend", ["cpu", "eager", "numpy"])
def test_a_choice_of_more_than_there_is(backend: str) -> None:
    """The call says in which stage and of which index; of none, none are chosen."""
    spec = spec_of(
        "param keep: int",
        "axis s < (len(j) + 3) // 4",
        "worth[i, s] = mean(j if j // 4 == s: dot(q[i], k[j]))",
        "chosen[i] = topk(s: worth[i, s], keep)",
        "attention fine for i over j:",
        "    mask: chosen[i, j // 4]",
        "    score: dot(q[i], k[j])",
        "    normalize: softmax(j: score)",
        "read: fine[i]",
    )
    run = Operator(spec, backend)
    q, k, v = (torch.randn(1, 2, 9, 4) for _ in range(3))
    given = (q, k, v) if backend != "numpy" else (q.numpy(), k.numpy(), v.numpy())
    run(*given, keep=3)
    for wrong in (4, -1):
        with pytest.raises(AttncError, match=r"topk\(.* in chosen chooses more .* of s"):
            run(*given, keep=wrong)
    empty = [x[:, :, :0] for x in given]
    assert run(given[0], *empty[1:], keep=4).shape == (1, 2, 9, 4)


def test_offsets_of_each_batch_entry() -> None:
    spec = spec_of(
        "s[j] = sum(l in j if l <= j: v[l])",
        "attention near for i over j:",
        "    mask: j <= i",
        "    score: dot(q[i], k[j]) * scale",
        "    normalize: softmax(j: score)",
        "    read: sum(j: weight * s[j])",
        "read: near[i]",
    )
    case = draw_case(spec, SHAPE, 7, {})
    op = Operator(spec, "cpu")
    tensors = {name: torch.from_numpy(x) for name, x in case.tensors.items()}
    shifts = {"offset": torch.tensor([2, 0]), "key_length": torch.tensor([11, 6])}
    found = op(**tensors, **shifts)
    truth = op.reference(**tensors, **shifts)
    np.testing.assert_allclose(found.numpy(), truth, rtol=1e-10, atol=1e-10)


FULL = (
    "input taps: real[h, u], bias: real[h, i, j]",
    "axis c < (len(j) + 3) // 4",
    "kc[c] = mean(j if j // 4 == c: k[j])",
    "past[j] = sum(l in j if l <= j and l % 3 != 1: exp(0.1 * dot(k[l], k[j])) * v[l])",
    "mixed[j] = sum(u: taps[u] * (v[j - u] else 0))",
    "near[i] = sum(j if bias[i, j] > 0: bias[i, j] * v[j])",
    "pick[i] = topk(c: exp(30 * dot(q[i], kc[c])), min(2, len(c)))",
    "attention fine for i over j:",
    "    mask: j <= i and pick[i, j // 4]",
    "    score: dot(q[i], k[j]) * scale",
    "    normalize: softmax(j: score)",
    "    read: sum(j: weight * (mixed[j] + past[j]))",
    "read: fine[i] + near[i]",
)


def full_call(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    """q, k, v, taps, bias; what is infinite in the bias is hidden from the sum over it."""
    torch.manual_seed(0)
    sizes = ((2, 2, 13, 4), (2, 2, 13, 4), (2, 2, 13, 4), (2, 3), (2, 13, 13))
    tensors = [torch.randn(size) for size in sizes]
    tensors[4][0, 3, 4] = -torch.inf
    return tuple(x.to(dtype) if place < 3 else x for place, x in enumerate(tensors))


def result_and_gradients(run: Any, tensors: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    given = [x.detach().requires_grad_() for x in tensors]
    out = run(*given)
    out.float().sin().sum().backward()
    return [out.detach(), *(x.grad for x in given if x.grad is not None)]


@pytest.mark.usefixtures("quick_build")
def test_torch_compiles_exports_and_maps_a_pipeline() -> None:
    """No step of it asks what the data is while somebody traces."""
    op = Operator(spec_of(*FULL), "cpu")

    def call(q: Any, k: Any, v: Any, taps: Any, bias: Any) -> Any:
        return op(q, k, v, taps=taps, bias=bias)

    class Model(torch.nn.Module):
        def forward(self, *tensors: Any) -> Any:
            return call(*tensors)

    given = full_call()
    expected = result_and_gradients(call, given)
    assert expected[0].isfinite().all() and len(expected) == 6
    traced = torch.compile(call, fullgraph=True, backend="aot_eager")
    again = partial(checkpoint, call, use_reentrant=False)
    strided = [x.mT.contiguous().mT for x in given]
    for run, tensors in ((traced, given), (again, given), (call, strided)):
        torch.testing.assert_close(result_and_gradients(run, tensors), expected)
    torch.testing.assert_close(torch.export.export(Model(), given).module()(*given), expected[0])
    mapped = torch.func.vmap(call, (0, None, None, None, 0))
    pairs = torch.stack([given[0], given[0].flip(2)]), torch.stack([given[4], given[4].mT])
    each = [call(pairs[0][n], *given[1:4], pairs[1][n]) for n in range(2)]
    torch.testing.assert_close(mapped(pairs[0], *given[1:4], pairs[1]), torch.stack(each))

    spoilt = (*given[:4], given[4].abs())  # seen now, and a sum over something infinite
    assert torch.equal(traced(*spoilt).isfinite(), call(*spoilt).isfinite())


@pytest.mark.torture
@pytest.mark.usefixtures("quick_build")
def test_a_pipeline_in_sixteen_bits_and_under_autocast() -> None:
    spec = spec_of(*FULL)
    op, eager = Operator(spec, "cpu"), Operator(spec, "eager")
    names = ("q", "k", "v", "taps", "bias")
    given = full_call(torch.bfloat16)
    runs = [lambda *x, one=one: one(**dict(zip(names, x, strict=True))) for one in (op, eager)]
    found, usual = (result_and_gradients(run, given) for run in runs)
    exact = result_and_gradients(runs[1], tuple(x.double() for x in given))
    for one, other, truth in zip(found, usual, exact, strict=True):
        error, own = ((x.double() - truth).norm() / truth.norm() for x in (one, other))
        assert one.dtype == other.dtype and error <= 2 * max(own, 2e-3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(runs[0](*(x.float() for x in given)), found[0])


@pytest.mark.parametrize("backend", ["cpu", "eager"])
def test_a_last_block_that_is_not_whole_compiles(backend: str) -> None:
    """Blocks of more than 8 keys, where torch.compile splits loops over positions."""
    lines = (
        "static size: int = 16",
        "axis c < (len(j) + size - 1) // size",
        "kc[c] = mean(j if j // size == c: k[j])",
        "read: i * kc[i // size] + k[size * (i // size) + i % size]",
    )
    q, k, v = torch.randn(3, 1, 2, 70, 8).unbind()
    op = Operator(spec_of(*lines), backend)
    found = torch.compile(lambda q, k, v: op(q, k, v), fullgraph=True)(q, k, v)
    exact = torch.from_numpy(op.reference(q, k, v)).float()
    torch.testing.assert_close(found, exact)


@pytest.mark.usefixtures("quick_build")
def test_sums_by_group_compile() -> None:
    """By heads, for many rows, and those of the derivatives of windows and running folds: where
    torch's compiler writes such a sum itself, it does so beyond its end."""
    from torch._inductor.utils import run_and_get_code  # loads the compiler

    lines = (
        "axis c < (len(j) + 63) // 64",
        "near[j] = max(w < 3: k[j + w] else -inf)",
        "highest[j, d] = max(s in j if s <= j: near[s, d])",
        "kc[c] = mean(j if j // 64 == c: highest[j])",
        "p[i, c] = softmax(c: dot(q[i], kc[c]) * scale)",
        "shared[hk, i, c] = sum(h of hk: p[i, c])",
        "read: sum(c: shared[i, c] * kc[c])",
    )
    op = Operator(spec_of(*lines), "cpu")
    given = tuple(torch.randn(3, 1, 1, 256, 16, dtype=torch.float64).unbind())
    expected = result_and_gradients(op, given)
    traced = torch.compile(lambda q, k, v: op(q, k, v), fullgraph=True)
    found, texts = run_and_get_code(result_and_gradients, traced, given)
    torch.testing.assert_close(found, expected)
    assert texts and not any("atomic_add" in text for text in texts)
