"""Emits in kernels: rows, columns, pairs, in passes of their own that a plain call does not run."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

if os.environ.get("TRITON_INTERPRET"):
    import triton_interpreter  # noqa: F401

from attnc.cases import Shape, draw_case
from attnc.errors import AttncError
from attnc.front import read_spec
from attnc.operator import Operator
from attnc.passes import lower
from attnc.source import Source
from attnc.verification import compare
from attnc.verification_gradients import compare_gradients

TEXT = """
attention op(q, k, v):
    input length: int[b]
    mask: j <= i and j < length
    score: dot(q[i], k[j]) * scale
    normalize: softmax(j: score)
    emit highest[i] = max(j: weight)
    emit column[j] = max(i: weight)
    emit late[j] = sum(i if i - j > 2: weight)
    emit received[b, hk, j] = sum(h of hk, i: weight)
"""
OFFERED = ("lse", "max", "argmax", "entropy", "colsum", "weight", "score")
WRITTEN = ("highest", "column", "late", "received")
SMOOTH = ("lse", "entropy", "colsum", "weight", "score", "received")
SHAPES = (Shape(), Shape(rows=7, keys=129, group=3, magnitude=3.0), Shape(rows=40, keys=13))


def spec_of(text: str = TEXT):
    return read_spec(Source(text, "op.attn"), None, None)


def case_of(spec, shape: Shape, seed: int):
    """A call in which one batch entry has no key at all."""
    case = draw_case(spec, shape, seed)
    case.tensors["length"][...] = np.resize((shape.keys - 3, 0), case.tensors["length"].shape)
    return case


def failures(backend: str, emits: tuple[str, ...], shapes=SHAPES) -> list[str]:
    spec = spec_of()
    run, eager = Operator(spec, backend), Operator(spec, "eager")
    found = []
    for number, shape in enumerate(shapes):
        case = case_of(spec, shape, number)
        verdict = compare(spec, case, run, eager, torch.float32, emit=emits, backend=backend)
        found += [f"{one} in {case}" for one in verdict.comparisons if not one.passed]
    return found


def flat(run, emits):
    """The result and the emits as one vector, for gradients."""

    def call(**given):
        outputs = run(**given, emit=emits)
        return torch.cat([one.reshape(-1).to(outputs[0].dtype) for one in outputs])

    return call


def gradient_failures(backend: str, emits: tuple[str, ...]) -> list[str]:
    spec = spec_of()
    run, eager = (flat(Operator(spec, one), emits) for one in (backend, "eager"))
    case = case_of(spec, Shape(rows=9, keys=21, width=8, value_width=5, group=2), 5)
    verdict = compare_gradients(spec, case, run, eager, torch.float64, backend=backend)
    return [str(one) for one in verdict.comparisons if not one.passed]


def test_every_emit_on_the_cpu() -> None:
    assert not failures("cpu", (*OFFERED, *WRITTEN))


def places_that_differ(backend: str) -> list[str]:
    """Calls with lengths and offsets, one for each batch entry, against eager."""
    emits = (*OFFERED, "column")
    text = TEXT.replace("    input length: int[b]\n", "").replace(" and j < length", "")
    run, eager = (Operator(spec_of(text), one) for one in (backend, "eager"))
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(2, h, n, 8, generator=generator) for h, n in ((4, 5), (2, 9), (2, 9))]
    found = []
    for extras in (
        {"key_length": torch.tensor([3, 0])},
        {"key_length": 6, "offset": torch.tensor([2, 7])},
        {"key_offset": 2, "offset": 5},
    ):
        made, wanted = (form(*given, emit=emits, **extras) for form in (run, eager))
        for name, one, other in zip(("out", *emits), made, wanted, strict=True):
            if not torch.allclose(one.double(), other.double(), rtol=1e-5, atol=1e-5):
                found.append(f"{name} with {extras}")
    return found


def test_lengths_and_offsets_on_the_cpu() -> None:
    assert not places_that_differ("cpu")


def test_gradients_on_the_cpu() -> None:
    assert not gradient_failures("cpu", SMOOTH)


def test_every_emit_and_gradients_in_the_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_plain_call_runs_no_further_pass() -> None:
    assert [kernel.name for kernel in lower(spec_of(), ("lse",)).kernels] == ["op"]
    asked = lower(spec_of(), ("lse", "colsum", "weight")).kernels
    assert [kernel.name for kernel in asked] == ["op", "op_rows", "op_keys_j"]


def test_the_kernels_of_emits_are_made_when_they_are_asked_for() -> None:
    op = Operator(spec_of(), "cpu")
    assert op._asked == {}
    case = case_of(op.spec, Shape(rows=5, keys=5, width=4, value_width=4), 0)
    op(**{n: torch.from_numpy(x) for n, x in case.tensors.items()}, emit=("lse",))
    assert all(one is op for one in op._asked.values())
    with pytest.raises(AttncError, match="`emit`: expected names among"):
        op(**{n: torch.from_numpy(x) for n, x in case.tensors.items()}, emit=("nothing",))
    for backend in ("cpu", "eager", "numpy"):
        op = Operator(spec_of(), backend)
        with pytest.raises(AttncError, match=r"colsum.*Did you mean `weight`"):
            op(**{n: torch.from_numpy(x) for n, x in case.tensors.items()}, emit=("wieght",))


def test_numbers_for_pairs_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    op = Operator(spec_of(), "cpu")
    case = case_of(op.spec, Shape(rows=8, keys=8, width=4, value_width=4), 0)
    given = {name: torch.from_numpy(x) for name, x in case.tensors.items()}
    monkeypatch.setenv("ATTNC_DENSE_LIMIT", "1000")
    with pytest.raises(AttncError, match=r"`weight` of .* GiB"):
        op(**given, emit=("weight",))
    monkeypatch.setenv("ATTNC_DENSE_LIMIT", "1000000")
    assert op(**given, emit=("weight",))[1].shape[-2:] == (8, 8)


def test_the_place_of_a_maximum_has_no_gradient() -> None:
    op = Operator(spec_of(), "cpu")
    case = case_of(op.spec, Shape(rows=5, keys=5, width=4, value_width=4), 0)
    given = {name: torch.from_numpy(x) for name, x in case.tensors.items()}
    given["q"].requires_grad_()
    assert not op(**given, emit=("argmax",))[1].requires_grad


if __name__ == "__main__":
    some = (Shape(rows=9, keys=21, width=8, value_width=5, group=2, magnitude=3.0),)
    wrong = failures("triton", (*OFFERED, *WRITTEN), some)
    wrong += places_that_differ("triton")
    wrong += gradient_failures("triton", ("entropy", "colsum", "weight"))
    print("\n".join(wrong))
    sys.exit(bool(wrong))
