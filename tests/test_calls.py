"""Calls of an operator: wrong ones are refused by name, right ones agree however they are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from surface_cases import TEXT, close, compiled, inputs

import attnc
from attnc.errors import (
    ArgumentMissing,
    ArgumentUnknown,
    AttncError,
    CallError,
    DeviceError,
    DtypeError,
    ShapeError,
    UnsupportedError,
    ValueRangeError,
)

Q, K, V = inputs()
DOC = torch.zeros(2, 9, dtype=torch.int64)
FULL = {"q": Q, "k": K, "v": V, "doc": DOC}

# what is given instead, the error, its argument, and words of the message
WRONG: dict[str, tuple[dict[str, Any], type[CallError], str, str]] = {
    "missing": ({"v": None}, ArgumentMissing, "v", "a tensor [b, hk, j, e]"),
    "missing measure": ({"doc": None}, ArgumentMissing, "doc", "measures axis `n`"),
    "unknown": ({"windo": 3}, ArgumentUnknown, "windo", "Did you mean `window`?"),
    "far unknown": ({"zzz": 3}, ArgumentUnknown, "zzz", "window, cap, both, offset"),
    "self": ({"self": 3}, ArgumentUnknown, "self", "unknown"),
    "seed": ({"seed": 3}, ArgumentUnknown, "seed", "unknown"),
    "static": ({"least": 2}, ArgumentUnknown, "least", "attnc.compile(..., least=2)"),
    "width": ({"q": Q[..., :8]}, ShapeError, "k", "length 8 on axis `d`"),
    "batch": ({"k": K[:1]}, ShapeError, "k", "(1, 2, 9, 16)"),
    "keys": ({"v": V[:, :, :8]}, ShapeError, "v", "length 9 on axis `j` (dimension 2), as k has"),
    "heads": ({"q": Q[:, :3]}, ShapeError, "k", "divides the 3 of `h`"),
    "no groups": ({"k": K[:, :0], "v": V[:, :0]}, ShapeError, "k", "divides the 4 of `h`"),
    "shape of an input": ({"slope": torch.ones(5)}, ShapeError, "slope", "length 4 on axis `h`"),
    "rank": ({"q": Q[0]}, ShapeError, "q", "4 dimensions [b, h, i, d]"),
    "rank of an input": ({"slope": torch.ones(4, 1)}, ShapeError, "slope", "1 dimensions [h]"),
    "dtype": ({"k": K.double()}, DtypeError, "k", "torch.float32, the dtype of `q`"),
    "int queries": ({"q": Q.long()}, DtypeError, "q", "torch.int64; pass q.float()"),
    "complex queries": ({"q": Q.to(torch.complex64)}, DtypeError, "q", "torch.complex64"),
    "real ids": ({"doc": DOC.float()}, DtypeError, "doc", "an integer tensor"),
    "halves beside singles": ({"v": V.half()}, DtypeError, "v", "pass v.to(q.dtype)"),
    "int for real": ({"slope": torch.ones(4).long()}, DtypeError, "slope", "pass slope.float()"),
    "real ids that want a gradient": (
        {"doc": DOC.float().requires_grad_()},
        DtypeError,
        "doc",
        "pass doc.long()",
    ),
    "number for tensor": ({"slope": 2.0}, DtypeError, "slope", "a tensor [h], got float"),
    "elsewhere": ({"doc": DOC.to("meta")}, DeviceError, "doc", "got meta"),
    "list": ({"q": Q.tolist()}, DtypeError, "q", "expected a tensor [b, h, i, d], got list"),
    "sparse": ({"q": Q.to_sparse()}, DtypeError, "q", "dense"),
    "meta": ({"k": K.to("meta")}, DeviceError, "k", "got meta"),
    "all meta": ({n: t.to("meta") for n, t in FULL.items()}, DeviceError, "doc", "got meta"),
    "meta shift": ({"offset": torch.zeros(2).long().to("meta")}, DeviceError, "offset", "meta"),
    "string": ({"window": "8"}, DtypeError, "window", "'8'"),
    "real for int": ({"window": 2.5}, DtypeError, "window", "2.5"),
    "bool for int": ({"window": True}, DtypeError, "window", "True"),
    "int for bool": ({"both": 1}, DtypeError, "both", "True or False"),
    "tensor for number": ({"window": torch.tensor(3)}, DtypeError, "window", ".item()"),
    "array for number": ({"cap": np.ones(2)}, DtypeError, "cap", "a number (real)"),
    "array for int": ({"window": np.ones(2, int)}, DtypeError, "window", "a number (int)"),
    "complex number": ({"cap": 1j}, DtypeError, "cap", "1j"),
    "nan": ({"cap": float("nan")}, ValueRangeError, "cap", "a finite number"),
    "infinite": ({"cap": -float("inf")}, ValueRangeError, "cap", "a finite number"),
    "large real": ({"cap": 10**400}, ValueRangeError, "cap", "a finite number"),
    "large int": ({"window": 2**63}, ValueRangeError, "window", "62 bits"),
    "huge int": ({"window": 10**5000}, ValueRangeError, "window", "62 bits"),
    "emit unknown": ({"emit": ("lze",)}, ValueRangeError, "emit", "lse"),
    "emit string": ({"emit": "lse"}, ValueRangeError, "emit", '("lse",)'),
    "emit number": ({"emit": 5}, ValueRangeError, "emit", "5"),
    "emit none": ({"emit": None}, ValueRangeError, "emit", "None"),
    "emit nested": ({"emit": (["lse"],)}, ValueRangeError, "emit", '("lse",)'),
    "offset string": ({"offset": "0"}, DtypeError, "offset", "'0'"),
    "offset none": ({"offset": None}, DtypeError, "offset", "None"),
    "offset list": ({"offset": [0, 0]}, DtypeError, "offset", "[0, 0]"),
    "offset shape": ({"offset": torch.zeros(3).long()}, ShapeError, "offset", "(3,)"),
    "offset real": ({"offset": torch.zeros(2)}, DtypeError, "offset", "torch.float32"),
    "offset far": ({"offset": 2**50}, ValueRangeError, "offset", "40 bits"),
    "key_offset bool": ({"key_offset": True}, DtypeError, "key_offset", "True"),
    "key_length long": ({"key_length": 10}, ValueRangeError, "key_length", "0 to 9"),
    "key_length below": ({"key_length": -1}, ValueRangeError, "key_length", "0 to 9"),
    "key_length real": ({"key_length": 1.5}, DtypeError, "key_length", "1.5"),
}


@pytest.mark.parametrize("gradient", (False, True), ids=("plain", "gradient"))
@pytest.mark.parametrize("name", WRONG)
def test_wrong_calls_are_refused_by_name(name: str, gradient: bool) -> None:
    changed, error, argument, words = WRONG[name]
    given = {**FULL, **changed}
    if gradient and isinstance(given["v"], torch.Tensor):
        given["v"] = given["v"].clone().requires_grad_()
    with pytest.raises(error) as caught:
        compiled()(**given)
    if not name.startswith("all"):
        assert caught.value.argument == argument
    assert words in str(caught.value)
    assert str(caught.value).startswith("local: argument `")


def test_what_is_given_twice_or_beyond_the_places() -> None:
    with pytest.raises(ArgumentUnknown, match="by place and by name"):
        compiled()(Q, K, V, q=Q, doc=DOC)
    with pytest.raises(ArgumentUnknown, match="3 by place"):
        compiled()(Q, K, V, DOC)


def test_nested_tensors_and_arrays_of_objects_are_refused() -> None:
    nested = torch.nested.nested_tensor([Q[0], Q[1]], layout=torch.jagged)
    with pytest.raises(AttncError, match="`q`"):
        compiled()(nested, K, V, doc=DOC)
    with pytest.raises(DtypeError, match=r"`q`: .* object"):
        compiled()(Q.numpy().astype(object), K.numpy(), V.numpy(), doc=DOC.numpy())


@pytest.mark.parametrize("backend", ("eager", "numpy"))
def test_references_refuse_the_same(backend: str) -> None:
    run = attnc.compile(TEXT, backend=backend)
    for name in ("missing", "unknown", "static", "width", "dtype", "nan", "emit number"):
        changed, error, argument, _ = WRONG[name]
        with pytest.raises(error) as caught:
            run(**{**FULL, **changed})
        assert caught.value.argument == argument
    with pytest.raises(CallError, match="lze"):
        run(**FULL, emit=("lze",))


def test_wrong_compilations() -> None:
    with pytest.raises(AttncError, match="backend='gpu'"):
        attnc.compile(TEXT, backend="gpu")
    with pytest.raises(AttncError, match="least"):
        attnc.compile(TEXT, leest=3)
    with pytest.raises(AttncError, match="no file"):
        attnc.compile("nowhere.attn")


def test_arrays_in_arrays_out() -> None:
    expected = compiled()(Q, K, V, doc=DOC, emit=("lse",))
    arrays = [x.numpy() for x in (Q, K, V)]
    out = compiled()(*arrays, doc=DOC.numpy(), emit=("lse",))
    assert all(isinstance(one, np.ndarray) for one in out)
    assert all(np.array_equal(one, other) for one, other in zip(out, expected, strict=True))
    turned = np.ascontiguousarray(arrays[0][:, :, ::-1])[:, :, ::-1]
    turned.flags.writeable = False
    shift = np.zeros(2, dtype=np.int64)
    out = compiled()(turned, *arrays[1:], doc=DOC.numpy(), offset=shift)
    assert np.array_equal(out, expected[0])


def layouts(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The same numbers, lying differently."""
    wide = torch.full((*x.shape[:-1], 2 * x.shape[-1]), torch.nan)
    wide[..., ::2] = x
    return {
        "transposed": x.transpose(1, 2).contiguous().transpose(1, 2),
        "strided": wide[..., ::2],
        "turned": x.mT.contiguous().mT,
        "negated": torch._neg_view(-x),
    }


