"""Derivatives as torch asks for them: autograd, torch.func, torch.compile, checkpoints, autocast.

Values are held to the dense formula in float64 (backend="eager"), whose derivatives are held to
finite differences elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from test_cli import NO_GRADIENT
from test_module import alone as run_alone
from torch.utils.checkpoint import checkpoint

import attnc
from attnc.compiler import emit_module
from attnc.errors import UnsupportedError
from attnc.front import load_source, read_spec

CAUSAL = """\
attention causal(q, k, v):
    mask: j <= i
    score: dot(q[i], k[j]) * scale
    normalize: softmax(j: score)
"""
BIASED = """\
attention biased(q, k, v):
    input slope: real[h] = 0.25, bias: real[h, i, j] = 0, kind: int[b, j] = 0
    param window: int = 4
    mask: 0 <= i - j < window and kind[j] == 0
    score: dot(q[i], k[j]) * scale - slope * (i - j) + bias[i, j]
    normalize: softmax(j: score)
"""
Tensors = tuple[torch.Tensor, ...]


@cache
def operators(text: str) -> tuple[Any, Any]:
    """The operator on kernels, and its dense formula."""
    return attnc.compile(text), attnc.compile(text, backend="eager")


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def inputs(length: int = 5, dtype: torch.dtype = torch.float64) -> Tensors:
    """q, k, v that want gradients: two batches, four heads on two."""
    shapes = ((2, 4, length, 8), (2, 2, length, 8), (2, 2, length, 8))
    return tuple(draw(*s, seed=n, dtype=dtype).requires_grad_() for n, s in enumerate(shapes))


Q, K, V = inputs()


def same(ask: Callable[[Any], Tensors], text: str = CAUSAL) -> None:
    """Kernels and dense formula give the same to float64."""
    for ours, truth in zip(*(ask(op) for op in operators(text)), strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-9, atol=1e-11)


def loss(op: Any, *tensors: Any, **given: Any) -> torch.Tensor:
    """A number on which every entry of the result has an influence of its own."""
    out = op(*tensors, **given)
    return (out.sin() * torch.arange(out.shape[-1]).to(out)).sum()


def with_emit(op: Any, use: Callable[[Any, Any], torch.Tensor], *to: torch.Tensor) -> Tensors:
    return torch.autograd.grad(use(*op(Q, K, V, emit=("lse",))), to)


VALUES: dict[str, Callable[[Any], Tensors]] = {
    "all": lambda op: torch.autograd.grad(loss(op, Q, K, V), (Q, K, V)),
    "queries alone": lambda op: torch.autograd.grad(loss(op, Q, K.detach(), V.detach()), (Q,)),
    "values alone": lambda op: torch.autograd.grad(loss(op, Q.detach(), K.detach(), V), (V,)),
    "lse": lambda op: with_emit(op, lambda out, lse: out.sin().sum() + lse.cos().sum(), Q, K, V),
    "lse alone": lambda op: with_emit(op, lambda out, lse: lse.cos().sum(), Q, K),
    "lse unused": lambda op: with_emit(op, lambda out, lse: out.sin().sum(), Q, K, V),
    "offset": lambda op: torch.autograd.grad(loss(op, Q[:, :, 3:], K, V, offset=3), (Q, K, V)),
    "offsets": lambda op: torch.autograd.grad(
        loss(op, Q, K, V, offset=torch.tensor([0, 2])), (Q, K, V)
    ),
    "key length": lambda op: torch.autograd.grad(loss(op, Q, K, V, key_length=3), (Q, K, V)),
    "strided": lambda op: torch.autograd.grad(
        loss(op, Q.transpose(1, 2).contiguous().transpose(1, 2), K.flip(2), V[..., ::2]), (Q, K, V)
    ),
    "expanded": lambda op: torch.autograd.grad(
        op(Q, K[:, :1].expand(2, 2, 5, 8), V).sum(), (Q, K, V)
    ),
    "same tensor": lambda op: torch.autograd.grad(loss(op, K, K, K), (K,)),
    "func.grad": lambda op: torch.func.grad(lambda *x: loss(op, *x), argnums=(0, 1, 2))(
        *(x.detach() for x in (Q, K, V))
    ),
    "vjp": lambda op: torch.func.vjp(lambda q: op(q, K, V).sin(), Q.detach())[1](
        torch.ones_like(Q)
    ),
    "jvp": lambda op: torch.func.jvp(
        lambda q, v: op(q, K.detach(), v), (Q.detach(), V.detach()), (draw(2, 4, 5, 8), V.detach())
    ),
    "jvp of queries": lambda op: torch.func.jvp(
        lambda q: op(q, K.detach(), V.detach(), emit=("lse",)), (Q.detach(),), (draw(2, 4, 5, 8),)
    )[1],
    "jvp of values": lambda op: torch.func.jvp(
        lambda v: op(Q.detach(), K.detach(), v, emit=("lse",)), (V.detach(),), (V.detach(),)
    )[1],
    "jvp of grad": lambda op: torch.func.jvp(
        torch.func.grad(lambda *x: loss(op, *x), argnums=(0, 1, 2)),
        tuple(x.detach() for x in (Q, K, V)),
        (draw(2, 4, 5, 8), K.detach().sin(), V.detach()),
    )[1],
    "dual numbers": lambda op: (dual(lambda q: op(q, K.detach(), V.detach()), Q.detach()),),
    "gradient around jvp": lambda op: torch.autograd.grad(
        torch.func.jvp(lambda q: op(q, K, V).sin(), (Q,), (Q.detach(),))[0].sum(), (Q, K, V)
    ),
    "vmap of jvp": lambda op: (
        torch.func.vmap(lambda t: torch.func.jvp(lambda q: op(q, K, V), (Q.detach(),), (t,))[1])(
            torch.stack([Q.detach(), V.repeat(1, 2, 1, 1)])
        )
        if op.backend != "eager"
        else torch.stack(
            [
                torch.func.jvp(lambda q: op(q, K, V), (Q.detach(),), (t.detach(),))[1]
                for t in (Q, V.repeat(1, 2, 1, 1))
            ]
        ),
    ),
    "vmap": lambda op: (
        torch.stack([op(Q * s, K, V) for s in (1, 2)])
        if hasattr(op, "spec") and op.backend == "eager"
        else torch.func.vmap(lambda q: op(q, K, V))(torch.stack([Q, 2 * Q])),
    ),
    "many cotangents": lambda op: of_many(op(Q, K, V), op.backend != "eager"),
    "gradient penalty": lambda op: penalty(op, lambda out: out.sin().sum()),
    "gradient of jvp": lambda op: torch.func.grad(
        lambda q, k, v, t: moved(lambda *x: op(*x, emit=("lse",)), (q, k, v), t), (0, 1, 2, 3)
    )(*(x.detach() for x in (Q, K, V, Q.cos()))),
    "gradient of jvp of values": lambda op: torch.autograd.grad(
        torch.func.jvp(lambda v: op(Q, K, v), (V,), (V.cos(),))[1].sin().sum(), (Q, K, V)
    ),
    "hessian, reverse over forward": lambda op: (
        torch.func.jacrev(
            torch.func.jacfwd(lambda q: op(q, K[:1, :1, :3], V[:1, :1, :3]).sin().sum())
        )(Q.detach()[:1, :1, :2]),
    ),
    "shards": lambda op: torch.autograd.grad(statistics(*by_shards(op, Q, K, V)), (Q, K, V)),
    "shards, second order": lambda op: penalty(lambda *x: by_shards(op, *x), statistics_of),
    "jvp by shards": lambda op: torch.func.jvp(
        lambda *x: by_shards(op, *x),
        tuple(x.detach() for x in (Q, K, V)),
        (draw(2, 4, 5, 8), K.detach().sin(), V.detach()),
    )[1],
    "jvp of grad by shards": lambda op: torch.func.jvp(
        torch.func.grad(lambda *x: statistics(*by_shards(op, *x)), (0, 1, 2)),
        tuple(x.detach() for x in (Q, K, V)),
        (draw(2, 4, 5, 8), K.detach().sin(), V.detach()),
    )[1],
}


def of_many(out: torch.Tensor, at_once: bool) -> Tensors:
    """Gradients for two cotangents, by the vmap inside autograd or one by one."""
    many = torch.stack([out.detach().cos(), out.detach()])
    if at_once:
        return torch.autograd.grad(out, (Q, K, V), many, is_grads_batched=True)
    each = [torch.autograd.grad(out, (Q, K, V), one, retain_graph=True) for one in many]
    return tuple(map(torch.stack, zip(*each, strict=True)))


def dual(call: Callable[[Any], Any], x: torch.Tensor) -> torch.Tensor:
    """The tangent of a call along its own argument."""
    with torch.autograd.forward_ad.dual_level():
        out = call(torch.autograd.forward_ad.make_dual(x, x.cos()))
        return torch.autograd.forward_ad.unpack_dual(out).tangent


def by_shards(op: Any, q: Any, k: Any, v: Any, cuts: Any = ((0, 2), (2, 3), (3, 5))) -> Any:
    """The result and lse from shards of the keys; of the dense formula, at once."""
    if op.backend == "eager":
        return op(q, k, v, emit=("lse",))
    parts = [op.partial(q, k[:, :, a:b], v[:, :, a:b], key_offset=a) for a, b in cuts]
    return op.finish(op.merge(*parts), emit=("lse",))


def statistics(out: torch.Tensor, lse: torch.Tensor) -> torch.Tensor:
    return out.sin().sum() + lse.cos().sum()


def statistics_of(outputs: Tensors) -> torch.Tensor:
    return statistics(*outputs)


def moved(call: Callable[..., Any], at: Tensors, t: torch.Tensor) -> torch.Tensor:
    """A number of the outputs and of their tangents, where every input moves."""
    along = (t, *(x.detach().cos() for x in at[1:]))
    (out, lse), (out_dot, lse_dot) = torch.func.jvp(call, at, along)
    return (out.sin() * out_dot.cos()).sum() + (lse * lse_dot).sum()


def penalty(op: Any, use: Callable[[Any], torch.Tensor]) -> Tensors:
    """Second order: the gradients of a function of gradients."""
    first = torch.autograd.grad(use(op(Q, K, V)), (Q, K, V), create_graph=True)
    total = torch.stack([(one * one.cos()).sum() for one in first]).sum()
    return torch.autograd.grad(total, (Q, K, V))


def test_shards_by_finite_differences() -> None:
    """A shard that no row sees is among them; what sums are relative to has no gradient."""
    op = operators(CAUSAL)[0]
    q, k, v = (x[:1, :2, :4, :3].detach().requires_grad_() for x in inputs())
    k, v = (torch.cat([x, x], 2).detach().requires_grad_() for x in (k[:, :1], v[:, :1]))
    cuts = ((0, 3), (3, 5), (5, 8))
    assert torch.autograd.gradcheck(lambda *x: by_shards(op, *x, cuts=cuts), (q, k, v))
    carried = op.partial(q, k, v)
    assert [x.requires_grad for x in carried] == [True, True, False]


@pytest.mark.parametrize("name", VALUES)
def test_derivatives_are_those_of_the_dense_formula(name: str) -> None:
    same(VALUES[name])


def test_every_real_input_has_a_gradient() -> None:
    slope = draw(4).requires_grad_()
    bias = draw(4, 5, 5).requires_grad_()
    kind = torch.tensor([[0, 0, 1, 0, 0], [0, 0, 0, 0, 1]])
    given = {"slope": slope, "bias": bias, "kind": kind}
    wanted = (Q, K, V, slope, bias)
    same(lambda op: torch.autograd.grad(loss(op, Q, K, V, **given), wanted), BIASED)
    alone = {"slope": slope, "bias": bias.detach()}
    same(lambda op: torch.autograd.grad(loss(op, Q, K, V, **alone), (slope,)), BIASED)


def test_gradients_have_the_dtypes_of_their_inputs() -> None:
    tensors = inputs(dtype=torch.bfloat16)
    slope = torch.ones(4, requires_grad=True)
    operators(BIASED)[0](*tensors, slope=slope).sum().backward()
    assert all(x.grad is not None and x.grad.dtype is torch.bfloat16 for x in tensors)
    assert slope.grad is not None and slope.grad.dtype is torch.float32


def test_an_output_that_is_not_used_costs_no_gradient() -> None:
    q = Q.detach().clone().requires_grad_()
    out, lse = operators(CAUSAL)[0](q, K.detach(), V.detach(), emit=("lse",))
    (out.detach().sum() + q.sum()).backward()
    assert lse.requires_grad and torch.equal(q.grad, torch.ones_like(q))


@pytest.mark.parametrize("reentrant", (False, True))
def test_checkpoint(reentrant: bool) -> None:
    def ask(op: Any) -> Tensors:
        tensors = [x.detach().clone().requires_grad_() for x in (Q, K, V)]
        kept = checkpoint(lambda *x: op(*x).sin(), *tensors, use_reentrant=reentrant)  # type: ignore[no-untyped-call]
        kept.sum().backward()
        return tuple(x.grad for x in tensors)

    same(ask)


@pytest.mark.parametrize("dynamic", (False, True))
def test_compiled_forward_and_backward(dynamic: bool) -> None:
    op, eager = operators(CAUSAL)
    traced = torch.compile(
        lambda *x: loss(op, *x), fullgraph=True, backend="aot_eager", dynamic=dynamic
    )
    for length in (5, 7, 9) if dynamic else (5,):
        tensors = inputs(length)
        ours = torch.autograd.grad(traced(*tensors), tensors)
        truth = torch.autograd.grad(loss(eager, *tensors), tensors)
        for one, other in zip(ours, truth, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
    torch._dynamo.reset()


def test_autocast_lowers_queries_keys_and_values() -> None:
    tensors = inputs(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = operators(CAUSAL)[0](*tensors)
    out.sum().backward()
    assert out.dtype is torch.bfloat16
    assert all(x.grad is not None and x.grad.dtype is torch.float32 for x in tensors)


def test_opcheck() -> None:
    family = operators(CAUSAL)[0]._run.family
    whole = ("test_schema", "test_faketensor", "test_autograd_registration")
    flat = (None, 0, None, 0, None, None, 0)
    torch.library.opcheck(family.operator("").handle, (Q, K, V, *flat, 3))
    training, backward = family.operator("training"), family.operator("backward")
    slots = training.signature.outputs
    kept = sum(1 << place for place, slot in enumerate(slots) if slot.name != "lse")
    outputs = training.handle(Q.detach(), K.detach(), V.detach(), *flat, kept)
    made = dict(zip((slot.name for slot in slots), outputs, strict=True))
    values = made | {"q": Q, "k": K, "v": V, "out_grad": torch.ones_like(Q)}
    for lse_grad in (None, torch.ones_like(Q[..., 0])):
        own = values | {"lse_grad": lse_grad}
        given = [own[slot.name] for slot in backward.signature.inputs]
        torch.library.opcheck(backward.handle, (*given, *flat, 5), test_utils=whole)


def test_what_is_not_derived_is_refused_by_name() -> None:
    op = operators(CAUSAL)[0]

    def change(q: torch.Tensor) -> torch.Tensor:
        return torch.func.jvp(lambda q: op(q, K, V), (q,), (Q.detach(),))[1]

    with pytest.raises(UnsupportedError, match="jvp of tangent"):
        torch.func.jvp(change, (Q.detach(),), (Q.detach(),))


def test_gradients_are_the_same_bits_for_any_thread_count() -> None:
    op = operators(CAUSAL)[0]
    tensors, before = inputs(37), torch.get_num_threads()
    runs = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        runs.append(torch.autograd.grad(loss(op, *tensors), tensors))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


TRAINS = """
import torch

