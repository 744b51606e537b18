"""The eager form against the oracle, its derivatives against finite differences."""

from __future__ import annotations

from textwrap import dedent

import numpy as np
import pytest
import torch
from attnc.backends.numpy_oracle import evaluate
from catalogue_calls import CALLS, read, tensors
from eager_loader import load, to_torch
from spec_builder import causal

import attnc
from attnc.front import load_source, read_spec
from attnc.spec import Spec


def text(source: str) -> Spec:
    return read_spec(load_source(dedent(source)))


def draw(rng, rows=5, keys=7, scale=1.0):
    shapes = {"q": (2, 4, rows, 3), "k": (2, 2, keys, 3), "v": (2, 2, keys, 4)}
    return {name: rng.normal(size=shape) * scale for name, shape in shapes.items()}


def close(a, b, tolerance=1e-12, least=0.0):
    """Equal up to `tolerance` of the largest entry (or of `least`), infinities and NaN in place."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape and a.dtype.kind == b.dtype.kind
    if a.dtype.kind in "bi":
        assert np.array_equal(a, b)
        return
    finite = np.isfinite(b)
    assert np.array_equal(np.isnan(a), np.isnan(b))
    assert np.array_equal(a[~finite & ~np.isnan(b)], b[~finite & ~np.isnan(b)])
    size = max(np.abs(b[finite]).max(initial=1e-300), least)
    assert np.abs(a[finite] - b[finite]).max(initial=0.0) <= tolerance * size


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e-150])
@pytest.mark.parametrize("rows, keys", [(5, 7), (7, 5), (0, 3), (3, 0), (1, 1)])
def test_agrees_with_the_oracle(scale, rows, keys):
    spec = causal()
    case = draw(np.random.default_rng(1), rows, keys, scale)
    for extras in (
        {},
        {"offset": -2},
        {"offset": [3, -1], "key_length": [2, 0] if keys > 1 else [0, 0]},
    ):
        truth = evaluate(spec, case, emit=("lse",), **extras)
        found = load(spec)(**to_torch(case), emit=("lse",), **extras)
        for name, value in truth.items():
            close(found[name], value)


def test_a_source_without_keys_beside_low_scores_in_float32():
    spec = text("""
        attention both(q, k, v) for i over j | l in j:
            mask[l]: l < 0
            score[j]: dot(q[i], k[j]) - 1000
            score[l]: dot(q[i], k[l])
            normalize: softmax(j | l: score)
            read: sum(j: weight * v[j]) + sum(l: weight * v[l])
    """)
    case = draw(np.random.default_rng(1))
    narrow = {name: x.float() for name, x in to_torch(case).items()}
    close(load(spec)(**narrow)["out"], evaluate(spec, case)["out"], 1e-4)


def test_derivatives_of_every_order_and_direction():
    spec = causal()
    eager = load(spec)
    case = to_torch(draw(np.random.default_rng(2), 2, 3), grad=True)

    def out(q, k, v):
        return eager(q=q, k=k, v=v)["out"]

    assert torch.autograd.gradcheck(out, tuple(case.values()), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(out, tuple(case.values()), fast_mode=True)


def test_masked_keys_do_not_matter():
    """NaN and infinities in keys and values that nobody sees: nothing comes through, forward or
    back, and a NaN that somebody sees stays in its rows."""
    spec = causal()
    rng = np.random.default_rng(3)
    clean = draw(rng, 4, 6)
    dirty = {name: array.copy() for name, array in clean.items()}
    dirty["k"][:, :, 4:], dirty["v"][:, :, 4:] = np.nan, np.inf
    close(evaluate(spec, dirty)["out"], evaluate(spec, clean)["out"], 1e-14)
    gradients = []
    for case in (clean, dirty):
        given = to_torch(case, grad=True)
        out = load(spec)(**given)["out"]
        gradients.append((out, *torch.autograd.grad(out.square().sum(), list(given.values()))))
    for a, b in zip(*gradients, strict=True):
        close(b.detach(), a.detach(), 1e-13)
    dirty["k"][0, 0, 2, 1] = np.nan
    truth = evaluate(spec, dirty)["out"]
    assert np.isnan(truth[0, :2, 2:]).all() and np.isfinite(truth[0, :2, :2]).all()
    assert np.isfinite(truth[0, 2:]).all() and np.isfinite(truth[1]).all()
    close(load(spec)(**to_torch(dirty))["out"], truth)


def test_empty_rows_are_zero_with_zero_gradients():
    spec = causal()
    given = to_torch(draw(np.random.default_rng(4), 4, 6), grad=True)
    found = load(spec)(**given, offset=-2, emit=("lse",))
    assert (found["out"][:, :, :2] == 0).all() and (found["lse"][:, :, :2] == -np.inf).all()
    gradients = torch.autograd.grad(found["out"].square().sum(), list(given.values()))
    assert all(torch.isfinite(each).all() for each in gradients)
    assert (gradients[0][:, :, :2] == 0).all()
    truth = evaluate(spec, {n: x.detach().numpy() for n, x in given.items()}, offset=-2)
    assert (truth["out"][:, :, :2] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision_is_what_one_would_write(dtype):
    """The yardstick: products in the dtype, softmax in float32."""
    spec = causal()
    case = draw(np.random.default_rng(5), 6, 6)
    given = to_torch(case, dtype)
    found = load(spec)(**given)["out"]
    assert found.dtype == dtype
    k, v = (given[name].repeat_interleave(2, 1) for name in ("k", "v"))
    score = (given["q"] @ k.mT) * 3**-0.5
    score = score.masked_fill(torch.ones(6, 6).triu(1).bool(), -np.inf)
    plain = torch.softmax(score, -1, dtype=torch.float32).to(dtype) @ v
    truth = evaluate(spec, {name: x.double().numpy() for name, x in given.items()})["out"]
    own, yard = (x.double().numpy() - truth for x in (found, plain))
    assert np.linalg.norm(own) < 1.2 * np.linalg.norm(yard) + 1e-12


def test_a_choice_of_two_numbers_is_as_wide_as_the_call():
    """0.1 and 0.3 in float64, not as float32 rounds them; nested, in sums and beside integers."""
    rng = np.random.default_rng(6)
    for choice in (
        "where(i > j, 0.1, 0.3)",
        "where(i > j, where(i > 3, 0.1, 0.7), 0.3) + 0.2",
        "exp(where(i > j, 0.1, 0.3)) * where(i > 1, 1, 0.3)",
        "max(where(i > j, 0.1, 0.3), 0.2)",
    ):
        spec = text(f"attention f(q, k, v):\n    normalize: {choice}\n")
        case = draw(rng)
        close(load(spec)(**to_torch(case))["out"], evaluate(spec, case)["out"], 1e-14)
        found = load(spec)(**to_torch(case, torch.float32))["out"]
        assert found.dtype == torch.float32


# --- The catalogue -------------------------------------------------------------------------------

# Their gradients are not those of their values: `stop` is in their text.
STOPPED = ("transformer_xl", "lte_window")


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_every_operator_agrees_with_the_oracle(name, scale):
    call, spec = CALLS[name], read(name)
    given = tensors(spec, call, scale=scale)
    emits = [each.array.name for each in (*spec.root.emits, *spec.root.offered)]
    emits += [state.array.name for state in spec.root.states]
    truth = evaluate(spec, given, call.numbers, emit=emits, **call.keywords)
    found = load(spec)(**to_torch(given), **call.numbers, **call.keywords, emit=emits)
    assert set(found) == set(truth)
    for each, value in truth.items():
        close(found[each], value, least=1.0 if each == "entropy" else 0.0)


@pytest.mark.parametrize("name", [name for name in CALLS if name not in STOPPED])
def test_gradients_are_finite_differences_of_the_oracle(name):
    call, spec = CALLS[name], read(name)
    given = tensors(spec, call, seed=3)
    rng = np.random.default_rng(5)
    real = [each for each, array in given.items() if array.dtype.kind in "fc"]
    along = {each: rng.normal(size=given[each].shape) for each in real}
    leaves = to_torch(given, grad=True)
    out = load(spec)(**leaves, **call.numbers, **call.keywords)["out"]
    weight = rng.normal(size=out.shape)
    found = torch.autograd.grad(
        (out * torch.from_numpy(weight)).sum(), [leaves[n] for n in real], allow_unused=True
    )
    slope = sum(
        (gradient.conj() * torch.from_numpy(along[each])).real.sum().item()
        for each, gradient in zip(real, found, strict=True)
        if gradient is not None
    )

    def moved(by: float) -> float:
        here = {n: x + by * along[n] if n in along else x for n, x in given.items()}
        return float((evaluate(spec, here, call.numbers, **call.keywords)["out"] * weight).sum())

    steps = (1e-4, 1e-5, 1e-6)
    errors = [abs((moved(h) - moved(-h)) / (2 * h) - slope) / max(abs(slope), 1e-2) for h in steps]
    assert min(errors) < 1e-7


@pytest.mark.parametrize("name", CALLS)
def test_forward_mode_agrees_with_backward(name):
    call, spec = CALLS[name], read(name)
    given = to_torch(tensors(spec, call, seed=4))
    rng = np.random.default_rng(6)
    real = [n for n, x in given.items() if x.is_floating_point()]
    rest = {n: x for n, x in given.items() if n not in real}
    eager = load(spec)

    def out(*values: torch.Tensor) -> torch.Tensor:
        named = dict(zip(real, values, strict=True))
        return eager(**named, **rest, **call.numbers, **call.keywords)["out"]

    point = tuple(given[n] for n in real)
    along = tuple(torch.from_numpy(rng.normal(size=x.shape)) for x in point)
    value, tangent = torch.func.jvp(out, point, along)
    weight = torch.from_numpy(rng.normal(size=value.shape))
    _, pull = torch.func.vjp(out, *point)
    backward = sum((g * a).sum() for g, a in zip(pull(weight), along, strict=True))
    assert abs((tangent * weight).sum() - backward) <= 1e-10 * max(abs(backward), 1.0)


NORMED = """
    attention normed(q, k, v):
        input open: int[b, j] = 1
        mask: j <= i and open[j] != 0
        score: dot(q[i], k[j]) * scale
        z[i, j] = (score - mean(j: score)) / sqrt(variance(j: score) + 0.1)
        normalize: by_sum(j: softplus(z))
