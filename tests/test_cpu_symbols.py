"""Kernels of several operators in one process: nothing of one may stand in for the other's."""

from __future__ import annotations

import numpy as np
import torch
from attnc.backends.numpy_oracle import evaluate
from gallery_cases import calls, load, of_one_width, setting_of, spec_paths

from attnc.operator import Operator

# Their single-row kernels have constants of the same names and of other values.
NAMES = ("razor_heads", "shaped", "razor_heads")


def test_operators_keep_their_own_constants() -> None:
    paths = {path.stem: path for path in spec_paths()}
    for name in NAMES:
        spec = load(paths[name])
        run = Operator(spec, "cpu")
        for case, _ in calls(spec, of_one_width(setting_of(name)), seed=11):
            tensors = {each: torch.from_numpy(array) for each, array in case.tensors.items()}
            out = run(**tensors, **case.numbers, **case.extras).numpy()
            expected = evaluate(spec, case.tensors, case.numbers, **case.extras)["out"]
            np.testing.assert_allclose(out, expected, rtol=1e-9, atol=1e-11, err_msg=name)
