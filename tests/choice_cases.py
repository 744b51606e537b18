"""Small calls of the gallery's operators that choose, keep, and tell what a map says."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from gallery_cases import SQUARE, Arrays, Setting, on_map

from attnc.cases import Shape

# Every row is a key too; of two batch entries and of one.
FEW = (Shape(12, 12, 4, 3, 2, 2, 2), Shape(9, 9, 2, 5, 1, 1, 3))
ALONE = (Shape(12, 12, 4, 3, 1, 1, 2), Shape(9, 9, 2, 5, 1, 2, 1))  # few programs: masks of data
CROSS = (Shape(9, 13, 4, 3, 2, 2, 2), Shape(7, 5, 2, 5, 1, 1, 3))
CACHED = (Shape(6, 15, 4, 3, 2, 2, 2, offset=9), Shape(5, 5, 2, 5, 1, 1, 3))


def lengths(t: Arrays, rng: np.random.Generator) -> None:
    """Some keys cut; in one entry more than there are."""
    keys = t["k"].shape[-2]
    t["length"] = np.resize(rng.permutation([keys - 3, keys + 1]), t["length"].shape)


def short(t: Arrays, rng: np.random.Generator) -> None:
    """Two keys, and more than there are."""
    t["length"] = np.resize([2, t["k"].shape[2] + 1], t["length"].shape)


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
    boxes = [(*pair, 0, middle) for pair in pairwise(bands)]
    boxes += [(*pair, middle, keys) for pair in pairwise(bands)]
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


def gates(t: Arrays, rng: np.random.Generator) -> None:
    """Gates of four channels, which turn in pairs."""
    for name in ("wq", "wmax", "wmin", "wmean"):
        t[name] = rng.standard_normal((*t[name].shape[:2], 4))


def blockwise(t: Arrays, rng: np.random.Generator) -> None:
    """Rows and keys that differ little within blocks of three, so that blocks are known by their
    means."""
    for name in ("q", "k"):
        coarse = 2 * rng.standard_normal((*t[name].shape[:2], 9, t[name].shape[3]))
        near = np.repeat(coarse, 3, axis=2)[:, :, : t[name].shape[2]]
        t[name] = near + 0.4 * rng.standard_normal(t[name].shape)


def five_taps(t: Arrays, rng: np.random.Generator) -> None:
    heads, _, _, width = t["taps"].shape
    t["taps"] = rng.standard_normal((heads, 5, 7, width)) / 4


def histories(t: Arrays, rng: np.random.Generator) -> None:
    """Weights of the last eleven steps, spectra of three numbers."""
    t["seen"] = rng.random((*t["k"].shape[:3], 11)) / 4
    t["carried"] = 3 * rng.standard_normal((*t["k"].shape[:3], 3))
    for name in ("wq", "wk", "wv"):
        t[name] = rng.standard_normal((3, t[name].shape[1]))
    t["w2"] = np.resize([0.4, -0.3], t["w2"].shape)


def cascades(t: Arrays, rng: np.random.Generator) -> None:
    t["worth"], t["fame"] = rng.random(t["worth"].shape), rng.random(t["fame"].shape)


def turns(t: Arrays, rng: np.random.Generator) -> None:
    tokens = t["turn"].shape[1]
    t["length"] = np.resize([tokens - 2, tokens + 1], t["length"].shape)


def tuned(t: Arrays, rng: np.random.Generator) -> None:
    t["tuned"] = np.arange(t["tuned"].size) % 3 != 1


def covered(t: Arrays, rng: np.random.Generator) -> None:
    """Maps between 0 and 1, kernels of five by seven."""
    for name in ("first", "second"):
        heads, _, _, width = t[name].shape
        t[name] = rng.standard_normal((heads, 5, 7, width)) / 4
    t["prior"] = rng.random(t["prior"].shape)


def states(t: Arrays, rng: np.random.Generator) -> None:
    """Steps above 0, decays below; what has the largest size is negative."""
    for name in ("x", "B", "C"):
        t[name][0, 0, 0] = -2 * np.abs(t[name]).max()
    t["dt"], t["A"] = rng.random(t["dt"].shape), -rng.random(t["A"].shape)


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
    "seer_attention": Setting(
        statics={"block": 3, "keep": 2}, shapes=ALONE, tune=gates, emits=("gates", "target")
    ),
    "rectified_sparse": Setting(
        statics={"block": 3, "keep": 1},
        shapes=(Shape(26, 26, 4, 3, 1, 1, 2), Shape(20, 25, 2, 5, 1, 1, 1)),
        tune=blockwise,
    ),
    "dynamic_mask": Setting(numbers=({"keep": 4}, {"keep": 2}), shapes=ALONE, emits=("open",)),
    "bilevel_routing": on_map((4, 6), (5, 3), statics={"side": 2, "keep": 2}, tune=five_taps),
    "token_pruning": Setting(
        numbers=({"keep": 3},),
        shapes=CROSS,
        tune=short,
        emits=("early", "survivors"),
    ),
    "namm": Setting(
        statics={"size": 4, "hop": 2},
        numbers=({"fade": 0.6}, {"fade": 0.8}),
        shapes=FEW,
        tune=histories,
        emits=("spectrum", "worths", "survivors"),
    ),
    "cascade_pruning": Setting(
        numbers=({"tokens": 8, "heads": 3, "values": 3}, {"tokens": 5, "heads": 2, "values": 2}),
        shapes=FEW,
        tune=cascades,
        emits=("worths", "fames"),
    ),
    "slot_memory": Setting(shapes=FEW, tune=turns, emits=("moved",)),
    "attention_calibration": Setting(
        numbers=({"limit": 0.2}, {"limit": 0.12, "beta": 0.7}),
        shapes=FEW,
        tune=tuned,
        emits=("sinks",),
    ),
    "coverage_refined": Setting(
        numbers=({"height": 3, "width": 4}, {"height": 2, "width": 3}),
        shapes=(Shape(7, 12, 4, 3, 2, 2, 2), Shape(5, 6, 2, 5, 1, 1, 3)),
        tune=covered,
    ),
    "streaming_rewrite": Setting(shapes=FEW),
    "spec_transforms": Setting(shapes=FEW, tune=states),
    "accumulated_eviction": Setting(
        numbers=(
            {"budget": 3, "recent": 1, "alpha": 1.0},
            {"budget": 5, "recent": 2, "alpha": 0.8},
        ),
        shapes=(Shape(7, 7, 2, 5, 1, 1, 3), Shape(12, 12, 4, 3, 2, 1, 2)),
    ),
}
