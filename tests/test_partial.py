"""Partial results: split keys, shards, their merge and finish, against the whole."""

from __future__ import annotations

import numpy as np
import pytest
from attnc.backends.numpy_oracle import evaluate as oracle
from schedule_interpreter import interpret
from spec_builder import Operator, op
from test_stream import NORMALIZERS, tensors

from attnc.errors import UnsupportedError
from attnc.passes import lower
from attnc.spec import Spec

ONE_PASS = [
    name for name in NORMALIZERS if "threshold" not in name and "temperature in" not in name
]
ONE_PASS.remove("l2 of exponentials")


def operator(name: str) -> Spec:
    return Operator().attention(
        mask=lambda i, j: op("lt", j, op("sub", i, 1)), weight=NORMALIZERS[name]
    )


@pytest.mark.parametrize("splits", [1, 3, 8])
@pytest.mark.parametrize("name", ONE_PASS)
def test_split_keys(name: str, splits: int) -> None:
    """Shares of the keys, some without a visible one, give the same rows."""
    spec, given = operator(name), tensors()
    wanted = oracle(spec, given, emit=("lse",))
    found = interpret(lower(spec, ("lse",), "split"), given, splits=splits, tiles=(4, 2))
    np.testing.assert_allclose(found["operator"], wanted["out"], rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(found["lse"], wanted["lse"], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ONE_PASS)
def test_shards_merge_and_finish(name: str) -> None:
    """Two shards of the keys: partial, merge, finish."""
    spec, given = operator(name), tensors(scale=3.0)
    wanted = oracle(spec, given)["out"]
    keys = spec.root.sources[0].keys[0].axis
    carried: list[dict[str, np.ndarray]] = []
    for begin, end in ((0, 4), (4, 11)):
        shard = {**given, "k": given["k"][:, :, begin:end], "v": given["v"][:, :, begin:end]}
        carried.append(interpret(lower(spec, form="partial"), shard, starts={keys: begin}))
    merging = lower(spec, form="merge")
    stacked = {f"{n}s": np.stack([one[n] for one in carried]) for n in carried[0]}
    whole = interpret(merging, stacked)
    assert set(whole) == set(carried[0])
    found = interpret(lower(spec, form="finish"), {**given, **whole})["operator"]
    np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-11)


def test_two_passes_have_no_partial_result() -> None:
    with pytest.raises(UnsupportedError, match="two_pass"):
        lower(operator("thresholded softmax"), form="partial")
