"""The operator in torch's world: torch.compile, torch.export, transforms, scripts without attnc."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from surface_cases import TEXT, close, compiled, inputs
from torch._dynamo.utils import counters

import attnc
from attnc.compiler import emit_module
from attnc.errors import AttncError, CallError, UnsupportedError
from attnc.front import load_source, read_spec

Q, K, V = inputs()
DOC = torch.zeros(2, 64, dtype=torch.int64)
OP = compiled()
LENGTHS = (1, 2, 3, 4, 5, 7, 8, 9, 11, 15, 16, 17, 21, 24, 31, 32, 33, 47, 63, 64)


class Model(torch.nn.Module):
    """A module with a learned slope that calls the operator."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = torch.nn.Parameter(torch.linspace(0.1, 0.4, 4), requires_grad=False)

    def forward(
        self, q: Any, k: Any, v: Any, doc: Any, window: int = 8, offset: int = 0
    ) -> torch.Tensor:
        out = OP(q, k, v, doc=doc, window=window, offset=offset, slope=self.slope)
        assert isinstance(out, torch.Tensor)
        return out * 2


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """No traced graph of another test."""
    OP(Q, K, V, doc=DOC)
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The C++ builds asked for while a test runs."""
    asked: list[str] = []
    module = OP.module
    build = module.build_library

    def counted(*args: Any, **kwargs: Any) -> Any:
        asked.append(str(args[1]))
        return build(*args, **kwargs)

    monkeypatch.setattr(module, "build_library", counted)
    return asked


def test_new_lengths_batches_and_numbers_build_nothing(builds: list[str]) -> None:
    for batch in (2, 3):
        for length in LENGTHS:
            q, k, v = inputs(length, batch=batch)
            doc = torch.zeros(batch, length, dtype=torch.int64)
            out = OP(q, k, v, doc=doc, window=length, cap=1.0 + length)
            assert out.shape == q.shape
    assert builds == []


def test_new_lengths_trace_nothing(builds: list[str]) -> None:
    """torch.compile makes one graph for all lengths and one for length 1, which it fixes.

    No two sizes of the first call are equal by chance: torch takes equal sizes for one."""
    model = Model()
    traced = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    for length in (9, 1):
        traced(*inputs(length, batch=3), DOC.new_zeros(3, 64))
    graphs = counters["stats"]["unique_graphs"]
    assert graphs <= 2
    for batch in (3, 5):
        for length in LENGTHS:
            q, k, v = inputs(length, batch=batch)
            doc = torch.zeros(batch, 64, dtype=torch.int64)
            assert torch.equal(traced(q, k, v, doc), model(q, k, v, doc))
    assert counters["stats"]["unique_graphs"] <= graphs
    assert builds == []


def test_new_numbers_trace_nothing() -> None:
    """A step of decoding moves the offset: no graph for each."""
    model = Model()
    traced = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    q = Q[:, :, :2]
    for offset in (3, 5):
        traced(q, K, V, DOC, window=6, offset=offset)
    graphs = counters["stats"]["unique_graphs"]
    for offset in range(2, 8):
        out = traced(q, K, V, DOC, window=offset + 2, offset=offset)
        assert torch.equal(out, model(q, K, V, DOC, window=offset + 2, offset=offset))
    assert counters["stats"]["unique_graphs"] <= graphs + 1


def test_export() -> None:
    model = Model()
    rows, keys = torch.export.Dim("rows"), torch.export.Dim("keys")
    shapes = {"q": {2: rows}, "k": {2: keys}, "v": {2: keys}, "doc": None}
    exported = torch.export.export(model, (Q, K, V, DOC), dynamic_shapes=shapes).module()
    for length, count in ((9, 9), (5, 17), (16, 16)):
        given = (*inputs(length, count), DOC)
        assert torch.equal(exported(*given), model(*given))
    with pytest.raises(AttncError, match="outside"):  # asked when it runs, no guard of the export
        exported(*inputs(70, 70), DOC)


def test_wrong_calls_are_refused_while_tracing() -> None:
    traced = torch.compile(Model(), fullgraph=True, backend="eager")
    with pytest.raises(Exception, match="length 8 on axis `d`"):
        traced(Q[..., :8], K, V, DOC)


def test_inference_mode_and_script_traces() -> None:
    expected = OP(Q, K, V, doc=DOC)
    with torch.inference_mode():
        assert torch.equal(OP(Q, K, V, doc=DOC), expected)
    traced = torch.jit.trace(lambda q: OP(q, K, V, doc=DOC), (Q,))
    other = inputs(seed=1)[0]
    assert torch.equal(traced(other), OP(other, K, V, doc=DOC))


def loss(q: Any) -> Any:
    """A number that depends on the queries."""
    return OP(q, K, V, doc=DOC).sum()


def dual(q: Any) -> Any:
    """A call with a tangent on the queries."""
    with torch.autograd.forward_ad.dual_level():
        made = torch.autograd.forward_ad.make_dual(q, torch.ones_like(q))
        return torch.autograd.forward_ad.unpack_dual(loss(made)).tangent


def test_forward_and_reverse_mode_agree() -> None:
    gradient = torch.func.grad(loss)(Q)
    torch.testing.assert_close(dual(Q), gradient.sum(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.func.jacrev(loss)(Q), gradient)
    traced = Q.clone().requires_grad_()
    torch.compile(loss, backend="eager")(traced).backward()
    torch.testing.assert_close(traced.grad, gradient)


def test_what_is_not_derived_raises_and_is_never_zero() -> None:
    with pytest.raises(UnsupportedError, match='backend="eager"'):
        torch.func.jvp(lambda q: torch.func.jvp(loss, (q,), (Q,))[1], (Q,), (Q,))  # forward twice


def test_a_forward_pass_that_wants_gradients_runs() -> None:
    out = OP(Q.clone().requires_grad_(), K, V, doc=DOC)
    assert out.requires_grad and torch.equal(out.detach(), OP(Q, K, V, doc=DOC))
    with pytest.raises(CallError, match="`v`"):
        OP(Q.clone().requires_grad_(), K, V[:, :, :3], doc=DOC)


def test_the_eager_backend_has_derivatives() -> None:
    eager = attnc.compile(TEXT, backend="eager")
    q = Q.double().requires_grad_()
    eager(q, K.double(), V.double(), doc=DOC).sum().backward()
    assert q.grad is not None and bool(q.grad.abs().max() > 0)


BLOCKED = """
import runpy, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "attnc":
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
runpy.run_path(sys.argv[1], run_name=sys.argv[2])
"""

CHECKED = """
import torch

