"""Small calls of the gallery's pipelines."""

from __future__ import annotations

import numpy as np
from gallery_cases import ROWS, SQUARE, Arrays, Setting, on_map

from attnc.cases import Shape

# Rows and keys of two lengths, no offset.
CROSS = (Shape(9, 13, 4, 3, 2, 2, 2), Shape(7, 7, 2, 5, 1, 1, 3), Shape(4, 1, 4, 3, 1, 2, 1))
FEW = (Shape(12, 12, 4, 3, 2, 2, 2), Shape(9, 9, 2, 5, 1, 1, 3))


def taps(t: Arrays, rng: np.random.Generator) -> None:
    """Compression of four tokens, three gates."""
    for name in ("wk", "wv"):
        t[name] = rng.standard_normal((4, *t[name].shape[1:])) / 2
    t["gate"] = rng.standard_normal((*t["gate"].shape[:3], 3))


def mild(t: Arrays, rng: np.random.Generator) -> None:
    """Scores of a few units: a softmax that is sure of a key has gradients that cancel."""
    t["wq"], t["wk"] = t["wq"] / 4, t["wk"] / 4


def hashes(t: Arrays, rng: np.random.Generator) -> None:
    t["hq"] = rng.integers(0, 4, t["hq"].shape)
    t["hj"] = rng.integers(0, 4, t["hj"].shape)
    t["sample"] = rng.integers(0, t["k"].shape[2], (*t["sample"].shape[:2], 3))


def filters(t: Arrays, rng: np.random.Generator) -> None:
    count, _, width = t["filter"].shape
    t["filter"] = rng.standard_normal((count, t["x"].shape[2], width))


def nine(t: Arrays, rng: np.random.Generator) -> None:
    t["logit"] = rng.standard_normal((*t["logit"].shape[:3], 9, 9))


def odd_taps(t: Arrays, rng: np.random.Generator) -> None:
    t["taps"] = rng.standard_normal((t["taps"].shape[0], 5))


def carried(t: Arrays, rng: np.random.Generator) -> None:
    old = max(t["k"].shape[2] - 2, 0)
    t["carried"] = rng.random((*t["k"].shape[:2], old)) < 0.6


def seven(t: Arrays, rng: np.random.Generator) -> None:
    for name in ("wk", "wv"):
        shape = t[name].shape
        t[name] = rng.standard_normal((shape[0], 7, *shape[2:]))


def steady(t: Arrays, rng: np.random.Generator) -> None:
    t["temperature"] = 0.5 + rng.random(t["temperature"].shape)


def few_images(t: Arrays, rng: np.random.Generator) -> None:
    t["image"] = rng.random(t["image"].shape) < 0.3
    t["sink"] = rng.random(t["sink"].shape) < 0.3


def scans(t: Arrays, rng: np.random.Generator) -> None:
    """Orders that are permutations, places that undo them; steps above 0, decays below."""
    count = t["x"].shape[1]
    t["order"] = np.stack([rng.permutation(count) for _ in t["order"]])
    t["place"] = np.argsort(t["order"], axis=1)
    t["dt"], t["A"] = rng.random(t["dt"].shape), -rng.random(t["A"].shape)


def shares(t: Arrays, rng: np.random.Generator) -> None:
    for name in ("alpha", "beta"):
        t[name] = rng.random(t[name].shape)


def twice(t: Arrays, rng: np.random.Generator) -> None:
    t["w1"] = rng.standard_normal((2 * len(t["wr"]), t["w1"].shape[1]))


def five(t: Arrays, rng: np.random.Generator) -> None:
    """Taps of an odd number; of two maps."""
    shape = (2, 5, 5) if t["taps"].ndim == 3 else (5,)
    t["taps"] = rng.standard_normal(shape)


def positive(t: Arrays, rng: np.random.Generator) -> None:
    t["p"] = 1 + 2 * rng.random(t["p"].shape)


def of_two(t: Arrays, rng: np.random.Generator) -> None:
    """Two kinds of chunks, two branches."""
    for name in ("choice", "mix", "gain"):
        shape = t[name].shape
        t[name] = rng.standard_normal((shape[0], 2, shape[2]))


