"""Small calls of the gallery's summaries, and of operators that join several sources."""

from __future__ import annotations

import numpy as np
from gallery_cases import Arrays, Setting, grids, resize

from attnc.cases import Shape

LINE = (Shape(13, 13, 4, 3, 2, 1, 2), Shape(9, 9, 2, 5, 1, 2, 1))
FEW = (Shape(6, 7, 4, 3, 2, 2, 1), Shape(5, 4, 2, 5, 1, 1, 1))


def cut(t: Arrays, rng: np.random.Generator) -> None:
    """Some keys; more than there are."""
    keys = next(t[name] for name in ("k", "v", "x") if name in t).shape[-2]
    t["length"] = np.resize(np.array([keys - 3, keys + 1]), t["length"].shape)


def emptied(t: Arrays, rng: np.random.Generator) -> None:
    """Some keys and none; one."""
    few = [t["k"].shape[2] - 3, 0] if len(t["k"]) > 1 else [1]
    t["length"] = np.array(few)


def taps(t: Arrays, rng: np.random.Generator) -> None:
    cut(t, rng)
    t["taps"] = rng.standard_normal((len(t["taps"]), 5))


def reduced(t: Arrays, rng: np.random.Generator) -> None:
    """A strided convolution of two by two, three tokens beside the map."""
    t["taps"] = rng.standard_normal((2, 2, *t["taps"].shape[2:]))
    resize(t, rng, 3, "k", "v")


def assigned(t: Arrays, rng: np.random.Generator) -> None:
    """The third code is of no node."""
    codes = len(t["code"])
    t["place"] = np.array([0, 0, 0, 1, 0, *range(3, codes), codes - 1, codes - 1])
    t["place"][t["place"] == 2] = 0


def even(t: Arrays, rng: np.random.Generator) -> None:
    """Embeddings for each segment; lengths that end with one."""
    keys = t["k"].shape[2]
    t["length"] = np.resize(np.array([8, keys + 1]), t["length"].shape)
    t["place"] = rng.standard_normal((-(-t["k"].shape[2] // 4), t["place"].shape[1]))


def modes(t: Arrays, rng: np.random.Generator) -> None:
    """Text, two pictures one after the other, text."""
    shape = t["kind"].shape
    t["kind"] = rng.integers(0, t["wq"].shape[1], shape)
    t["image"] = np.broadcast_to(np.repeat([-1, 3, 0, -1], (shape[1] + 3) // 4)[: shape[1]], shape)


def holes(t: Arrays, rng: np.random.Generator) -> None:
    """Two halves; patches whose holes are exactly half of them, large ones that are all holes."""
    for name in "qkv":
        shape = t[name].shape
        t[name] = rng.standard_normal((shape[0], 2, *shape[2:]))
    t["hole"] = rng.random(t["hole"].shape) < 0.3
    t["hole"][:, :8], t["hole"][:, 16:] = [row in (0, 1, 6, 7) for row in range(8)], True


def located(t: Arrays, rng: np.random.Generator) -> None:
    """Key points near the rows, some beyond the table."""
    for name in ("ky", "kx", "qy", "qx"):
        t[name] = 4 * rng.random(t[name].shape)
    t["table"] = rng.standard_normal((len(t["table"]), 5, 6))


SUMMARIES: dict[str, Setting] = {
    "lara": Setting(numbers=({"marks": 5}, {"marks": 3}), shapes=LINE),
    "core_context": Setting(
        statics={"size": 3}, numbers=({"recent": 4}, {"recent": 3}), shapes=LINE
    ),
    "pooled_kv": Setting(
        {"step": 2},
        grids((4, 6), (5, 3)),
        (Shape(24, 24, 4, 3, 2, 2, 1), Shape(15, 15, 2, 5)),
        reduced,
    ),
    "codebook_logcount": Setting(shapes=FEW, tune=assigned, emits=("local",)),
    "vq_attention": Setting(statics={"size": 3}, shapes=LINE),
    "nystromformer": Setting(
        {"rounds": 2}, numbers=({"marks": 4}, {"marks": 3}), shapes=LINE, tune=taps
    ),
    "abc": Setting(shapes=(Shape(9, 9, 4, 3, 2, 2, 2), Shape(1, 1, 4, 3, 1, 1, 3))),
    "long_short": Setting(statics={"size": 4}, shapes=LINE, tune=emptied),
    "perceiver_resampler": Setting(shapes=FEW, tune=cut),
    "head_tokens": Setting(shapes=FEW),
    "hierarchical": Setting(statics={"size": 4}, shapes=LINE, tune=even),
    "recurrent_window": Setting(
        statics={"size": 2, "windows": 3},
        shapes=(Shape(7, 7, 2, 3, 1, 1, 1), Shape(5, 5, 2, 5, 1, 1, 1)),
    ),
    "lowrank_pooling": Setting(shapes=FEW, tune=cut),
    "aggregated": Setting(
        {"reach": 1, "step": 2},
        grids((4, 6), (5, 3)),
        (Shape(24, 24, 4, 3, 1, 1, 2), Shape(15, 15, 2, 5)),
    ),
    "mixencoder": Setting(shapes=FEW, tune=cut, emits=("text",)),
    "modality_untied": Setting(shapes=LINE, tune=modes),
    "patch_heads": Setting(
        {"rows": 2, "columns": 2, "tall": 2, "wide": 4},
        grids((3, 2, 4), (1, 6, 4), names=("frames", "height", "width")),
        (Shape(24, 24, 3, 3, 1), Shape(24, 24, 2, 2, 1)),
        holes,
    ),
    "geometry_bias": Setting(
        numbers=({"keep": 3, "step": 0.8}, {"keep": 2, "step": 1.5}), shapes=FEW, tune=located
    ),
}
