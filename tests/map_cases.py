"""Small calls of the gallery's gates and mixers of maps, and of points between those of a map."""

from __future__ import annotations

import numpy as np
from gallery_cases import Arrays, Setting, Tune, grids, on_map

from attnc.cases import Shape

FEW = (Shape(7, 7, 4, 3, 2, 1, 2), Shape(5, 5, 3, 2, 1, 1, 2))


def sized(**shapes: tuple[int | None, ...]) -> Tune:
    """Tensors of other sizes; None keeps the drawn one, as those after the last are."""

    def tune(t: Arrays, rng: np.random.Generator) -> None:
        for name, shape in shapes.items():
            if name in t:
                wanted = (*shape, *(None,) * (t[name].ndim - len(shape)))
                kept = (new or old for new, old in zip(wanted, t[name].shape, strict=True))
                t[name] = rng.standard_normal(tuple(kept))

    return tune


def pyramid(t: Arrays, rng: np.random.Generator) -> None:
    """Two maps of other sizes in one array; points within, on and beyond their borders."""
    batch, heads, rows = t["logit"].shape[:3]
    t["rows"], t["cols"] = np.array([3, 2]), np.array([4, 1])
    t["first"] = np.array([0, 12])
    t["v"] = rng.standard_normal((batch, heads, 14, t["v"].shape[3]))
    for name in ("logit", "py", "px"):
        t[name] = rng.uniform(-1.5, 4.5, (batch, heads, rows, 2, 3))
    t["py"][..., 0, 0, 0] = 2.0


def coarse(t: Arrays, rng: np.random.Generator) -> None:
    t["g"] = rng.standard_normal((t["g"].shape[0], 4 if t["x"].shape[1] == 12 else 2, 5))


def spread_out(t: Arrays, rng: np.random.Generator) -> None:
    """Wide enough to be seen; all tokens, and fewer."""
    t["c"] = rng.uniform(1.5, 2.5, t["c"].shape)
    tokens = t["x"].shape[2]
    t["length"] = np.resize([max(tokens - 2, 2), tokens], t["length"].shape)


def thresholds(t: Arrays, rng: np.random.Generator) -> None:
    """Some frequencies of a head are below its threshold."""
    t["bias"] = rng.uniform(-3, 0.5, t["bias"].shape)


MAPS: dict[str, Setting] = {
    "conditioned_gate": Setting(shapes=FEW),
    "strip_gate": on_map(
        (3, 4),
        (5, 2),
        statics={"size": 2},
        tune=sized(x=(None, None, 6), taps=(5, 6), gain=(6,), shift=(6,)),
    ),
    "attention_gate": Setting(
        numbers=(*grids((3, 4), rows=2, cols=2), *grids((5, 2), rows=2, cols=1)),
        shapes=(Shape(12, 12, 4, 3, 2), Shape(10, 10, 4, 3, 1)),
        tune=coarse,
    ),
    "pixel_gate": on_map((3, 4), (5, 2)),
    "gaussian_adaptive": Setting(
        numbers=({"eps": 1e-5},), shapes=(*FEW, Shape(2, 2, 3, 2, 1, 1, 2)), tune=spread_out
    ),
    "subspace_softmax": on_map(
        (3, 4),
        (5, 2),
        statics={"size": 2},
        tune=sized(x=(None, None, 6), w1=(6,), shift1=(6,), w2=(6,), scale2=(3,), shift2=(3,)),
    ),
    "stream_fusion": Setting(shapes=FEW),
    "fftnet": Setting(shapes=FEW, tune=thresholds),
    "focal_modulation": on_map((3, 4), (5, 2), tune=sized(t2=(7, 7, None), wg=(None, 3), bg=(3,))),
    "inception_mixer": on_map(
        (4, 6), (5, 2), statics={"pool": 2}, tune=sized(into=(3, None, None, None), mix=(5, 5, 15))
    ),
    "padded_window": Setting(
        statics={"reach": 1, "dilation": 3, "stride": 2},
        numbers=grids((5, 5), (3, 2)),
        shapes=(Shape(9, 25, 4, 3, 2, 1, 2), Shape(2, 6, 4, 3, 1, 2, 1)),
    ),
    "row_column_product": Setting(
        numbers=grids((3, 4), (5, 2)),
        shapes=(Shape(7, 12, 4, 3, 2, 2), Shape(3, 10, 4, 2, 1, 1)),
    ),
    "st_gated_fusion": on_map(
        (3, 4), (5, 2), names=("times", "sensors"), tune=sized(w=(2, 3), u=(2, 3))
    ),
    "deformable_points": Setting(shapes=FEW, tune=pyramid),
    "deformable_keys": on_map((3, 4), (5, 3), statics={"stride": 2}, reach=1.5),
}