@pytest.mark.parametrize("place", range(3), ids="qkv")
def test_strides_do_not_matter(place: int) -> None:
    expected = compiled()(Q, K, V, doc=DOC)
    for kind, other in layouts((Q, K, V)[place]).items():
        given = [Q, K, V]
        given[place] = other
        assert torch.equal(compiled()(*given, doc=DOC), expected), kind


def test_expanded_inputs() -> None:
    one = [x[:1] for x in (Q, K, V)]
    out = compiled()(*(x.expand(2, -1, -1, -1) for x in one), doc=DOC)
    assert torch.equal(out[0], out[1])
    assert torch.equal(out[:1], compiled()(*one, doc=DOC[:1]))
    slope = torch.full((), 0.5).expand(4)
    assert torch.equal(
        compiled()(Q, K, V, doc=DOC, slope=slope),
        compiled()(Q, K, V, doc=DOC, slope=torch.full((4,), 0.5)),
    )


def agrees(*args: Any, **kwargs: Any) -> None:
    """The operator and the oracle on one call."""
    assert close(compiled()(*args, **kwargs), compiled().reference(*args, **kwargs))


def test_a_repeated_call_is_never_stale() -> None:
    for _ in range(2):
        agrees(Q, K, V, doc=DOC)
        agrees(*inputs(seed=1), doc=DOC)  # the same shapes, other data
        agrees(Q, K, V, doc=DOC, window=3)
        agrees(Q, K, V, doc=DOC, window=2)
        agrees(Q, K, V, doc=DOC, cap=0.5)
        agrees(Q, K, V, doc=DOC, both=True)
        agrees(Q, K, V, doc=DOC, slope=torch.arange(4.0))
        agrees(Q, K, V, doc=DOC, slope=torch.ones(4))
        agrees(Q, K, V, doc=DOC, key_length=5)
        agrees(Q, K, V, doc=torch.arange(9).expand(2, 9) // 4)
        agrees(v=V, k=K, q=Q, doc=DOC)
        agrees(Q, k=K, v=V, doc=DOC, window=3)


def test_a_repeated_call_sees_changes_in_place() -> None:
    q, k, v = (x.clone() for x in (Q, K, V))
    slope = torch.ones(4)
    first = compiled()(q, k, v, doc=DOC, slope=slope)
    kept = first.clone()
    slope.mul_(3)
    k.add_(1)
    second = compiled()(q, k, v, doc=DOC, slope=slope)
    assert torch.equal(first, kept) and first.data_ptr() != second.data_ptr()
    assert close(second, compiled().reference(q, k, v, doc=DOC, slope=slope))


def test_emits_and_threads_between_repeated_calls() -> None:
    for _ in range(2):
        out = compiled()(Q, K, V, doc=DOC)
        both = compiled()(Q, K, V, doc=DOC, emit=("lse",))
        listed = compiled()(Q, K, V, doc=DOC, emit=["lse"])
        assert isinstance(out, torch.Tensor) and len(both) == len(listed) == 2
        assert torch.equal(both[0], out) and torch.equal(both[1], listed[1])
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 1):
            torch.set_num_threads(count)
            assert torch.equal(compiled()(Q, K, V, doc=DOC), out)
    finally:
        torch.set_num_threads(threads)


