"""Complex numbers: kernels of their parts against the complex oracle and torch's own autograd."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from attnc.cases import Shape, draw_case
from attnc.compiler import compile as compiled
from attnc.compiler import emit_module, load_module
from attnc.errors import ArgumentUnknown, DtypeError, UnsupportedError, ValueRangeError
from attnc.front import load_source, read_spec
from attnc.operator import Operator

SHAPE = Shape(5, 5, 5, 3, 2, 2, 1)
# A rotation that decays, two complex states of which one sees the other's new value, an `else`, and
# every operation that has parts.
TURNS = """
attention turns(x) for t:
    input x: real[b, t, c], turn: complex[c, n], B, C: complex[c, n], gate: complex[b, t, c]
    state H: complex[c, n] = 0, last: complex[c] = 1, seen: real[c] = 0
    pole[c, n] = exp(-abs(turn) - sqrt(turn) / (2 + sin(turn))) * cos(re(turn))
    lagged[t] = conj(gate[t - 1]) else x[t]
    update:
        H = pole * H + (pole - 1) / turn * B * x[t]
        last = where(im(gate[t]) > 0, sum(n: C * H) ** 2, last / 2) + stop(lagged[t])
        seen = seen + where(gate[t] == 0, 0, abs(gate[t]))
    emit tail[t] = last
    read: sum(n: conj(C) * H) * gate[t] + seen * last
"""
SCORES = """
attention scores(q, k, v):
    input q: complex[b, h, i, d], k: complex[b, hk, j, d]
    mask: j <= i
    score: re(sum(d: q[i] * conj(k[j]))) * scale
    normalize: softmax(j: score)
"""


@cache
def call_of(text: str) -> tuple[Any, dict[str, torch.Tensor]]:
    spec = read_spec(load_source(text.lstrip()))
    drawn = draw_case(spec, SHAPE, 3).tensors
    return spec, {name: torch.as_tensor(one) for name, one in drawn.items()}


def gradients(op: Any, tensors: dict[str, torch.Tensor], **more: Any) -> list[torch.Tensor]:
    leaves = {name: one.clone().requires_grad_() for name, one in tensors.items()}
    found = op(**leaves, **more)
    parts = [*found[:-1], *found[-1]] if type(found) is tuple else [found]
    loss = sum((one.abs() ** 2).sum() for one in parts)
    return list(torch.autograd.grad(loss, list(leaves.values())))


ROUNDS = """
pipeline rounds(q, k, v) for i:
    input turn: complex[b, h, j]
    z[j] = 0
    size[j] = abs(z[j]) + 1
    repeat r < 4:
        z[j] = z[j] * turn[j] / size[j] + k[j, 1]
        size[j] = abs(z[j]) + size[j] / 2
    attention a for i over j:
        score: dot(q[i], k[j]) * scale + re(z[j]) - size[j]
        normalize: softmax(j: score)
    read: a[i] * im(z[0])
"""


def test_rounds_from_zero() -> None:
    """An array that a repeat makes complex is so from the start, and both of its parts are of the
    round before."""
    spec, tensors = call_of(ROUNDS)
    truth = torch.as_tensor(Operator(spec, "numpy")(**tensors))
    operators = (Operator(spec, backend) for backend in ("cpu", "eager"))
    found, eager = ((op(**tensors), gradients(op, tensors)) for op in operators)
    for out, slopes in (found, eager):
        torch.testing.assert_close(out, truth)
        torch.testing.assert_close(slopes, eager[1])


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_a_recurrence(backend: str) -> None:
    spec, tensors = call_of(TURNS)
    op, eager = Operator(spec, backend), Operator(spec, "eager")
    out, last = op(**tensors, return_state=True)
    assert out.dtype is torch.complex128
    np.testing.assert_allclose(out, op.reference(**tensors), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(last, eager(**tensors, return_state=True)[1])
    found = gradients(op, tensors, return_state=True)
    for one, other in zip(found, gradients(eager, tensors, return_state=True), strict=True):
        torch.testing.assert_close(one, other)


def test_row_by_row_and_from_a_module() -> None:
    spec, tensors = call_of(TURNS)
    op = Operator(spec, "cpu")
    module = load_module(emit_module(spec), "complex_turns")
    whole, tail, last = op(**tensors, return_state=True, emit=("tail",))
    for one, emit in ((op, ("tail",)), (module, ())):
        state, rows = None, []
        for at in range(SHAPE.rows):
            row = {**tensors, "x": tensors["x"][:, at], "gate": tensors["gate"][:, at]}
            *found, state = one.step(state, **row, emit=emit)
            rows.append(found)
            if at == 1:
                state = dict(zip(("H", "last", "seen", "gate"), state, strict=True))
        for found, wanted in zip(zip(*rows, strict=True), (whole, tail), strict=False):
            torch.testing.assert_close(torch.stack(found, 1), wanted)
        torch.testing.assert_close(tuple(state.values()), last)
    torch.testing.assert_close(module.turns(**tensors), whole)
    torch.testing.assert_close(module.reference(**tensors), whole)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_a_score(backend: str) -> None:
    spec, tensors = call_of(SCORES)
    op = Operator(spec, backend)
    arrays = [tensors[name].numpy() for name in ("q", "k", "v")]
    np.testing.assert_allclose(op(*tensors.values()), op.reference(*arrays), rtol=1e-11, atol=1e-11)
    wanted = gradients(Operator(spec, "eager"), tensors)
    for one, other in zip(gradients(op, tensors), wanted, strict=True):
        torch.testing.assert_close(one, other)
    single = op(*(one.to(torch.complex64 if one.is_complex() else torch.float32)
                  for one in tensors.values()))  # fmt: skip
    assert single.dtype is torch.float32


@pytest.mark.parametrize(
    "line, what",
    [
        ("S = log(a[t]) + S", r"the logarithm of a complex number \(.*:5:13\)"),
        ("S = a[t] ** p + S", "a power of a complex number that is no written whole number"),
        ("S = prod(c: a[t]) + S", "a product of complex numbers over an axis"),
    ],
)
def test_what_has_no_parts_is_refused_with_its_place(line: str, what: str) -> None:
    text = f"""attention refused(a) for t:
    input a: complex[b, t, c], p: real[b, t]
    state S: complex[c] = 0
    update:
        {line}
    read: re(S)
"""
    with pytest.raises(UnsupportedError, match=what):
        compiled(text, backend="cpu")
    oracle = compiled(text, backend="numpy")
    assert oracle(np.ones((1, 2, 2)) + 2j, p=np.ones((1, 2))).all()


def test_explain_names_the_parts() -> None:
    spec, _ = call_of(TURNS)
    text = Operator(spec, "cpu").explain()
    assert "complex numbers are pairs of reals: turn (turn_re, turn_im), B (B_re, B_im)" in text
    assert (
        "a state holds, beside H_re, H_im, last_re, last_im, seen, the last 1 rows of gate_re"
        in text
    )


def test_wrong_arguments_are_told_by_the_names_of_the_text() -> None:
    spec, tensors = call_of(TURNS)
    for backend in ("cpu", "eager"):
        op = Operator(spec, backend)
        with pytest.raises(DtypeError, match=r"`turn`.*complex64 or complex128"):
            op(**{**tensors, "turn": tensors["turn"].real})
        with pytest.raises(ArgumentUnknown, match="`turn_re`"):
            op(**tensors, turn_re=tensors["turn"].real)
    op = Operator(spec, "cpu")
    with pytest.raises(ValueRangeError, match=r"the 4 parts \(H, last, seen, gate\)"):
        op(**tensors, state=(1, 2))