"""


def test_tangents_of_masked_points_do_not_matter():
    """Outside the mask z is -inf and its tangent NaN. (An optional input is what `j` is read on
    first: it may be left out.)"""
    op = attnc.compile(dedent(NORMED), backend="eager")
    case = to_torch(draw(np.random.default_rng(2)))
    tangent = torch.func.jvp(lambda q: op(**{**case, "q": q}), (case["q"],), (case["q"].cos(),))
    step = 1e-6 * case["q"].cos()
    ahead, behind = (op(**{**case, "q": case["q"] + s}) for s in (step, -step))
    close(tangent[1], (ahead - behind) / 2e-6, 1e-7)


@pytest.mark.parametrize("name", ["sparsemax", "titans_linear", "sinkhorn", "mixture_of_heads"])
def test_second_derivatives(name):
    call, spec = CALLS[name], read(name)
    given = to_torch(tensors(spec, call, seed=5), grad=True)
    small = {n: x for n, x in given.items() if x.requires_grad and n in ("q", "k", "theta")}
    eager = load(spec)

    def out(*values: torch.Tensor) -> torch.Tensor:
        named = {**given, **dict(zip(small, values, strict=True))}
        return eager(**named, **call.numbers)["out"]

    assert torch.autograd.gradgradcheck(out, tuple(small.values()), fast_mode=True)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_stays_near(name, dtype):
    call, spec = CALLS[name], read(name)
    given = to_torch(tensors(spec, call, seed=6), dtype)
    found = load(spec)(**given, **call.numbers, **call.keywords)["out"]
    exact = {n: (x.double() if x.is_floating_point() else x).numpy() for n, x in given.items()}
    truth = evaluate(spec, exact, call.numbers, **call.keywords)["out"]
    assert found.dtype == dtype
    error = np.linalg.norm(found.double().numpy() - truth) / np.linalg.norm(truth)
    assert error < 100 * torch.finfo(dtype).eps


def test_stop_and_the_branch_not_taken():
    spec = text(
        """
        pipeline f(v) for i:
            input v: real[b, h, i, e]
            read: where(v[i] > 0, log(v[i]) / sqrt(v[i]), stop(v[i]) * v[i] + 1 / (v[i] + 1) * 0)
        """
    )
    v = torch.tensor([4.0, 0.0, -1.0, -2.0], dtype=torch.float64).reshape(1, 1, 4, 1)
    v.requires_grad_()
    out = load(spec)(v=v)["out"]
    (gradient,) = torch.autograd.grad(out.sum(), v)
    x = 4.0
    assert abs(gradient[0, 0, 0, 0] - (1 / x - np.log(x) / (2 * x)) / x**0.5) < 1e-14
    assert gradient[0, 0, 1, 0] == 0 and gradient[0, 0, 3, 0] == -2


def test_random_numbers_are_the_oracles():
    spec = text(
        """
        attention f(q, k, v):
            score: dot(q[i], k[j])
            normalize: dropout(softmax(j: score), 0.4)
        """
    )
    given = draw(np.random.default_rng(8), 6, 9)
    for extras in ({"seed": 2**40 + 3}, {"offset": [3, -7], "key_offset": -5, "seed": 1}):
        close(
            load(spec)(**to_torch(given), **extras)["out"], evaluate(spec, given, **extras)["out"]
        )


def test_nothing_of_a_text_becomes_code():
    """Names that Python or the printed function use themselves."""
    spec = text(
        """
        attention eager(q, k, v):
            input total: real[h, lambda_], torch: real[h], where_: real[h], results: real[h]
            param narrow: real = 2.0
            score: dot(q[i], k[j]) * narrow + torch + where_ + results + sum(lambda_: total)
            normalize: softmax(j: score)
        """
    )
    given = draw(np.random.default_rng(9), 3, 3)
    rng = np.random.default_rng(10)
    given |= {name: rng.normal(size=4) for name in ("torch", "where_", "results")}
    given["total"] = rng.normal(size=(4, 2))
    close(
        load(spec)(**to_torch(given), narrow=1.5)["out"],
        evaluate(spec, given, {"narrow": 1.5})["out"],
    )


def test_softplus_keeps_its_digits_below_zero():
    text = "pipeline plus(x) for i:\n    input x: real[b, i]\n    read: log(1 + exp(x[i]))"
    op = attnc.compile(text, backend="eager")
    x = torch.tensor([[-500.0, -60.0, -20.0, 0.0, 50.0]], dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(op(x), torch.logaddexp(x, 0 * x), rtol=1e-15, atol=0.0)
    (slope,) = torch.autograd.grad(op(x).sum(), x, create_graph=True)
    torch.testing.assert_close(slope, torch.sigmoid(x), rtol=1e-15, atol=0.0)
    (bend,) = torch.autograd.grad(slope.sum(), x)
    torch.testing.assert_close(bend, torch.sigmoid(x) * torch.sigmoid(-x), rtol=1e-14, atol=0.0)


def test_powers_of_each_entry():
    spec = text(
        """
        pipeline f(v, p) for i:
            input v, p: real[b, h, i, e]
            read: v[i] ** p[i] + (v[i] ** (i - 2) else 0)
        """
    )
    rng = np.random.default_rng(11)
    v = rng.normal(size=(1, 1, 5, 3))
    p = np.where(v < 0, rng.integers(-2, 4, v.shape), rng.normal(size=v.shape))
    close(load(spec)(**to_torch({"v": v, "p": p}))["out"], evaluate(spec, {"v": v, "p": p})["out"])


def test_whole_powers_are_exact_for_floors_look_at_them():
    text = """
