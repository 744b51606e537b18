"""CPU backward kernels on hand-made schedules: in one sweep (keys held, rows deposited) and in two;
tables, dense biases, shares; against autograd of the dense formula in float64. And of specs, in
float32 against autograd's error."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from attnc.backends.cpu import emit
from cpu_gradients import check, given, outputs_of, run, schedule_of
from triton_cases import bind
from triton_gradients import GRADIENTS

import attnc
from attnc.cases import Shape, draw_case
from attnc.errors import AttncError
from attnc.front import load_source, read_spec
from attnc.passes.backward import lower_derivative
from attnc.runtime.cpu_build import levels_here
from attnc.runtime.cpu_calls import CpuBackend
from attnc.verification_gradients import compare_gradients

LENGTHS = (0, 1, 2, 127, 129, 257)
ISAS = levels_here()
F32, BF16, F16, F64 = torch.float32, torch.bfloat16, torch.float16, torch.float64


@pytest.mark.usefixtures("drawn_build")
@pytest.mark.parametrize(
    ("name", "sweep", "dtype"),
    [
        ("window", "one", F32),
        ("window", "one", BF16),
        ("window", "two", F32),
        ("softcap", "one", F32),
        ("table", "one", BF16),
        ("table_by_keys", "one", F32),
        ("buckets", "two", F32),
        ("pairs", "one", F32),
        ("relative", "one", F32),
        ("relative_by_keys", "one", BF16),
        ("bias", "one", F32),
        ("bias", "two", BF16),
        ("document", "two", BF16),
    ],
)
def test_shelf(name: str, sweep: str, dtype: torch.dtype) -> None:
    """Masks, scores, tables by difference and by bucket, their rows, biases."""
    for rows, keys, offset in ((129, 150, 21), (70, 40, 0)):
        check(name, sweep, GRADIENTS[name].tensors(dtype, rows, keys, 16, 24), offset=offset)


@pytest.mark.parametrize("keys", LENGTHS)
def test_lengths(keys: int) -> None:
    """Lengths around tiles, longer and shorter keys, rows that see nothing. (In float64: where a
    row sees one key eager is exact, and a ratio of roundings says nothing.)"""
    for rows in LENGTHS:
        tensors = GRADIENTS["window"].tensors(F64, rows, keys, 16, 24)
        check("window", "one", tensors, offset=keys - rows)
        check("window", "one", tensors, key_offset=3)


@pytest.mark.parametrize(
    ("dtype", "width", "across"), [(F64, 3, 1), (F16, 15, 64), (BF16, 72, 128), (F32, 128, 3)]
)
def test_widths(dtype: torch.dtype, width: int, across: int) -> None:
    """Any width, another value width, odd groups."""
    for heads in ((3, 3), (7, 1), (6, 2)):
        check("window", "one", GRADIENTS["window"].tensors(dtype, 90, 75, width, across, heads))


@pytest.mark.parametrize("isa", ISAS)
def test_instruction_sets(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNC_CPU_ISA", isa)
    dtype = BF16 if isa.startswith(("avx512", "amx")) else F32
    check("window", "one", GRADIENTS["window"].tensors(dtype, 140, 140, 16, 24))


def test_lengths_of_batches() -> None:
    """Keys beyond the length of their sequence get zeros."""
    tensors = GRADIENTS["window"].tensors(F32, 90, 140, 16, 24)
    check("window", "one", tensors, key_length=77, offset=30)
    lengths = torch.tensor([0, 77])
    found = run("window", "one", given("window", tensors, key_length=lengths), key_length=lengths)
    for name in ("dk", "dv"):
        grad = found[name]
        assert grad is not None and not grad[0].any() and not grad[1, :, 77:].any()


def test_strides() -> None:
    """Cotangents that are expanded or transposed, inputs with gaps."""
    tensors = GRADIENTS["window"].tensors(F32, 90, 90, 16, 24)
    flat = {**tensors, "grad": tensors["grad"][..., :1].expand(-1, -1, -1, 24)}
    check("window", "one", flat)
    check("window", "one", {**tensors, "grad": tensors["grad"].mT.contiguous().mT})
    gaps = {name: torch.cat([x, x.flip(-1)], -1)[..., : x.shape[-1]] for name, x in tensors.items()}
    check("window", "one", {**gaps, "k": gaps["k"].transpose(1, 2).contiguous().transpose(1, 2)})


@pytest.mark.parametrize("name", ["window", "table_by_keys", "relative"])
def test_bits_do_not_depend_on_threads(name: str) -> None:
    """One head and many keys: the shares of held tiles depend on the shape alone."""
    tensors = GRADIENTS[name].tensors(F32, 300, 700, 16, 24, (2, 1), 1)
    tensors = given(name, tensors, offset=400)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(run(name, "one", tensors, offset=400))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        for output, grad in found[0].items():
            assert grad is not None and torch.equal(grad, other[output])  # type: ignore[arg-type]


@pytest.mark.parametrize("wanted", [{"dv"}, {"dq"}])
def test_what_is_not_wanted_is_left_out(wanted: set[str]) -> None:
    """The same bits for what is wanted, nothing for the rest."""
    tensors = given("window", GRADIENTS["window"].tensors(F32, 90, 90, 16, 24))
    whole = run("window", "one", tensors)
    some = run("window", "one", tensors, frozenset(wanted))
    for output in outputs_of("window"):
        if output not in wanted:
            assert some[output] is None
            continue
        assert torch.equal(some[output], whole[output])  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [F32, BF16], ids=("float32", "bfloat16"))
def test_masked_pairs_do_not_leak(dtype: torch.dtype) -> None:
    """NaN in a key that no row sees, and in a row that sees no key of a tile."""
    tensors = GRADIENTS["window"].tensors(dtype, 70, 70, 16, 24)
    clean = given("window", tensors)
    wanted = run("window", "one", clean)
    last = {**clean, "k": clean["k"].clone(), "v": clean["v"].clone()}
    last["k"][:, :, 69] = math.nan  # seen by the last row alone
    last["v"][:, :, 69] = math.inf
    found = run("window", "one", last)
    near = 1e-5 if dtype is F32 else 2**-5  # sums of pairs are taken apart then
    for output, place in (("dq", 69), ("dk", 69), ("dv", 69)):
        got, true = found[output], wanted[output]
        assert got is not None and true is not None
        torch.testing.assert_close(got[:, :, :49], true[:, :, :49], rtol=near, atol=near)
        assert got[:, :, :place].isfinite().all() or output != "dq"
    first = {**clean, "q": clean["q"].clone(), "grad": clean["grad"].clone()}
    first["q"][:, :, 0] = math.nan  # row 0 sees key 0 alone
    first["grad"][:, :, 0] = math.inf
    found = run("window", "one", first)
    for output in ("dq", "dk", "dv"):
        got, true = found[output], wanted[output]
        assert got is not None and true is not None
        torch.testing.assert_close(got[:, :, 1:], true[:, :, 1:], rtol=near, atol=near)


def test_empty_batch_and_heads() -> None:
    for batch, heads in ((0, (4, 2)), (2, (0, 0))):
        tensors = GRADIENTS["window"].tensors(F32, 5, 7, 16, 24, heads, batch)
        found = run("window", "one", GRADIENTS["window"].shaped(tensors))
        dq = found["dq"]
        assert dq is not None and dq.shape == tensors["q"].shape


def test_one_sweep_takes_five_products() -> None:
    """The weight and its gradient are computed once for each pair."""
    (sweep,) = [k for k in schedule_of("window", "one").kernels if k.name == "sweep"]
    (loop,) = sweep.loops  # type: ignore[union-attr]
    assert len(loop.products) == 2 and len(loop.contributions) == 2 and len(loop.deposits) == 1


# --- derived: the bar of errors -------------------------------------------------------------------

DERIVED = {
    "window": """
