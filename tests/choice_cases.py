"""Small calls of the gallery's operators that choose, keep, and tell what a map says."""

from __future__ import annotations

import numpy as np
from gallery_cases import SQUARE, Arrays, Setting

from attnc.cases import Shape

# Every row is a key too; of two batch entries and of one.
FEW = (Shape(12, 12, 4, 3, 2, 2, 2), Shape(9, 9, 2, 5, 1, 1, 3))
CROSS = (Shape(9, 13, 4, 3, 2, 2, 2), Shape(7, 5, 2, 5, 1, 1, 3))
CACHED = (Shape(6, 15, 4, 3, 2, 2, 2, offset=9), Shape(5, 5, 2, 5, 1, 1, 3))


def lengths(t: Arrays, rng: np.random.Generator) -> None:
    """Some keys cut; in one entry more than there are."""
    keys = t["k"].shape[-2]
    t["length"] = np.resize(rng.permutation([keys - 3, keys + 1]), t["length"].shape)


def nodes(t: Arrays, rng: np.random.Generator) -> None:
    t["near"] = rng.random(t["near"].shape) < 0.3


def planes(t: Arrays, rng: np.random.Generator) -> None:
    """Three bits for each group; some behaviours share a candidate's bucket."""
    lengths(t, rng)
    groups, _, width = t["plane"].shape
    t["plane"] = rng.standard_normal((groups, 3, width))


def samples(t: Arrays, rng: np.random.Generator) -> None:
    t["sample"] = rng.integers(0, t["k"].shape[2], (t["q"].shape[2], 4))


def two_lengths(t: Arrays, rng: np.random.Generator) -> None:
    t["rows"] = np.resize([t["q"].shape[2] - 2, t["q"].shape[2] + 1], t["rows"].shape)
    t["keys"] = np.resize([t["k"].shape[2] + 1, t["k"].shape[2] - 3], t["keys"].shape)


def layers(t: Arrays, rng: np.random.Generator) -> None:
    """Three layers whose tokens are the rows."""
    batch, heads, rows, width = t["q"].shape
    for name in ("ql", "kl"):
        t[name] = 2 * rng.standard_normal((batch, 3, heads, rows, width))


def tree(t: Arrays, rng: np.random.Generator) -> None:
    """Each node's parent is some node before it."""
    batch, rows = t["q"].shape[0], t["q"].shape[2]
    t["tree"] = np.zeros((batch, rows, rows), bool)
    for b, i in np.ndindex(batch, rows):
        if i:
            t["tree"][b, i] = t["tree"][b, rng.integers(0, i)]
        t["tree"][b, i, i] = True


def slices(t: Arrays, rng: np.random.Generator) -> None:
    """Boxes that do not overlap: bands of rows, one or two boxes each; every type."""
    rows, keys = t["q"].shape[2], t["k"].shape[2]
    bands = [0, rows // 3, 2 * rows // 3, rows]
    middle = keys // 2
    boxes = [(*pair, 0, middle) for pair in zip(bands, bands[1:], strict=False)]
    boxes += [(*pair, middle, keys) for pair in zip(bands, bands[1:], strict=False)]
    for at, name in enumerate(("q0", "q1", "k0", "k1")):
        t[name] = np.array([boxes[one][at] for one in (0, 4, 2, 3, 1, 5)])
    t["after"] = np.array([False, True, False, True, True, False])
    t["before"] = np.array([False, False, True, True, False, True])


def filters(t: Arrays, rng: np.random.Generator) -> None:
    """A filter for all results that the cache covers."""
    width = t["u"].shape[2]
    t["cache"] = rng.standard_normal((len(t["u"]), t["u"].shape[1] + 5, width))
    t["filter"] = rng.standard_normal((t["u"].shape[1] + 3, width))


def shrinking(t: Arrays, rng: np.random.Generator) -> None:
    t["slope"] = rng.uniform(0.02, 0.4, t["slope"].shape)


CHOICES: dict[str, Setting] = {
    "gat": Setting(shapes=FEW, tune=nodes),
    "sdim": Setting(shapes=(Shape(9, 33, 4, 3, 2), Shape(4, 20, 2, 3, 1)), tune=planes),
    "probsparse": Setting(
        numbers=({"active": 5, "causal": True}, {"active": 3, "causal": False}),
        shapes=FEW,
        tune=samples,
    ),
    "selective_lookups": Setting(numbers=({"hard": False}, {"hard": True}), shapes=FEW),
    "bidirectional_cross": Setting(
        numbers=({"keep": 3}, {"keep": 2}),
        shapes=CROSS,
        tune=two_lengths,
        emits=("answer", "kept"),
    ),
    "attention_statistics": Setting(
        numbers=({"horizon": 4, "window": 3}, {"horizon": 2, "window": 5, "beta": 0.5}),
        shapes=FEW,
        emits=("received", "duration", "focus", "distance", "coverage"),
    ),
    "attention_gradcam": Setting(shapes=CROSS, tune=lengths, emits=("cam", "grounded")),
    "attention_rollout": Setting(
        statics={"layers": 3},
        numbers=({"keep": 4}, {"keep": 2}),
        shapes=FEW,
        tune=layers,
        emits=("importance",),
    ),
    "speculative_verify": Setting(shapes=CACHED, tune=tree),
    "benchmark_harness": Setting(shapes=CROSS, tune=slices),
    "futurefill": Setting(shapes=FEW, tune=filters, emits=("future",)),
    "linear_sequence_parallel": Setting(statics={"size": 4}, shapes=SQUARE, tune=shrinking),
}