def cut(t: Arrays, rng: np.random.Generator) -> None:
    """All keys, some, one more than there are, none."""
    keys = t["v"].shape[-2]
    t["length"] = np.resize(rng.permutation([keys - 3, keys + 1]), t["length"].shape)


def heated(t: Arrays, rng: np.random.Generator) -> None:
    """Some text, heat between 0 and 1, one exactly at a threshold."""
    t["text"] = rng.random(t["text"].shape) < 0.3
    t["heat"] = rng.random(t["heat"].shape)
    t["heat"][:, 0], t["heat"][:, 1], t["text"][:, :2] = 0.3, 0.6, False


PIPELINES: dict[str, Setting] = {
    "agent": Setting(numbers=({"agents": 3}, {"agents": 2}, {"agents": 4}), shapes=CROSS),
    "combiner": Setting(statics={"size": 3}, shapes=SQUARE),
    "nsa": Setting(
        statics={"size": 4, "step": 2, "block": 4, "keep": 4, "recent": 3},
        shapes=(Shape(24, 24, 4, 3, 1, 1, 2), Shape(9, 9, 2, 5, 1, 1, 3)),
        tune=taps,
    ),
    "routing_kmeans": Setting(numbers=({"width": 4}, {"width": 3}), shapes=FEW),
    "sea": Setting(numbers=({"keep": 2}, {"keep": 1}), shapes=FEW, tune=odd_taps),
    "hyper_attention": Setting(statics={"block": 4}, shapes=FEW, tune=hashes),
    "lte_window": Setting(numbers=({"size": 2, "sinks": 1},), shapes=FEW, tune=seven),
    "squeeze_excite": Setting(shapes=FEW),
    "hyena": Setting(shapes=FEW, tune=filters),
    "outlook": on_map((3, 4), (5, 2), tune=nine),
    "softmax_context_parallel": Setting(statics={"ranks": 3}, shapes=SQUARE),
    "index_reuse_topk": Setting(
        numbers=({"refresh": False, "keep": 3}, {"refresh": True, "keep": 2}),
        shapes=FEW,
        tune=carried,
    ),
    "channel_attention": Setting(shapes=FEW, tune=steady),
    "sink_redistribution": Setting(shapes=(*FEW, Shape(21, 21, 4, 3, 2, 1, 3)), tune=few_images),
    "ahn": Setting(
        numbers=({"size": 2, "sinks": 1}, {"size": 3, "sinks": 0}), shapes=FEW, tune=shares
    ),
    "ss2d": Setting(shapes=FEW, tune=scans),
    "fourier_positions": Setting(shapes=FEW, tune=twice),
    "p_laplacian": Setting(numbers=({"p": 1.5, "mu": 0.1}, {"p": 1.2, "mu": 0.3}), shapes=FEW),
    "eca": Setting(shapes=FEW, tune=five),
    "spatial_gate": on_map((3, 4), (5, 2), tune=five),
    "gem_pooling": Setting(shapes=FEW, tune=positive),
    "learned_query_pooling": Setting(shapes=CROSS, tune=cut),
    "additive_pooling": Setting(shapes=CROSS, tune=cut),
    "block_topk": Setting(
        statics={"block": 3, "keep": 3},
        shapes=(Shape(15, 15, 4, 3, 2, 1, 2), Shape(9, 9, 2, 5, 1, 1, 3)),
    ),
    "retrieval_merge": Setting(
        numbers=({"size": 3, "sinks": 1}, {"size": 2, "sinks": 0}), shapes=FEW
    ),
    "masked_kv_sharing": Setting(
        numbers=({"threshold": 0.3}, {"threshold": 0.6}), shapes=CROSS[:2], tune=heated
    ),
    "flow_attention": Setting(shapes=CROSS[:2]),
    "hydra": Setting(shapes=SQUARE),
    "natsl": Setting(statics={"size": 3}, shapes=FEW, tune=of_two),
    "titans_mag": Setting(statics={"chunk": 4}, numbers=({"window": 3}, {"window": 2}), shapes=FEW),
    "titans_mal": Setting(
        statics={"chunk": 4}, numbers=({"window": 3}, {"window": 2}), shapes=FEW, tune=mild
    ),
    "titans_hybrid": Setting(statics={"size": 4}, shapes=ROWS),
}
