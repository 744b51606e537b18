"""A small call of every operator of tests/language: sizes of its axes, numbers, statics, and inputs
that are not just random reals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from attnc.front import load_source, read_spec
from attnc.spec import Spec

FOLDER = Path(__file__).parent / "language"
Draw = Callable[[np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Call:
    sizes: dict[str, int] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)
    statics: dict[str, int] = field(default_factory=dict)
    inputs: dict[str, Draw] = field(default_factory=dict)
    keywords: dict[str, Any] = field(default_factory=dict)

    @property
    def all_numbers(self) -> dict[str, Any]:
        return {**self.numbers, **self.statics, **self.keywords}


SIZES = {"b": 2, "h": 4, "hk": 2, "i": 7, "j": 7, "t": 7, "d": 4, "e": 3, "n": 6, "m": 3, "c": 4}
EVEN = {"hk": 4}  # as many key heads as heads


def integers(low: int, high: int, *shape: int) -> Draw:
    return lambda rng: rng.integers(low, high, shape)


def bools(*shape: int) -> Draw:
    return lambda rng: rng.random(shape) < 0.6


def near_zero(*shape: int) -> Draw:  # log decays
    return lambda rng: -rng.random(shape)


def unit(*shape: int) -> Draw:
    return lambda rng: rng.random(shape)


def orders(rng: np.random.Generator) -> np.ndarray:
    return np.array([[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [0, 2, 4, 1, 3, 5]])


def places(rng: np.random.Generator) -> np.ndarray:
    return np.argsort(orders(rng), axis=1)


TITANS = {
    "alpha": unit(2, 4, 7),
    "eta": unit(2, 4, 7),
    "theta": lambda rng: 0.05 * rng.random((2, 4, 7)),
}
CALLS: dict[str, Call] = {
    "causal_softmax": Call(),
    "rope": Call(),
    "additive_feedback": Call(),
    "memory_slots": Call(),
    "tensor_attention": Call(),
    "document_mask": Call(
        numbers={"size": 3, "cap": 2.0},
        inputs={"doc": lambda rng: np.sort(integers(0, 3, 2, 7)(rng))},
    ),
    "aaren": Call(),
    "sink_window": Call(numbers={"size": 2, "sinks": 1}),
    "transformer_xl": Call(
        {"i": 4, "j": 7, "lag": 7}, numbers={"memory": 3}, keywords={"offset": 3}
    ),
    "gated_delta": Call(EVEN, inputs={"beta": unit(2, 4, 7), "g": near_zero(2, 4, 7)}),
    "mvpa": Call({"i": 24, "j": 24, "lag": 12, "gap": 2}, numbers={"times": 12, "channels": 2}),
    "gaussian_local": Call(
        numbers={"D": 2.0}, inputs={"p": lambda rng: rng.random((2, 4, 7)) * 9 - 1}
    ),
    "constant_decay": Call(EVEN, inputs={"slope": unit(4)}),
    "neighborhood": Call(
        {"i": 40, "j": 40, "ry": 7, "rx": 7},
        numbers={"frames": 2, "height": 4, "width": 5},
        statics={"size": 2, "dilation": 2, "stride": 1},
    ),
    "halo": Call(
        {"i": 12, "j": 12, "rel": 5},
        numbers={"height": 3, "width": 4},
        statics={"block": 2, "reach": 1},
    ),
    "mixture_of_heads": Call({"two": 2}, statics={"shared": 1, "keep": 2}),
    "duo_heads": Call(
        numbers={"sinks": 1, "recent": 2}, inputs={"retrieval": lambda rng: np.array([True, False])}
    ),
    "sinkhorn": Call(inputs={"length": lambda rng: np.array([7, 4])}),
    "landmark": Call({"i": 11, "j": 11}, statics={"size": 3}),
    "sparsemax": Call(),
    "softplus_reweighted": Call(numbers={"power": 3.0}),
    "flow_attention": Call({"i": 5}),
    "cosformer": Call({"i": 5}),
    "performer": Call(),
    "rwkv7": Call(EVEN, inputs={"w": unit(2, 4, 7, 4)}),
    "titans_linear": Call(EVEN, statics={"chunk": 3}, inputs=TITANS),
    "titans_mlp": Call({**EVEN, "f": 5}, statics={"chunk": 3}, inputs=TITANS),
    "hyper_attention": Call(
        {"r": 3},
        statics={"block": 2},
        inputs={
            "hq": integers(0, 4, 2, 4, 7),
            "hj": integers(0, 4, 2, 2, 7),
            "sample": integers(0, 7, 2, 4, 3),
        },
    ),
    "mamba": Call({"n": 3}, inputs={"dt": unit(2, 7, 4), "A": near_zero(4, 3)}),
    "ss2d": Call(
        {"r": 3, "s": 2},
        inputs={
            "order": orders,
            "place": places,
            "dt": unit(2, 3, 6, 4),
            "A": near_zero(3, 4, 2),
        },
    ),
    "hyena": Call({"n": 3, "lag": 7}),
    "outlook": Call({"n": 12, "u": 9, "w": 9}, numbers={"height": 3, "width": 4}, statics={"K": 3}),
    "nsa": Call(
        {"i": 16, "j": 16, "r": 4, "a": 4, "three": 3},
        statics={"size": 4, "step": 2, "block": 4, "keep": 2, "recent": 3},
    ),
    "routing_kmeans": Call(numbers={"width": 4}),
    "sea": Call({"m": 3, "f": 5, "c": 4, "u": 3}, numbers={"keep": 2}),
    "lte_window": Call({"u": 7, "f": 3}, numbers={"size": 2, "sinks": 1}),
    "agent": Call({"i": 7, "a": 3}, numbers={"agents": 3}),
    "softmax_context_parallel": Call(statics={"ranks": 3}),
    "combiner": Call({"i": 8, "j": 8}, statics={"size": 3}),
    "squeeze_excite": Call({"f": 3}),
    "channel_attention": Call(inputs={"temperature": lambda rng: 0.5 + rng.random(4)}),
    "deformable_points": Call(
        {"i": 3, "l": 2, "p": 2, "n": 10},
        inputs={
            "first": lambda rng: np.array([0, 6]),
            "rows": lambda rng: np.array([2, 2]),
            "cols": lambda rng: np.array([3, 2]),
        },
    ),
    "sink_redistribution": Call(inputs={"image": bools(2, 7), "sink": bools(2, 7)}),
    "accumulated_eviction": Call(numbers={"budget": 2, "recent": 2, "alpha": 0.9}),
    "index_reuse_topk": Call(
        {"old": 5}, numbers={"refresh": False, "keep": 3}, inputs={"carried": bools(2, 2, 5)}
    ),
    "ahn": Call(
        numbers={"size": 2, "sinks": 1}, inputs={"alpha": unit(2, 4, 7), "beta": unit(2, 4, 7)}
    ),
    "segment_relation": Call(
        {"s": 3, "o": 3}, inputs={"kind": integers(0, 3, 2, 7), "allowed": bools(3, 3)}
    ),
    "shifted_window": Call(
        {"i": 12, "j": 12, "ry": 3, "rx": 3},
        numbers={"height": 3, "width": 4},
        statics={"size": 2, "shift": 1},
    ),
    "diag_ssm": Call(
        {"n": 3},
        inputs={"dt": unit(4), "lam": lambda rng: -rng.random((4, 3)) + 2j * rng.random((4, 3))},
    ),
}


def read(name: str, statics: Mapping[str, int] | None = None) -> Spec:
    source = load_source(FOLDER / f"{name}.attn")
    return read_spec(source, statics=CALLS[name].statics if statics is None else statics)


def tensors(spec: Spec, call: Call, seed: int = 0, scale: float = 1.0) -> dict[str, np.ndarray]:
    """Random tensors of a call, its special inputs drawn as it says."""
    rng = np.random.default_rng(seed)
    sizes = {**SIZES, **call.sizes}
    found = {}
    for given in spec.inputs:
        array = given.array
        if given.name in call.inputs:
            found[given.name] = call.inputs[given.name](rng)
            continue
        shape = tuple(sizes.get(index.axis.name, 0) for index in array.indices)
        values = rng.normal(size=shape) * scale
        if array.kind == "complex":
            values = values + 1j * rng.normal(size=shape)
        found[given.name] = values
    return found