torch.manual_seed(0)
q, k, v = (torch.randn(1, 2, 6, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
ours = torch.autograd.grad(causal(q, k, v).sin().sum(), (q, k, v))
truth = torch.autograd.grad(reference(q, k, v).sin().sum(), (q, k, v))
assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(ours, truth))
halves = [
    operator.partial(q, k[:, :, s], v[:, :, s], key_offset=s.start)
    for s in (slice(0, 2), slice(2, 6))
]
whole = operator.finish(operator.merge(*(tuple(x.detach() for x in half) for half in halves)))
assert torch.allclose(whole, causal(q, k, v), atol=1e-10)
assert "attnc" not in __import__("sys").modules
"""


def test_a_module_trains_without_attnc(tmp_path: Path) -> None:
    path = tmp_path / "causal.py"
    path.write_text(emit_module(read_spec(load_source(CAUSAL))) + TRAINS)
    done = run_alone(path, tmp_path / "cache", "imported")
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("name", ("f", "f_training", "merge", "second"))
def test_kernel_sets_of_a_written_module_keep_their_names_apart(name: str) -> None:
    text = BIASED.replace("biased", name)
    assert f"kernel_{name}" in emit_module(read_spec(load_source(text)))


def test_an_operator_that_solves_is_written() -> None:
    """What it has no form of is refused: partial results."""
    text = CAUSAL.replace("softmax", "sparsemax")
    assert "kernel_causal" in emit_module(read_spec(load_source(text)))


def test_explain_tells_of_derivatives() -> None:
    said = operators(BIASED)[0].explain()
    assert "backward: gradients of slope, bias, q, k, v" in said
    assert "Read from the forward: out, saved_row, saved_power." in said
    assert "computed again" in said and "biased_grad_rows holds i" in said
    assert "2 of them found by biased_grad_row_sums" in said
    assert "jvp: tangents of lse, out from those of bias, k, q, slope, v" in said


def test_explain_tells_why_there_is_no_gradient() -> None:
    said = attnc.compile(NO_GRADIENT).explain()
    assert "backward: refused: " in said and "a vector for each pair" in said


def test_offsets_in_tensors_are_read_at_every_call() -> None:
    operator, _ = operators(CAUSAL)
    q = draw(2, 4, 1, 8).requires_grad_()
    for offset in (1, 3):
        given = operator(q, K, V, offset=torch.tensor([offset, offset]))
        assert torch.equal(given, operator(q, K, V, offset=offset))