x = torch.ones(1, 2, 3, 16)
assert causal(x, x, x).shape == x.shape
try:
    causal(x, x, x[0])
except ShapeError as error:
    assert "`v`" in str(error) and isinstance(error, AttncError)
else:
    raise SystemExit(3)
assert "attnc" not in __import__("sys").modules
"""

PLAIN = "attention causal(q, k, v):\n    mask: j <= i\n    score: dot(q[i], k[j]) * scale\n"
PLAIN += "    normalize: softmax(j: score)\n"


def alone(path: Path, cache: Path, name: str = "__main__") -> subprocess.CompletedProcess[str]:
    """Runs a module in a process that cannot import attnc."""
    environment = {n: v for n, v in os.environ.items() if n != "PYTHONPATH"}
    environment |= {"ATTNC_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", BLOCKED, str(path), name],
        env=environment, cwd=path.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_module_needs_no_attnc(tmp_path: Path) -> None:
    path = tmp_path / "causal.py"
    path.write_text(emit_module(read_spec(load_source(PLAIN))) + CHECKED)
    done = alone(path, tmp_path / "cache", "imported")
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.usefixtures("quick_build")
def test_a_module_run_as_a_script_verifies_itself(tmp_path: Path) -> None:
    path = tmp_path / "causal.py"
    path.write_text(emit_module(read_spec(load_source(PLAIN))))
    done = alone(path, tmp_path / "cache")
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    assert done.stdout.rstrip().endswith(" passed, 0 failed")


EMITTED = "import sys, attnc; print(attnc.compile(sys.argv[1]).source, end='')"


def test_a_module_is_deterministic_and_finished() -> None:
    """The same text in a process that hashes otherwise, so orders its sets otherwise."""
    first = emit_module(read_spec(load_source(PLAIN)))
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    again = subprocess.run(
        [sys.executable, "-c", EMITTED, PLAIN],
        env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert first == again
    assert "{{" not in first and "{%" not in first
    assert all(line == line.rstrip() for line in first.splitlines())
    assert "SETS['backward']" in first and "_emits']" not in first  # one set serves both
    compile(first, "causal.py", "exec")


def test_the_function_of_a_module_is_the_operator() -> None:
    module = OP.module
    assert close(module.local(Q, K, V, doc=DOC), OP.reference(Q, K, V, doc=DOC))
    out, lse = module.local(Q, K, V, doc=DOC, window=3, emit=("lse",))
    assert out.shape == Q.shape and lse.shape == Q.shape[:-1]
