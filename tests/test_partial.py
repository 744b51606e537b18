"""Partial results: split keys, shards, their merge and finish, against the whole; gradients through
them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from attnc.backends.numpy_oracle import evaluate as oracle
from derivative_cases import cotangents_of
from eager_loader import load, to_torch
from schedule_interpreter import interpret
from spec_builder import Operator, op
from test_stream import NORMALIZERS, tensors

from attnc.errors import UnsupportedError
from attnc.front import read_spec
from attnc.passes import lower
from attnc.passes.shard_gradients import Form, lower_shard
from attnc.source import Source
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


def test_a_norm_of_the_result_is_finished() -> None:
    """A fold over the width that the result has too: the finish's gradient is over one of them."""
    normed = """
attention normed(q, k, v):
    score: dot(q[i], k[j]) * scale
    normalize: softmax(j: score)
    read: layernorm(e: sum(j: weight * v[j]))
"""
    made = lower_shard(read_spec(Source(normed, "normed.attn")), (), "finish", "two")
    assert [name for name, _ in made.gradients] == ["partial_acc", "partial_total"]


def test_two_passes_have_no_partial_result() -> None:
    with pytest.raises(UnsupportedError, match="two_pass"):
        lower(operator("thresholded softmax"), form="partial")


# What a pair knows of more than its own key: a shard would make another number of it.
BEYOND = {
    "at other keys": "softmax(j: dot(q[i], (k[j] + (k[j - 1] else 0)) / 2))",
    "number of keys": "softmax(j: score / (1 + j - len(j)))",
    "fold over": "stick_breaking(j: score)",
    "in turns": "sinkhorn(i, j: score, 1)",
    "folds over rows": "softmax(i: score)",
}
# Whose keys are not a shard's alone.
SHARED = {
    "rows are its keys": """
attention beyond(q, k, v) for i in j over j:
    input q: real[h, d]
    mask: j <= i
    score: dot(q, k[j]) * scale
    normalize: softmax(j: score)
""",
    "pairs of keys": """
attention beyond(q, k, v) for i over j, l in j:
    score: sum(d: q[i] * k[j] * k[l]) * scale
    normalize: softmax(j, l: score)
    read: sum(j, l: weight * v[j] * v[l])
""",
    "every shard would count": """
attention beyond(q, k, v) for i over j | c < 4:
    input kc: real[h, c, d], vc: real[h, c, e]
    score[j]: dot(q[i], k[j]) * scale
    score[c]: dot(q[i], kc[c]) * scale
    normalize: softmax(j | c: score)
    read: sum(j: weight * v[j]) + sum(c: weight * vc[c])
""",
}
ROW_OF_KEYS = """
attention beyond(q, k, v):
    mask: j <= i
    score: dot(q[i], k[j]) * scale
    normalize: {}
"""
REFUSED = {why: ROW_OF_KEYS.format(text) for why, text in BEYOND.items()} | SHARED


@pytest.mark.parametrize("form", ["partial", "merge", "finish"])
@pytest.mark.parametrize("why", REFUSED)
def test_a_shard_knows_its_own_keys_alone(why: str, form: Form) -> None:
    spec = read_spec(Source(REFUSED[why], "beyond.attn"))
    with pytest.raises(UnsupportedError, match=why):
        lower(spec, form=form)
    with pytest.raises(UnsupportedError, match=why):
        lower_shard(spec, (), form, "two")


def test_a_share_knows_all_keys() -> None:
    """Keys split within a call: the key before a share's first is at hand."""
    spec = read_spec(Source(REFUSED["at other keys"], "beyond.attn"))
    given = tensors()
    found = interpret(lower(spec, form="split"), given, splits=3, tiles=(4, 2))["out"]
    np.testing.assert_allclose(found, oracle(spec, given)["out"], rtol=1e-11, atol=1e-11)


def test_a_finish_may_ask_for_the_number_of_keys() -> None:
    """It is given all of them: what a row does with its sums knows the whole."""
    text = """
attention counted(q, k, v):
    score: dot(q[i], k[j]) * scale
    normalize: softmax(j: score) / (1 + len(j))
"""
    spec = read_spec(Source(text, "counted.attn"))
    assert "k" not in [one.name for one in lower(spec, form="merge").signature.inputs]
    assert "k" in [one.name for one in lower(spec, form="finish").signature.inputs]


# --- Gradients ------------------------------------------------------------------------------------

SHARDS = ((0, 4), (4, 5), (5, 11))
Arrays = dict[str, np.ndarray]


def truth(spec: Spec, given: Arrays) -> tuple[Arrays, Arrays]:
    """Cotangents of the result and of lse, and the gradients of the dense formula."""
    leaves = {name: x.requires_grad_() for name, x in to_torch(given).items()}
    outputs = load(spec)(**leaves, emit=("lse",))
    cotangents = cotangents_of(outputs)
    whole = sum((outputs[n].nan_to_num(0, 0, 0) * torch.from_numpy(cotangents[n])).sum()
                for n in cotangents)  # fmt: skip
    grads = torch.autograd.grad(whole, list(leaves.values()))
    return cotangents, dict(zip(leaves, (grad.numpy() for grad in grads), strict=True))


def by_shards(spec: Spec, given: Arrays, cotangents: Arrays, sweep: Any) -> Arrays:
    """The gradients through the finish, the merge and each shard, every kernel interpreted."""
    keys = spec.root.sources[0].keys[0].axis
    forms: tuple[Form, ...] = ("partial", "merge", "finish")
    partial, merge, finish = (lower_shard(spec, ("lse",), form, sweep) for form in forms)
    shards = [
        {**given, "k": given["k"][:, :, begin:end], "v": given["v"][:, :, begin:end]}
        for begin, end in SHARDS
    ]
    carried = [
        interpret(lower(spec, ("lse",), "partial"), shard, starts={keys: begin})
        for (begin, _), shard in zip(SHARDS, shards, strict=True)
    ]
    stacked = {f"{name}s": np.stack([one[name] for one in carried]) for name in carried[0]}
    whole = interpret(lower(spec, ("lse",), "merge"), stacked)
    asked = {own: cotangents["out" if name not in cotangents else name]
             for name, own in finish.cotangents}  # fmt: skip
    back = interpret(finish.schedule, {**given, **whole, **asked})
    links = dict(finish.gradients)
    asked = {own: back[links[name]] for name, own in merge.cotangents}
    parts = interpret(merge.schedule, {**stacked, **asked})
    links = dict(merge.gradients)
    total: Arrays = {name: np.zeros_like(x) for name, x in given.items()}
    for place, ((begin, end), shard) in enumerate(zip(SHARDS, shards, strict=True)):
        asked = {own: parts[links[f"{name}s"]][place] for name, own in partial.cotangents}
        read = {name: carried[place][name] for name in partial.reads}
        found = interpret(
            partial.schedule, {**shard, **read, **asked}, starts={keys: begin}, tiles=(4, 2)
        )
        for name, gradient in partial.gradients:
            into = total[name] if name == "q" else total[name][:, :, begin:end]
            into += found[gradient]
    return total


@pytest.mark.parametrize("name", ONE_PASS)
def test_gradients_by_shards(name: str) -> None:
    """Three shards, rows that see nothing of some, rows that see nothing at all."""
    spec, given = operator(name), tensors()
    cotangents, wanted = truth(spec, given)
    for sweep in ("one", "two"):
        found = by_shards(spec, given, cotangents, sweep)
        for own, gradient in wanted.items():
            np.testing.assert_allclose(found[own], gradient, rtol=1e-9, atol=1e-11, err_msg=own)