def test_other_shapes_and_dtypes_between_repeated_calls() -> None:
    for rows in (9, 1, 9):
        q, k, v = inputs(rows, 9)
        agrees(q, k, v, doc=DOC)
        doubled = [x.double() for x in (q, k, v)]
        out = compiled()(*doubled, doc=DOC)
        assert out.dtype is torch.float64
        assert close(out, compiled().reference(*doubled, doc=DOC), 1e-12)


Shift = Callable[[int], Any]


@pytest.mark.parametrize(
    "shift", (int, np.int64, lambda n: torch.full((2,), n)), ids=("int", "int64", "tensor")
)
def test_offsets_as_numbers_and_tensors(shift: Any) -> None:
    q = Q[:, :, 5:7]
    whole = compiled()(Q, K, V, doc=DOC)
    out = compiled()(q, K, V, doc=DOC, offset=shift(5))
    assert close(out, whole[:, :, 5:7], 1e-6)
    moved = compiled()(q, K[:, :, 2:], V[:, :, 2:], doc=DOC, offset=shift(5), key_offset=shift(2))
    assert close(
        moved,
        compiled().reference(q, K[:, :, 2:], V[:, :, 2:], doc=DOC, offset=5, key_offset=2),
    )


def test_an_offset_for_each_batch_entry() -> None:
    q = Q[:, :, :2]
    out = compiled()(q, K, V, doc=DOC, offset=torch.tensor([3, 7]))
    for entry, start in enumerate((3, 7)):
        one = slice(entry, entry + 1)
        alone = compiled()(q[one], K[one], V[one], doc=DOC[one], offset=start)
        assert close(out[one], alone, 1e-6)


