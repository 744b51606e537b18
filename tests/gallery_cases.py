"""Small calls of every gallery operator: statics, numbers and tensors that make each part count."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from attnc.cases import Case, Shape, draw_case
from attnc.compiler import lower
from attnc.expressions.evaluate import Environment, evaluate
from attnc.front import load_source, read_spec
from attnc.spec import Spec
from attnc.stages import Stages

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
FAMILIES = (
    "softmax", "positional", "window", "grid", "segment", "head", "normalizer", "variants",
    "linear", "decay", "delta", "ssm", "convolution", "sparse", "summary", "gate", "sampling",
    "axis", "edit", "cache", "system",
)  # fmt: skip

Arrays = dict[str, np.ndarray]
Tune = Callable[[Arrays, np.random.Generator], None]

# Rows, keys, width, value width, key heads, group, offset. Lengths of none and one are among them.
LINE = (
    Shape(9, 13, 4, 3, 2, 2, 2, offset=4),
    Shape(7, 7, 2, 5, 1, 1, 3),
    Shape(1, 11, 6, 2, 2, 2, 1, offset=10),
    Shape(0, 5, 4, 4, 1, 1, 1),
)
# No offset: every row is a key too.
SQUARE = (
    Shape(12, 12, 4, 3, 2, 2, 2),
    Shape(9, 9, 2, 5, 1, 1, 3),
    Shape(1, 1, 4, 2, 1, 2, 1),
)


@dataclass(frozen=True)
class Setting:
    """How an operator is called.

    numbers   one dict of params for each shape in turn
    tune      what random tensors cannot know: ids in range, lengths that cut
    emits     what the reference gives beside the result, and kernels are compared in
    """

    statics: dict[str, Any] = field(default_factory=dict)
    numbers: tuple[dict[str, Any], ...] = ({},)
    shapes: tuple[Shape, ...] = LINE
    tune: Tune | None = None
    emits: tuple[str, ...] = ()


def grids(*sizes: tuple[int, ...], names: tuple[str, ...] = ("height", "width"), **more: Any):
    """Numbers of maps, with further params."""
    return tuple(dict(zip(names, size, strict=True)) | more for size in sizes)


def on_map(
    *sizes: tuple[int, ...],
    statics: dict[str, Any] | None = None,
    tune: Tune | None = None,
    names: tuple[str, ...] = ("height", "width"),
    **more: Any,
) -> Setting:
    """Rows and keys are the tokens of a map."""
    shapes = tuple(
        Shape(int(np.prod(size)), int(np.prod(size)), 4, 3, 2, 1 + n % 2, 1 + n % 2)
        for n, size in enumerate(sizes)
    )
    return Setting(statics or {}, grids(*sizes, names=names, **more), shapes, tune)


def resize(t: Arrays, rng: np.random.Generator, length: int, *names: str) -> None:
    """Keys of a second source, `length` of them."""
    for name in names:
        t[name] = rng.standard_normal((*t[name].shape[:2], length, *t[name].shape[3:]))


def lengths(t: Arrays, rng: np.random.Generator) -> None:
    """Lengths that cut the keys: one more than all of them, all, some, none."""
    keys = t["k"].shape[2]
    cut = rng.integers(-1, keys // 2 + 1, t["length"].shape)
    t["length"] = np.where(rng.random(t["length"].shape) < 0.15, 0, keys - cut)
    t["length"][:1] = keys // 2


def two_lengths(t: Arrays, rng: np.random.Generator) -> None:
    lengths(t, rng)
    resize(t, rng, 5, "k2", "v2")
    t["length2"] = rng.integers(0, 7, t["length2"].shape)


def scopes(t: Arrays, rng: np.random.Generator) -> None:
    resize(t, rng, 6, "kg", "vg")
    t["frame"] = rng.integers(0, 9, 6)


def slots(*names: str) -> Tune:
    def tune(t: Arrays, rng: np.random.Generator) -> None:
        for name in names:
            t[name] = rng.standard_normal((t[name].shape[0], 5, t[name].shape[2]))

    return tune


def sources(t: Arrays, rng: np.random.Generator) -> None:
    resize(t, rng, 5, "ks", "vs")


def drops(t: Arrays, rng: np.random.Generator) -> None:
    """None dropped, one, some."""
    for b, flags in enumerate(t["dropped"]):
        count = (1, 0, 4)[(b + flags.size) % 3]
        flags[:] = rng.permutation(flags.size) < count
    t["retrieval"][:] = np.arange(t["retrieval"].size) % 2 == 1


def temperatures(t: Arrays, rng: np.random.Generator) -> None:
    """One beyond the clamp at log 100."""
    t["temperature"] = rng.uniform(-1, 2, t["temperature"].shape)
    t["temperature"][-1] = 4.9


def kinds(t: Arrays, rng: np.random.Generator) -> None:
    t["kind"] = rng.integers(0, 3, t["kind"].shape)
    t["allowed"] = rng.random((3, 3)) < 0.6


def ids(low: int, high: int, *names: str) -> Tune:
    def tune(t: Arrays, rng: np.random.Generator) -> None:
        for name in names:
            t[name] = rng.integers(low, high, t[name].shape)

    return tune


def unsorted(t: Arrays, rng: np.random.Generator) -> None:
    t["rows"] = rng.integers(0, 3, t["rows"].shape)
    t["keys"] = rng.integers(0, 3, t["keys"].shape)


def intervals(t: Arrays, rng: np.random.Generator) -> None:
    keys = t["k"].shape[2]
    t["lo"] = rng.integers(0, keys + 1, t["lo"].shape)
    t["hi"] = t["lo"] + rng.integers(-2, 6, t["hi"].shape)


def between_0_and_1(name: str) -> Tune:
    def tune(t: Arrays, rng: np.random.Generator) -> None:
        t[name] = rng.uniform(0.3, 0.95, t[name].shape)

    return tune


def wide(name: str, factor: float) -> Tune:
    def tune(t: Arrays, rng: np.random.Generator) -> None:
        t[name] = t[name] * factor

    return tune


def sharp(t: Arrays, rng: np.random.Generator) -> None:
    """Queries long enough to meet a cap or a clamp."""
    t["q"] = t["q"] * 6


def groups(t: Arrays, rng: np.random.Generator) -> None:
    t["shift"] = np.where(np.arange(t["shift"].size) % 2 == 1, 2, 0)


def special(t: Arrays, rng: np.random.Generator) -> None:
    t["special"] = rng.random(t["special"].shape) < 0.35
    blocks = (t["k"].shape[2] + 1) // 2
    t["listed"] = rng.random((t["q"].shape[1], blocks, blocks)) < 0.2
    t["length"] = t["k"].shape[2] - rng.integers(0, 4, t["length"].shape)


def listed(t: Arrays, rng: np.random.Generator) -> None:
    blocks = (t["k"].shape[2] + 1) // 2
    t["listed"] = rng.random((*t["q"].shape[:2], blocks, blocks)) < 0.5


def borders(t: Arrays, rng: np.random.Generator) -> None:
    shape = t["doc"].shape
    t["doc"] = np.sort(rng.integers(0, 3, shape), axis=-1)
    t["border"] = np.arange(shape[1])[None] // 3 * 3 + rng.integers(0, 4, (shape[0], 1))


def discs(t: Arrays, rng: np.random.Generator) -> None:
    t["text"] = rng.random(t["text"].shape) < 0.2
    for name in ("row", "column"):
        t[name] = rng.integers(0, 5, t[name].shape)


def opened(t: Arrays, rng: np.random.Generator) -> None:
    """A row may have no key that is open."""
    t["open"] = rng.random(t["open"].shape) < 0.6
    t["open"][:, :1] = False


def blocks(t: Arrays, rng: np.random.Generator) -> None:
    size = t["block"].shape[1]
    t["block"] = np.broadcast_to(np.arange(size) // 4, t["block"].shape).copy()
    t["begin"] = rng.integers(0, 9, t["begin"].shape)


# A state sees rows in order; its kernels are built for every width that a call has.
ROWS = (Shape(9, 9, 4, 3, 2, 2, 2), Shape(1, 1, 4, 3, 1, 1, 3), Shape(0, 0, 4, 3, 1, 1, 1))

SETTINGS: dict[str, Setting] = {
    # softmax
    "additive": Setting(tune=lengths),
    "additive_feedback": Setting(
        shapes=(Shape(4, 7, 4, 3, 2, 2, 2), Shape(3, 2, 2, 5, 1, 1, 3), Shape(0, 3, 4, 3, 1, 1, 1)),
        tune=lengths,
    ),
    "decoupled_target": Setting(tune=lengths),
    "tensor_attention": Setting(shapes=(Shape(6, 8, 4, 3, 1, 1, 2, offset=2), Shape(5, 5))),
    "aaren": Setting(shapes=SQUARE),
    "concat_kv": Setting(tune=two_lengths),
    "memory_slots": Setting(tune=slots("mk", "mv")),
    "perturbed_logits": Setting(tune=lengths),
    # positional
    "transformer_xl": Setting(numbers=({"memory": 3},)),
    "mvpa": on_map((13, 2), (3, 4), (1, 1), names=("times", "channels")),
    "relative_bias": on_map((3, 4), (5, 2), (1, 1)),
    "box_bias": Setting(
        numbers=grids((3, 4), (5, 2), (1, 1)),
        shapes=(Shape(5, 12, 4, 3, 2, 2, 2), Shape(3, 10), Shape(1, 1)),
        tune=wide("left", 3.0),
    ),
    # window
    "sliding_window": Setting(numbers=({"window": 3}, {"window": 1}, {"window": 40})),
    "sink_window": Setting(
        numbers=({"window": 3, "sinks": 2}, {"window": 1, "sinks": 0}, {"window": 2, "sinks": 30})
    ),
    "global_window": Setting(
        statics={"size": 2},
        numbers=({"reach": 1}, {"reach": 0}),
        shapes=SQUARE,
        tune=special,
    ),
    "frame_window": Setting(
        numbers=(
            {"tokens": 2, "window": 2, "sinks": 1},
            {"tokens": 3, "window": 1, "sinks": 0},
            {"tokens": 1, "window": 3, "sinks": 2},
        )
    ),
    "dual_scope_window": Setting(
        numbers=(
            {"tokens": 2, "reach": 1, "stretch": 1.3, "near": 0.4, "far": -0.7},
            {"tokens": 1, "reach": 2, "stretch": 0.8, "near": -1.0, "far": 0.5},
        ),
        tune=scopes,
    ),
    "interval_mask": Setting(tune=intervals),
    "gaussian_local": Setting(numbers=({"reach": 3.0}, {"reach": 1.2})),
    # grid
    "halo": on_map((4, 6), (3, 5), (1, 1), statics={"block": 2, "reach": 1}),
    "overlapping_window": on_map((4, 6), (5, 3), (1, 1), statics={"size": 2, "reach": 1}),
    "botnet": on_map((3, 4), (5, 2), (1, 1)),
    "neighborhood": on_map(
        (2, 5, 5),
        (3, 4, 7),
        statics={"size": 3, "dilation": 1, "stride": 2},
        names=("frames", "height", "width"),
    ),
    "window_partition": on_map((4, 6), (5, 7), (1, 1), statics={"size": 3}),
    "shifted_window": on_map((6, 6), (3, 9), statics={"size": 3, "shift": 1}),
    "cosine_window": on_map(
        (6, 6), (3, 9), statics={"size": 3, "shift": 1}, trained=8, tune=temperatures
    ),
    "grid_partition": on_map((4, 6), (2, 8), statics={"groups": 2}),
    "circular_window": Setting(
        shapes=SQUARE,
        numbers=({"radius": 2.0, "stretch": 1.2}, {"radius": 1.5, "stretch": 0.7}),
        tune=discs,
    ),
    "neighbor_complement": on_map((6, 7), (3, 9), (1, 1), rows=5, columns=5),
    "axial": on_map((3, 4), (5, 2), (1, 1)),
    "manhattan_decay": on_map((3, 4), (5, 2), (1, 1), tune=between_0_and_1("gamma")),
    # segment
    "document_mask": Setting(numbers=({"block": 1}, {"block": 4}), tune=unsorted),
    "prefix_lm": Setting(shapes=SQUARE, tune=borders),
    "block_rag": Setting(shapes=SQUARE, numbers=({"last": 2}, {"last": 0}), tune=blocks),
    "gist": Setting(shapes=SQUARE, tune=ids(0, 3, "segment")),
    "segment_relation": Setting(shapes=SQUARE, tune=kinds),
    "value_sign_flip": Setting(
        shapes=SQUARE,
        numbers=({"strength": 2.0, "shift": 0.4}, {"strength": 0.7, "shift": -0.3}),
        tune=kinds,
    ),
    "weighted_extended": Setting(numbers=({"gamma": 1.6}, {"gamma": 0.7}), tune=sources),
    # head
    "mixture_of_heads": Setting(
        statics={"shared": 2, "keep": 2}, shapes=(Shape(7, 9, 4, 3, 2, 3, 2, offset=2),)
    ),
    "per_head_mask": Setting(tune=lengths),
    "duo_heads": Setting(
        numbers=({"sinks": 1, "recent": 3}, {"sinks": 0, "recent": 1}, {"sinks": 2, "recent": 2})
    ),
    "razor_heads": Setting(tune=drops),
    "shifted_groups": Setting(
        numbers=({"size": 4, "sinks": 1}, {"size": 4, "sinks": 0}), tune=groups
    ),
    # normalizer
    "unnormalised_attention": Setting(emits=("colsum",)),
    "exp_gated_norm": Setting(tune=sharp),
    "exp_gate": Setting(tune=sharp),
    "sinkhorn": Setting(shapes=SQUARE, tune=lengths),
    "shaped": Setting(numbers=({"temperature": 1.7}, {"temperature": 0.6})),
    "landmark": Setting(statics={"size": 4}, shapes=SQUARE),
    "softplus_reweighted": Setting(numbers=({"power": 3.0}, {"power": 1.5})),
    # variants
    "entmax": Setting(numbers=({"alpha": 1.3}, {"alpha": 2.0}, {"alpha": 1.7})),
    "contextual_positions": Setting(statics={"reach": 4}),
    "soft_cap": Setting(numbers=({"cap": 1.5}, {"cap": 0.5})),
    "bucketed_bias": Setting(
        statics={"buckets": 8, "reach": 9},
        shapes=(Shape(9, 13, 4, 3, 2, 2, 2, offset=4), Shape(21, 21, 2, 2, 1, 1, 1)),
    ),
    "query_relative": Setting(statics={"reach": 2}),
    "learned_sinks": Setting(numbers=({"window": 3}, {"window": 1})),
    "dilated_window": Setting(numbers=({"size": 2, "step": 3}, {"size": 3, "step": 1})),
    "prefix": Setting(tune=lengths),
    "documents": Setting(shapes=SQUARE, tune=ids(-1, 2, "doc")),
    "chunked": Setting(numbers=({"size": 4}, {"size": 3})),
    "strided": Setting(numbers=({"step": 3}, {"step": 4})),
    "fixed": Setting(numbers=({"size": 4, "last": 1}, {"size": 3, "last": 2})),
    "block_diagonal": Setting(numbers=({"size": 4}, {"size": 3})),
    "block_sparse": Setting(statics={"size": 2}, shapes=SQUARE, tune=listed),
    "per_head_windows": Setting(tune=ids(0, 5, "window")),
    "split_heads": Setting(numbers=({"near": 1, "window": 3}, {"near": 3, "window": 2})),
    "neighborhood_1d": Setting(
        statics={"size": 3, "dilation": 2, "stride": 2},
        shapes=(Shape(13, 13, 4, 3, 2, 2, 2), Shape(6, 9), Shape(16, 16)),
    ),
    "neighborhood_2d": on_map((4, 6), (7, 5), statics={"size": 3, "dilation": 1}),
    "neighborhood_3d": on_map(
        (3, 4, 3),
        (5, 3, 4),
        statics={"past": 2, "size": 3, "stride": 2},
        names=("frames", "height", "width"),
    ),
    # edit, axis
    "pointer": Setting(numbers=({}, {"clip": 2.0}), tune=opened, emits=("chosen",)),
    "extra_values": Setting(emits=("routed",)),
    "attention_export": Setting(tune=lengths, emits=("map", "received")),
    "channel_relu": Setting(shapes=SQUARE),
    "channel_gram": Setting(numbers=({"gain": 0.7}, {"gain": -1.2}), shapes=SQUARE),
    "depth_attention": Setting(shapes=SQUARE),
    "head_tap": Setting(emits=("tapped",)),
    # states
    **dict.fromkeys(
        (
            "linear_attention",
            "learned_normalizer",
            "constant_decay",
            "gla",
            "gated_linear_normalized",
            "delta_rule",
            "gated_delta",
            "rwkv7",
            "mamba",
            "mamba2",
            "hgrn",
            "taylor_linear",
            "jetblock",
            "diag_ssm",
            "h3",
            "multihyena",
        ),
        Setting(shapes=ROWS),
    ),
    **dict.fromkeys(("titans_linear", "titans_mlp"), Setting(statics={"chunk": 4}, shapes=ROWS)),
    # sums over all tokens, and convolutions
    "performer": Setting(numbers=({"eps": 1e-2},), shapes=ROWS),
    "linear_noncausal": Setting(numbers=({"eps": 1e-2},), tune=lengths),
    "efficient_attention": Setting(tune=lengths),
    "grouped_linear": Setting(statics={"size": 4}, shapes=SQUARE),
    "icl_linear": Setting(shapes=SQUARE[:2]),  # of one token alone it is 0 / 0
    "bi_wkv": Setting(shapes=SQUARE),
    "dynamic_conv": Setting(shapes=SQUARE),
    "gated_conv": Setting(shapes=SQUARE),
    "sgu": Setting(shapes=SQUARE),
    "dynamic_depthwise": on_map((3, 4), (5, 2), (1, 1), statics={"size": 5}),
}


def spec_paths() -> list[Path]:
    """Every spec of the gallery."""
    return [path for family in FAMILIES for path in sorted((EXAMPLES / family).glob("*.attn"))]


def setting_of(name: str) -> Setting:
    from choice_cases import CHOICES
    from map_cases import MAPS
    from pipeline_cases import PIPELINES
    from summary_cases import SUMMARIES

    tables = (SETTINGS, CHOICES, MAPS, PIPELINES, SUMMARIES)
    return next((table[name] for table in tables if name in table), Setting())


@cache
def load(path: Path) -> Spec:
    return read_spec(load_source(path), statics=setting_of(path.stem).statics)


@cache
def lowered(path: Path) -> Stages:
    return lower(load(path))


def has_kernels(path: Path) -> bool:
    """Asked in tests, not when they are collected: every process would lower the whole gallery."""
    return lowered(path).refusal is None


def calls(spec: Spec, setting: Setting, seed: int) -> Iterator[tuple[Case, dict[str, Any]]]:
    """Every call of the setting, with all numbers of the operator (defaults and statics too)."""
    for at, shape in enumerate(setting.shapes):
        given = setting.numbers[at % len(setting.numbers)]
        case = draw_case(spec, shape, seed + at, given)
        if setting.tune is not None:
            setting.tune(case.tensors, np.random.default_rng((seed, at)))
        yield case, {**defaults(spec), **setting.statics, **case.numbers}


def of_one_width(setting: Setting) -> Setting:
    """The same calls at one width, for which kernels are built once."""
    shapes = tuple(replace(shape, width=8, value_width=5) for shape in setting.shapes)
    return replace(setting, shapes=shapes)


def defaults(spec: Spec) -> dict[str, Any]:
    """The plain numbers that params have when the call does not give them."""
    return {
        number.name: evaluate(number.default, Environment()).item()
        for number in spec.numbers
        if number.default is not None and number.default.op == "number"
    }
