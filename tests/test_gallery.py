"""The gallery: each spec against a reference of its own, its mutants, kernels, and its README.

An operator is verified when the oracle agrees with a short reference written from the paper's
equations, every mutant of its text disagrees somewhere, and the CPU and Triton kernels agree with
the oracle.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attnc.backends.numpy_oracle import evaluate as evaluate_oracle
from attnc.errors import AttncError
from attnc.spec import Spec
from equivalents import EQUIVALENT
from gallery_cases import EXAMPLES, SETTINGS, calls, load, setting_of, spec_paths
from mutants import Mutant, checked, mutants_of
from references import REFERENCES

for family in ("softmax", "positional", "window", "grid", "segment", "normalizer"):
    importlib.import_module(f"references.{family}_family")
importlib.import_module("references.variants")
REFERENCES["causal"] = REFERENCES["causal_softmax"]

TOLERANCE = 1e-10
FEWEST_MUTANTS = 5

PATHS = spec_paths()
every_spec = pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])


@cache
def answers(path: Path) -> list[tuple[Any, dict[str, Any], np.ndarray]]:
    """The calls of an operator, with what its reference says."""
    setting = setting_of(path.stem)
    reference = REFERENCES[path.stem]
    found = []
    for case, numbers in calls(load(path), setting, seed=11):
        found.append((case, numbers, reference(case.tensors, numbers, case.shape.offset)))
    return found


def differs(spec: Spec, case: Any, expected: np.ndarray) -> bool:
    """Whether the oracle's answer is not the reference's; an error of the call is one."""
    try:
        out = evaluate_oracle(spec, case.tensors, case.numbers, **case.extras)["out"]
    except AttncError:
        return True
    if out.shape != expected.shape:
        return True
    return not np.allclose(out, expected, rtol=TOLERANCE, atol=TOLERANCE)


@every_spec
def test_oracle_agrees_with_the_reference(path: Path) -> None:
    spec = load(path)
    for case, _, expected in answers(path):
        out = evaluate_oracle(spec, case.tensors, case.numbers, **case.extras)["out"]
        np.testing.assert_allclose(out, expected, rtol=TOLERANCE, atol=TOLERANCE, err_msg=str(case))


@every_spec
def test_mutants_die(path: Path) -> None:
    """Every mutant is caught by some call, but for those listed as equivalent with the reason."""
    cases = answers(path)
    statics = setting_of(path.stem).statics
    expected_alive = EQUIVALENT.get(path.stem, {})
    killed, alive = 0, []
    for mutant in mutants_of(path.read_text(), str(path)):
        spec = checked(mutant, str(path), dict(statics))
        if spec is None:
            continue
        if any(differs(spec, case, expected) for case, _, expected in cases):
            killed += 1
        else:
            alive.append(mutant)
    unexpected = [one.name for one in alive if one.name not in expected_alive]
    assert not unexpected, "\n".join(unexpected)
    unused = set(expected_alive) - {one.name for one in alive}
    assert not unused, f"listed as equivalent, but killed: {unused}"
    assert killed + len(expected_alive) >= FEWEST_MUTANTS, f"only {killed} mutants"
