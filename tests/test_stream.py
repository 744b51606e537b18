"""stream: kernels derived from formulas, run tile by tile against the oracle.

No code is generated here. Each operator is one that a user might write; none is known to the pass.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from attnc.backends.numpy_oracle import evaluate as oracle
from schedule_interpreter import interpret
from spec_builder import (
    Operator,
    Row,
    causal,
    exp,
    log,
    op,
    ratio,
    relu,
    softmax,
    sqrt,
    where,
)

from attnc.passes import lower
from attnc.schedule import StreamKernel
from attnc.spec import Spec

Tensors = dict[str, np.ndarray]


def tensors(
    b: int = 2, h: int = 4, hk: int = 2, i: int = 7, j: int = 11, d: int = 3, e: int = 5,
    seed: int = 0, scale: float = 1.0,
) -> Tensors:  # fmt: skip
    rng = np.random.default_rng(seed)
    return {
        "q": rng.standard_normal((b, h, i, d)) * scale,
        "k": rng.standard_normal((b, hk, j, d)) * scale,
        "v": rng.standard_normal((b, hk, j, e)),
    }


def check(
    spec: Spec,
    given: Tensors,
    emit: tuple[str, ...] = (),
    tolerance: float = 1e-11,
    offset: int = 0,
    **numbers: float,
) -> None:
    """The interpreted schedule is what the oracle says, for several tile shapes."""
    wanted = oracle(spec, given, numbers, offset=offset, emit=emit)
    schedule = lower(spec, emit)
    rows = spec.root.rows[-1].axis
    for tiles in ((1, 1), (5, 3), (64, 64)):
        found = interpret(schedule, given, params=numbers, tiles=tiles, starts={rows: offset})
        names = [argument.name for argument in schedule.signature.outputs]
        for name, key in zip(names, ("out", *emit), strict=True):
            np.testing.assert_allclose(
                found[name], wanted[key], rtol=tolerance, atol=tolerance, err_msg=f"{name} {tiles}"
            )


def attention(**clauses: Callable[..., object]) -> Callable[[], Spec]:
    return lambda: Operator().attention(mask=lambda i, j: op("le", j, i), **clauses)


def _sum_of(row: Row, f: Callable[..., object]) -> object:
    return row.total(f)


NORMALIZERS: dict[str, Callable[[Row, object], object]] = {
    "softmax": softmax,
    "stabilised by hand": lambda r, j: (
        exp(r.score(j) - r.total(r.score, "max"))
        / r.total(lambda m: exp(r.score(m) - r.total(r.score, "max")))
    ),
    "by its lse": lambda r, j: exp(r.score(j) - log(r.total(lambda m: exp(r.score(m))))),
    "plus one": lambda r, j: exp(r.score(j)) / (1.0 + r.total(lambda m: exp(r.score(m)))),
    "clamped sum": lambda r, j: (
        exp(r.score(j)) / op("max", r.total(lambda m: exp(r.score(m))), 1e-6)
    ),
    "by sum": lambda r, j: ratio(exp(r.score(j)), r.total(lambda m: exp(r.score(m)))),
    "sigmoid": lambda r, j: 1.0 / (1.0 + exp(-r.score(j))),
    "relu": lambda r, j: relu(r.score(j)),
    "relu squared by count": lambda r, j: relu(r.score(j)) ** 2 / r.total(lambda m: 1.0),
    "relu by sum": lambda r, j: ratio(relu(r.score(j)), r.total(lambda m: relu(r.score(m)))),
    "softplus": lambda r, j: log(1.0 + exp(r.score(j))),
    "softplus by sum": lambda r, j: (
        log(1.0 + exp(r.score(j))) / r.total(lambda m: log(1.0 + exp(r.score(m))))
    ),
    "polynomial": lambda r, j: (1.0 + r.score(j)) ** 2,
    "plain": lambda r, j: r.score(j),
    "plain exponentials": lambda r, j: exp(r.score(j)),
    "uniform": lambda r, j: 1.0 / r.total(lambda m: 1.0),
    "temperature in the row": lambda r, j: (
        exp(r.score(j) / (1.0 + r.total(lambda m: 1.0)))
        / r.total(lambda m: exp(r.score(m) / (1.0 + r.total(lambda n: 1.0))))
    ),
    "mixed with uniform": lambda r, j: 0.9 * softmax(r, j) + 0.1 / r.total(lambda m: 1.0),
    "l2 of exponentials": lambda r, j: (
        exp(r.score(j)) / sqrt(r.total(lambda m: exp(r.score(m)) * exp(r.score(m))))
    ),
    "thresholded softmax": lambda r, j: relu(r.total(lambda m: 1.0) * softmax(r, j) - 1.0),
    "renormalised threshold": lambda r, j: ratio(
        relu(softmax(r, j) - 0.05), r.total(lambda m: relu(softmax(r, m) - 0.05))
    ),
    "gaussian beside": lambda r, j: (
        softmax(r, j) * exp(-0.5 * (op("to_real", op("sub", r.i, j))) ** 2)
    ),
    "two temperatures": lambda r, j: (
        softmax(r, j) - 0.3 * exp(2.0 * r.score(j)) / r.total(lambda m: exp(2.0 * r.score(m)))
    ),
    "elu plus one": lambda r, j: (
        where(r.score(j) > 0.0, r.score(j) + 1.0, exp(r.score(j)))
        / r.total(lambda m: where(r.score(m) > 0.0, r.score(m) + 1.0, exp(r.score(m))))
    ),
}


@pytest.mark.parametrize("name", NORMALIZERS)
def test_normalizer(name: str) -> None:
    spec = Operator().attention(mask=lambda i, j: op("le", j, i), weight=NORMALIZERS[name])
    check(spec, tensors(), ("lse",))


@pytest.mark.parametrize("name", NORMALIZERS)
def test_rows_without_a_key(name: str) -> None:
    """A window that the first rows do not reach: zero output, lse -inf."""
    spec = Operator().attention(
        mask=lambda i, j: op("lt", j, op("sub", i, 2)), weight=NORMALIZERS[name]
    )
    check(spec, tensors(), ("lse",))


@pytest.mark.parametrize("scale", [1e-3, 30.0, 100.0])
@pytest.mark.parametrize(
    "name", ["softmax", "stabilised by hand", "by its lse", "plus one", "by sum",
             "two temperatures", "clamped sum"]
)  # fmt: skip
def test_large_scores(name: str, scale: float) -> None:
    """Scores up to 1e4 in size: nothing overflows that the formula cancels."""
    spec = Operator().attention(mask=lambda i, j: op("le", j, i), weight=NORMALIZERS[name])
    check(spec, tensors(scale=scale), ("lse",), tolerance=1e-8)


def test_causal_is_one_kernel() -> None:
    schedule = lower(causal(), ("lse",))
    (kernel,) = schedule.kernels
    assert isinstance(kernel, StreamKernel)
    assert [c.name for c in kernel.carried] == ["out", "total"]
    assert [product.name for product in kernel.loops[0].products] == ["product"]
    assert kernel.loops[0].hidden is None