@pytest.mark.parametrize("rows", (9, 1))
def test_keys_beyond_key_length_are_never_read(rows: int) -> None:
    q = Q[:, :, :rows]
    poisoned = [x.clone() for x in (K, V)]
    for x in poisoned:
        x[:, :, 6:] = torch.nan
    short = [x[:, :, :6] for x in (K, V)]
    expected = compiled()(q, *short, doc=DOC, both=True)
    for length in (6, np.int32(6), torch.tensor([6, 6]), torch.tensor(6)):
        out = compiled()(q, *poisoned, doc=DOC, both=True, key_length=length)
        assert close(out, expected, 1e-6)
    for x in poisoned:
        x[1, :, 3:] = torch.nan
    out = compiled()(q, *poisoned, doc=DOC, both=True, key_length=torch.tensor([6, 3]))
    assert close(out[:1], expected[:1], 1e-6) and bool(out.isfinite().all())
    assert bool((compiled()(q, *poisoned, doc=DOC, key_length=0) == 0).all())


def test_lengths_in_a_tensor_stay_within_the_keys() -> None:
    """On the CPU they are looked at; those of another device are never read back."""
    with pytest.raises(ValueRangeError, match="expected entries of 0 to 9"):
        compiled()(Q, K, V, doc=DOC, key_length=torch.tensor([10**9, -5]))


def test_empty_lengths() -> None:
    assert compiled()(Q[:, :, :0], K, V, doc=DOC).shape == (2, 4, 0, 16)
    none = compiled()(Q, K[:, :, :0], V[:, :, :0], doc=DOC)
    assert bool((none == 0).all())
    assert compiled()(Q[:0], K[:0], V[:0], doc=DOC[:0]).shape == (0, 4, 9, 16)


def test_an_operator_prints_how_it_is_called() -> None:
    text = (
        "attention tempered(q, k, v):\n    input heat: real[h]\n    score: dot(q[i], k[j]) * heat\n"
    )
    operator = attnc.compile(f"{text}    normalize: softmax(j: score)\n", backend="eager")
    assert repr(operator) == "<attnc.Operator tempered(q, k, v, *, heat), backend eager>"


def test_a_sum_of_keys_for_each_pair_is_refused_as_such() -> None:
    """Gates summed up to each key by weights of both keys: no scan along the keys."""
    text = """attention counted(q, k, v):
    mask: j <= i
    gate[i, j] = sigmoid(dot(q[i], k[j]))
    score: dot(q[i], k[j]) - sum(m in j if j <= m and m <= i: gate[i, m] * cos(j * m))
    normalize: softmax(j: score)
"""
    with pytest.raises(UnsupportedError, match="a fold of keys for each pair"):
        attnc.compile(text, backend="cpu")(Q, K, V)


@pytest.mark.parametrize("backend", ["eager", "numpy"])
def test_references_need_values(backend: str) -> None:
    op = attnc.compile(TEXT, backend=backend)
    with pytest.raises(DeviceError, match="a tensor with values, got one on meta"):
        op(**{name: one.to("meta") for name, one in FULL.items()})
