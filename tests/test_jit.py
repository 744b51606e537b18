"""`@attnc.jit`: functions and methods whose docstring is an operator."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from surface_cases import close, inputs

import attnc
from attnc.errors import ArgumentMissing, AttncError, SpecError

Q, K, V = inputs()


@attnc.jit
def sloped(q, k, v, *, slope: "real[h]", window: int = 4):  # type: ignore
    """
    mask: 0 <= i - j < window
    score: dot(q[i], k[j]) * scale - slope * (i - j)
    normalize: softmax(j: score)
    """


class Layer(torch.nn.Module):
    """A learned slope and an operator that reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = torch.nn.Parameter(torch.linspace(0.1, 0.9, 4))

    @attnc.jit
    def attend(self, q, k, v, *, slope: "real[h]", window: int = 4):  # type: ignore
        """mask: 0 <= i - j < window
        score: dot(q[i], k[j]) * scale - slope * (i - j)
        normalize: softmax(j: score)"""

    def forward(self, q: Any, k: Any, v: Any) -> Any:
        return self.attend(q, k, v, window=3)


def expected(slope: torch.Tensor, window: int) -> torch.Tensor:
    """The operator above, dense."""
    k, v = (x.repeat_interleave(2, 1).double() for x in (K, V))
    i, j = torch.arange(9)[:, None], torch.arange(9)[None, :]
    score = Q.double() @ k.mT / 4 - slope.double()[:, None, None] * (i - j)
    score = score.masked_fill((j > i) | (i - j >= window), -torch.inf)
    return torch.softmax(score, -1) @ v


def test_a_function_is_its_docstring() -> None:
    slope = torch.ones(4)
    assert close(sloped(Q, K, V, slope=slope), expected(slope, 4))
    assert close(sloped(Q, K, V, slope=slope, window=2), expected(slope, 2))
    assert sloped.__name__ == "sloped" and sloped.operator is sloped.operator
    with pytest.raises(ArgumentMissing, match="`slope`"):
        sloped(Q, K, V)


def test_a_method_reads_what_the_module_learned() -> None:
    layer, other = Layer(), Layer()
    with torch.no_grad():
        other.slope.mul_(2)
        assert close(layer(Q, K, V), expected(layer.slope, 3))
        assert close(other(Q, K, V), expected(other.slope, 3))
        given = torch.zeros(4)
        assert close(layer.attend(Q, K, V, slope=given), expected(given, 4))
    assert layer(Q, K, V).requires_grad
    assert "slope" in layer.state_dict()


def test_torch_compile_may_come_before_the_first_call() -> None:
    @attnc.jit
    def fresh(q, k, v, *, slope: "real[h]"):  # type: ignore
        """mask: j <= i
        score: dot(q[i], k[j]) * scale - slope * (i - j)
        normalize: softmax(j: score)"""

    slope = torch.ones(4)
    traced = torch.compile(lambda q: fresh(q, K, V, slope=slope), fullgraph=True, backend="eager")
    assert close(traced(Q), expected(slope, 9))
    layer = Layer()
    assert torch.compile(layer, fullgraph=True, backend="aot_eager")(Q, K, V).requires_grad


def test_a_method_under_torch_compile() -> None:
    layer = Layer().requires_grad_(False)
    out = layer(Q, K, V)
    assert torch.equal(torch.compile(layer, fullgraph=True, backend="eager")(Q, K, V), out)


@attnc.jit
def misspelt(q, k, v, *, window: int = 4):  # type: ignore[no-untyped-def]
    """
    mask: 0 <= i - j < winow
    score: dot(q[i], k[j]) * scale
    normalize: softmax(j: score)
    """


@attnc.jit
def beside(q, k, v):  # type: ignore[no-untyped-def]
    """mask: j <= i
    score: dot(q[i], k[j]) * scal
    normalize: softmax(j: score)"""


@pytest.mark.parametrize(
    ("function", "text"), ((misspelt, "< winow"), (beside, "* scal\n")), ids=("below", "beside")
)
def test_mistakes_name_the_line_of_the_python_file(function: Any, text: str) -> None:
    lines = Path(__file__).read_text().splitlines(keepends=True)
    line = 1 + next(n for n, one in enumerate(lines) if text in one and "pytest" not in one)
    with pytest.raises(SpecError) as caught:
        function(Q, K, V)
    place = caught.value.diagnostics[0].span
    assert f"{Path(__file__).name}:{line}:" in str(place)
    column = int(str(place).rsplit(":", 1)[1])
    assert lines[line - 1][column - 1 :].startswith(text.split()[-1])


def test_what_is_no_operator_says_so() -> None:
    with pytest.raises(AttncError, match="docstring"):

        @attnc.jit
        def silent(q: Any) -> None:
            pass

    def starred(*q: Any) -> None:
        """mask: j <= i"""

    def untyped(q, k, v, *, window):  # type: ignore[no-untyped-def]
        """mask: j <= i"""

    for function, words in ((starred, "args"), (untyped, "annotation")):
        with pytest.raises(AttncError, match=words):
            attnc.jit(function)


def test_nothing_of_the_function_runs() -> None:
    @attnc.jit(backend="numpy")
    def guarded(q, k, v):  # type: ignore[no-untyped-def]
        """score: dot(q[i], k[j]) * scale
        normalize: softmax(j: score)"""
        raise RuntimeError("the body ran")

    assert guarded(Q, K, V).shape == Q.shape


class Held(torch.nn.Module):
    """A model that holds its operators; one of them holds a parameter of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = slope = torch.nn.Parameter(torch.ones(2))
        text = "attention near(q, k, v):\n    static n: int = 9\n    mask: abs(i - j) < n\n"
        self.near = attnc.compile(text, backend="eager", n=1)
        self.fading = attnc.from_flex(
            lambda score, b, h, i, j: score - slope[h] * abs(i - j), backend="eager"
        )
        self.sloped = sloped

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.near(x, x, x) + self.fading(x, x, x)
        return result


def test_a_model_that_holds_operators_is_copied() -> None:
    model, x = Held(), torch.randn(1, 2, 5, 4)
    loaded = pickle.loads(pickle.dumps(model))
    for other in (copy.deepcopy(model), loaded):
        assert torch.equal(other(x), model(x)) and other.sloped is sloped
        assert other.slope is not model.slope
        other(x).square().sum().backward()
        assert other.slope.grad.abs().sum() > 0 and model.slope.grad is None