attention window(q, k, v):
    param window: int = 40, step: int = 2
    mask: 0 <= i - j < window and (i - j) % step == 0
    score: dot(q[i], k[j]) * scale
    normalize: softmax(j: score)
""",
    "document": """
attention document(q, k, v):
    input document: int[b, j]
    mask: j <= i and document[i] == document[j]
    score: dot(q[i], k[j]) * scale
    normalize: softmax(j: score)
""",
}


SIZES = ((0, 2), (2, 0), (1, 1), (1, 127), (127, 2), (2, 129), (129, 127), (129, 129))


@pytest.mark.parametrize("name", DERIVED)
def test_float32_holds_the_bar(name: str) -> None:
    """Gradients that a spec gives, at lengths around tiles and with rows that see one key, two or
    none: at most twice the error of autograd, in the norm and in the worst row."""
    spec = read_spec(load_source(DERIVED[name]))
    run, eager = (attnc.compile(DERIVED[name], backend=b) for b in ("cpu", "eager"))
    for seed, (rows, keys) in enumerate(SIZES):
        shape = Shape(rows, keys, 16, 24, 2, 1, 3, offset=max(keys - rows, 0))
        try:
            case = draw_case(spec, shape, seed)
        except AttncError:  # documents of rows beyond the keys
            continue
        verdict = compare_gradients(spec, case, run, eager, F32, seed=seed)
        assert verdict.passed, (rows, keys, verdict.comparisons)


SINK = """
attention op(q, k, v):
    input sink: real[h]
    mask: j <= i
    score: dot(q[i], k[j]) * scale
    normalize: softmax_sink(j: score, sink)