attention levels(q, k, v):
    axis level < 7
    depth[i, j] = sum(level: where(floor(i / 2 ** level) == floor(j / 2 ** level), 1, 0))
    score: dot(q[i], k[j]) * 0.7 ** depth - 3 ** (depth - 7)
    normalize: softmax(j: score)
"""
    operator = attnc.compile(text, backend="eager")
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 70, 4, generator=generator).double() for _ in range(3))
    wanted = torch.as_tensor(operator.reference(q, k, v))
    torch.testing.assert_close(operator(q, k, v), wanted, rtol=1e-13, atol=1e-13)


def test_long_and_deep_texts():
    terms = " + ".join(f"dot(q[i], k[j]) * {n}e-6" for n in range(400))
    nested = "tanh(" * 90 + "dot(q[i], k[j])" + ")" * 90
    for score in (terms, nested):
        spec = text(
            f"attention f(q, k, v):\n    score: {score}\n    normalize: softmax(j: score)\n"
        )
        given = draw(np.random.default_rng(12), 2, 3)
        close(load(spec)(**to_torch(given))["out"], evaluate(spec, given)["out"])


@pytest.mark.parametrize("batch", [0, 2])
def test_key_lengths_and_empty_batches(batch):
    spec = causal()
    given = {name: x[:batch] for name, x in draw(np.random.default_rng(13)).items()}
    offsets = torch.arange(batch)
    for extras in ({"key_length": 3}, {"offset": offsets, "key_length": torch.full((batch,), 2)}):
        truth = evaluate(spec, given, **{name: np.asarray(x) for name, x in extras.items()})
        close(load(spec)(**to_torch(given), **extras)["out"], truth["out"])
