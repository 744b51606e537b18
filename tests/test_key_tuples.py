"""Keys that are pairs and triples of tokens walk one axis: schedules interpreted, forward against
the oracle, gradients against the eager form's float64 autograd; wrong places are found out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from attnc.backends.numpy_oracle import evaluate
from derivative_cases import EMPTY, error, gradients, run, truth
from test_two_places import SQUARE

from attnc.cases import Shape, draw_case
from attnc.errors import ArgumentUnknown, UnsupportedError
from attnc.expressions.tree import postorder
from attnc.front import load_source, read_spec
from attnc.operator import Operator
from attnc.passes import placed_sums
from attnc.passes.backward import lower_derivative
from attnc.passes.key_tuples import Product
from attnc.passes.pipeline import lower
from attnc.passes.placed_sums import solved
from attnc.schedule.maps import MapKernel
from attnc.spec import Spec

TEXTS = {
    "pairs": """
attention pairs(q, k, v) for i over j, l in j:
    input bias: real[h, lag]
    axis lag < len(j)
    mask: l <= j and j <= i
    score: sum(d: q[i] * k[j] * k[l]) * scale + bias[j - l]
    normalize: softmax(j, l: score)
    read: sum(j, l: weight * v[j] * v[l])
""",
    "triples": """
attention triples(q, k, v) for i over j, m, n in m | c:
    input mk: real[hk, m, d], mv: real[hk, m, e], ck: real[h, c, d], cv: real[h, c, e]
    mask[j, m, n]: j + m <= i + n
    score[j, m, n]: sum(d: q[i] * (k[j] + mk[m]) * mk[n])
    score[c]: dot(q[i], ck[c])
    normalize: softmax(j, m, n | c: score)
    read: sum(j, m, n: weight * (v[j] - mv[m] * mv[n])) + sum(c: weight * cv[c])
""",
}
SHAPES = (SQUARE, EMPTY, Shape(3, 5, 2, 3, 1, 1, 2))


def read(name: str) -> Spec:
    return read_spec(load_source(TEXTS[name]))


def results(spec: Spec, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """The result of the schedule, and of the oracle."""
    case = draw_case(spec, shape, 1)
    name = spec.root.result.array.name
    found = run(spec, lower(spec), case.tensors, case)[name]
    return found, evaluate(spec, case.tensors, case.numbers)[name]


@pytest.mark.parametrize("name", TEXTS)
def test_values(name: str) -> None:
    for shape in SHAPES:
        np.testing.assert_allclose(*results(read(name), shape), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("sweep", ["two", "one"])
@pytest.mark.parametrize("name", TEXTS)
def test_gradients(name: str, sweep: Any) -> None:
    spec = read(name)
    derivative = lower_derivative(spec, (), sweep)
    for shape in SHAPES[:2]:
        case = draw_case(spec, shape, 1)
        cotangents, wanted = truth(spec, case)
        found = gradients(spec, derivative, case, cotangents)
        assert found.keys() == wanted.keys()
        for given, grad in found.items():
            assert error(grad, wanted[given]) < 1e-9, given


def test_tokens_sum_their_own_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The map that sums a token's pairs goes over these, not over all pairs."""

    def longest() -> bool:
        kernels = lower_derivative(read("pairs")).backward.kernels
        maps = [one for one in kernels if isinstance(one, MapKernel)]
        stores = [store.expr for one in maps for store in one.stores]
        bound = {i.axis.name for node in postorder(*stores) for i in node.bound}
        return "pairs_j" in bound

    assert not longest()
    monkeypatch.setattr(placed_sums, "_is_run", lambda side, index: False)
    assert longest() and solved is placed_sums.solved


def test_a_wrong_place_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Product.indices
    monkeypatch.setattr(Product, "indices", lambda self, place: own(self, place)[:1] * 2)
    found, wanted = results(read("pairs"), SQUARE)
    assert np.abs(found - wanted).max() > 1e-3


def test_what_a_call_cannot_bound() -> None:
    """Keys of a call's own choice are refused, 0 of them too."""
    operator = Operator(read("pairs"), "cpu")
    q, k, v = (torch.zeros(1, 1, 3, 2) for _ in range(3))
    for name in ("key_length", "key_offset"):
        with pytest.raises(ArgumentUnknown, match=name):
            operator(q, k, v, bias=torch.zeros(1, 3), **{name: 2})
    with pytest.raises(ArgumentUnknown, match="key_length"):
        operator(q, k, v, bias=torch.zeros(1, 3), key_length=0)


def test_folds_over_one_of_a_key() -> None:
    """What sums over one of a key's indices alone has no kernel."""
    text = TEXTS["pairs"].replace("v[j] * v[l])", "v[j] * v[l]) + sum(j: v[j])")
    with pytest.raises(UnsupportedError, match="keys that are pairs"):
        lower(read_spec(load_source(text)))