"""


@pytest.mark.usefixtures("drawn_build")
@pytest.mark.parametrize("sink", [100.0, 60.0, -200.0])
def test_sinks_as_large_as_scores(sink: float) -> None:
    """exp(sink) is no number of float32, nor is the sum of a row's powers; their quotient is. So
    in gradients, and in those of gradients."""
    torch.manual_seed(0)
    leaves = [torch.randn(1, 2, 50, 16) * size for size in (4.5, 4.5, 1.0)]
    leaves.append(torch.full((2,), sink))
    found = []
    for backend, dtype in (("cpu", F32), ("eager", F32), ("eager", F64)):
        q, k, v, own = (leaf.to(dtype).requires_grad_() for leaf in leaves)
        out = attnc.compile(SINK, backend=backend)(q, k, v, sink=own)
        grads = torch.autograd.grad(out.square().sum(), (q, k, v, own), create_graph=True)
        whole = sum(grad.cos().sum() for grad in grads)
        second = torch.autograd.grad(whole, (q, k, v, own))
        found.append([grad.detach().double() for grad in (*grads, *second)])
    for mine, theirs, exact in zip(*found, strict=True):
        granted = max((theirs - exact).norm().item(), 2**-24 * exact.norm().item(), 1e-38)
        assert (mine - exact).norm().item() <= 2 * granted


def test_a_share_that_is_no_keys() -> None:
    """Weights whose sum is nearly 1: a row's mean is taken from a number near it all the same."""
    text = """
attention op(q, k, v):
    input keep: bool[b, j], slope: real[h], own: real[hk, j]
    mask: abs(i - j) <= 9 and not keep[j]
    score: dot(q[i], k[j]) * scale + own[j] * slope
    normalize: exp(score) / (1 + sum(j: exp(score)))
"""
    spec = read_spec(load_source(text))
    run, eager = (attnc.compile(text, backend=b) for b in ("cpu", "eager"))
    for seed in range(200001, 200005):
        case = draw_case(spec, Shape(5, 64, 8, 8, 1, 1, 3, magnitude=8, offset=59), seed)
        verdict = compare_gradients(spec, case, run, eager, F32, seed=seed)
        assert verdict.passed, (seed, verdict.comparisons)


WANTED = (("q_grad", "k_grad", "v_grad"), ("q_grad",), ("v_grad",))
# What spares work: its name in the backend, what stands for it where nothing is spared, its sign in
# the text.
SPARED = {
    "following": ("leaders", {}, "Followed<"),  # products that the kernel before found
    "repeating": ("repeats", (), "repeated["),  # sums of one array, which lies in the output
}


@pytest.mark.usefixtures("drawn_build")
@pytest.mark.parametrize("dtype", [F32, BF16], ids=("float32", "bfloat16"))
@pytest.mark.parametrize("name", DERIVED)
@pytest.mark.parametrize("spared", SPARED)
def test_sparing_work_changes_no_bit(
    spared: str, name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever gradients are wanted, for groups of heads, and rows in shares."""
    spec = read_spec(load_source(DERIVED[name]))
    derived = lower_derivative(spec, (), "one")
    rule, nothing, sign = SPARED[spared]
    sparing = CpuBackend(emit(derived.backward))
    monkeypatch.setattr(f"attnc.backends.cpu.{rule}", lambda _: nothing)
    whole = CpuBackend(emit(derived.backward))
    assert sign in sparing.source and sign not in whole.source
    sizes = ((2, 150, 300, (4, 2)), (2, 129, 127, (2, 2)), (1, 300, 310, (1, 1)), (2, 0, 5, (2, 1)))
    for batch, rows, keys, heads in sizes:
        torch.manual_seed(rows)
        shape = {"q": (batch, heads[0], rows, 16), "k": (batch, heads[1], keys, 16)}
        shape |= {"v": (batch, heads[1], keys, 24), "out_grad": (batch, heads[0], rows, 24)}
        tensors = {n: torch.randn(size).to(dtype) for n, size in shape.items()}
        if name == "document":
            documents = torch.arange(keys).div(90, rounding_mode="floor")
            tensors["document"] = documents.expand(batch, -1)
        numbers: dict[str, Any] = {"window": 40, "step": 2} if name == "window" else {}
        extras = {"offset": max(keys - rows, 0)}
        forward = {n: x for n, x in tensors.items() if n != "out_grad"}
        call = bind(derived.forward, forward, numbers, **extras)
        kept = [argument.name for argument in derived.forward.signature.outputs]
        found = CpuBackend(emit(derived.forward))(call, frozenset(kept))
        tensors |= {n: x for n, x in zip(kept, found, strict=True) if x is not None}
        call = bind(derived.backward, tensors, numbers, **extras)
        for wanted in WANTED:
            one, other = (run(call, frozenset(wanted)) for run in (sparing, whole))
            for mine, theirs in zip(one, other, strict=True):
                assert (mine is None) == (theirs is None)
                assert mine is None or torch.equal(mine, theirs)


def test_an_array_that_two_outputs_repeat_lies_in_one() -> None:
    """The gradients of `v` and of what is added to it, whose axes stand in another order."""
    text = """
attention added(q, k, v):
    input more: real[hk, b, j, e]
    score: dot(q[i], k[j]) * scale
    normalize: softmax(j: score)
    read: sum(j: weight * (v[j] + more[j]))
"""
    source = emit(lower_derivative(read_spec(load_source(text)), (), "one").backward)
    asked = re.findall(r"prepared\.(repeated\[\d\])", source)
    assert sorted(asked) == sorted(re.findall(r"(repeated\[\d\]) = ", source)) and len(asked) == 2


# --- vectors of pairs -----------------------------------------------------------------------------

RELATIVE = """
attention relative(q, k, v):
    axis near in -7 .. 60
    input r: real[h, near, d]
    mask: 0 <= i - j < 40
    score: dot(q[i], k[j] + (r[i - j] else 0)) * scale
    normalize: softmax(j: score)
"""
ADDITIVE = """
attention additive(q, k, v):
    input w: real[h, d]
    mask: j <= i
    score: sum(d: w * tanh(q[i] + k[j]))
    normalize: softmax(j: score)
"""


@pytest.mark.parametrize("text", [RELATIVE, ADDITIVE], ids=["relative", "additive"])
@pytest.mark.parametrize("dtype", [F64, F32, BF16], ids=["float64", "float32", "bfloat16"])
def test_vectors_of_pairs(text: str, dtype: torch.dtype) -> None:
    """What a pair adds to its row, and to its key, is a vector of its own."""
    generator = torch.Generator().manual_seed(3)
    shapes = {"q": (2, 4, 37, 9), "k": (2, 2, 45, 9), "v": (2, 2, 45, 5)}
    shapes |= {"r": (4, 67, 9)} if text is RELATIVE else {"w": (4, 9)}
    drawn = {n: torch.randn(s, generator=generator, dtype=F64).to(dtype) for n, s in shapes.items()}
    cotangent = torch.randn((2, 4, 37, 5), generator=generator, dtype=F64).to(dtype)

    def gradients(backend: str, of: torch.dtype) -> list[torch.Tensor]:
        leaves = {n: x.to(of).requires_grad_() for n, x in drawn.items()}
        out = attnc.compile(text, backend=backend)(**leaves, offset=3)
        found = torch.autograd.grad(out, list(leaves.values()), cotangent.to(of))
        return [grad.double() for grad in found]

    exact, rivals = gradients("eager", F64), gradients("eager", dtype)
    unit = 8 * torch.finfo(dtype).eps
    for ours, theirs, wanted in zip(gradients("cpu", dtype), rivals, exact, strict=True):
        granted = torch.maximum(2 * (theirs - wanted).norm(), unit * wanted.norm())
        assert (ours - wanted).norm() <= granted


def test_masked_vectors_of_pairs_do_not_leak() -> None:
    """NaN in a row of the table that masked pairs alone read."""
    op = attnc.compile(RELATIVE, backend="cpu")
    tensors = [torch.randn(1, 2, 33, 9, dtype=F64, requires_grad=True) for _ in range(3)]
    table = torch.randn(2, 67, 9, dtype=F64)
    found = []
    for spoiled in (table, table.clone()):
        if spoiled is not table:
            spoiled[:, :7] = math.nan  # i < j
        found.append(torch.autograd.grad(op(*tensors, r=spoiled).sin().sum(), tensors))
    for clean, other in zip(*found, strict=True):
        assert torch.equal(clean, other)


# --- tiles chosen by data -------------------------------------------------------------------------

CENTRED = """
attention centred(q, k, v):
    input centre: real[b, h, i], reach: int[h]
    mask: abs(j - stop(centre)) <= reach
    score: dot(q[i], k[j]) * scale - (j - centre) ** 2 / 100
    normalize: softmax(j: score)
"""


def test_tiles_chosen_by_data_of_several_heads() -> None:
    """Kernels that hold keys walk the rows of each query head by its own data."""
    generator = torch.Generator().manual_seed(5)
    shapes = {"q": (2, 6, 90, 8), "k": (2, 2, 130, 8), "v": (2, 2, 130, 5), "centre": (2, 6, 90)}
    drawn = {n: torch.randn(s, generator=generator, dtype=F64) for n, s in shapes.items()}
    drawn["centre"] = drawn["centre"] * 5 + torch.arange(6.0)[None, :, None] * 20
    reach = torch.tensor([3, 0, 9, 40, 1, 200])
    cotangent = torch.randn((2, 6, 90, 5), generator=generator, dtype=F64)

    def gradients(backend: str) -> list[torch.Tensor]:
        leaves = {n: x.clone().requires_grad_() for n, x in drawn.items()}
        out = attnc.compile(CENTRED, backend=backend)(**leaves, reach=reach)
        return list(torch.autograd.grad(out, list(leaves.values()), cotangent))

    for ours, wanted in zip(gradients("cpu"), gradients("eager"), strict=True):
        assert (ours - wanted).norm() <= 1e-12 * wanted.norm()


# --- row values of row values ---------------------------------------------------------------------

NORMED = """
attention normed(q, k, v):
    input q2: real[b, h, i, d], k2: real[b, hk, j, d], share: real[h]
    mask: j <= i
    first[i, j] = softmax(j: dot(q[i], k[j]) * scale)
    second[i, j] = softmax(j: dot(q2[i], k2[j]) * scale)
    normalize: first - share * second
    read: rmsnorm(e: sum(j: weight * v[j]))
"""


def held_to_eager(text: str, drawn: Mapping[str, torch.Tensor]) -> None:
    """Every gradient in float64 is that of the dense formula."""
    found = []
    for backend in ("cpu", "eager"):
        leaves = {n: x.clone().requires_grad_() for n, x in drawn.items()}
        out = attnc.compile(text, backend=backend)(**leaves)
        found.append(torch.autograd.grad(out.sin().sum(), list(leaves.values())))
    for ours, wanted in zip(*found, strict=True):
        assert (ours - wanted).norm() <= 1e-12 * wanted.norm()


def test_norm_of_a_difference_of_softmaxes() -> None:
    """The backward's sum over a row's widths depends on another one of them."""
    drawn = {n: torch.randn((1, 2, 9, 4), dtype=F64) for n in ("q", "k", "v", "q2", "k2")}
    held_to_eager(NORMED, drawn | {"share": torch.rand(2, dtype=F64)})


TWICE = """
attention twice(q, k, v):
    axis lag in 1 - len(j) .. len(i)
    input p: real[b, h, i, d], r: real[lag, d]
    score: (dot(q[i], k[j]) + dot(q[i], r[i - j])) * scale + sin(dot(p[i], r[i - j]))
    normalize: softmax(j: score)
"""


def test_a_table_is_added_to_from_two_rows() -> None:
    """A kernel has several terms for one table: each adds, none replaces the others."""
    drawn = {n: torch.randn((1, 2, 9, 4), dtype=F64) for n in ("q", "k", "v", "p")}
    held_to_eager(TWICE, drawn | {"r": torch.randn(17, 4, dtype=F64)})


@pytest.mark.usefixtures("shipped_build")
def test_no_loop_is_taken_for_one_that_traps() -> None:
    """GCC 12 dropped the masked pairs of this operator's gradients: it wrote an address of theirs
    as 0 plus an offset, and took the 0 for a null pointer."""
    op, eager = (attnc.compile(LOGARITHMS, backend=backend) for backend in ("cpu", "eager"))
    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(1, 1, 20, 8, generator=generator, dtype=F64) for _ in range(3)]
    found, wanted = (
        torch.autograd.grad(one(*leaves).sum(), leaves)
        for one, leaves in (
            (op, [x.float().requires_grad_() for x in exact]),
            (eager, [x.requires_grad_() for x in exact]),
        )
    )
    for one, other in zip(found, wanted, strict=True):
        assert (one - other).norm() < 1e-5 * other.norm()


LOGARITHMS = """
attention logarithms(q, k, v):
    mask: j <= i
    score: dot(q[i], k[j]) * scale
    share[i, j] = softmax(j: score)
    normalize: log(share)
"""
