"""Draws masks with their tiles, and graphs: PNG or SVG through matplotlib, or in a terminal.

Colours come from a palette that colour-blind people tell apart, and every state differs in
lightness too.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attnc.errors import AttncError
from attnc.expressions.text import expression_text
from attnc.graph import Graph, NodeKind, node_kind

if TYPE_CHECKING:
    from rich.console import Console

SKIPPED, MIXED, FULL = 0, 1, 2
# Background of a tile by state, and a visible pair on it. Full tiles hide nothing, and skipped ones
# show nothing: black, or the paler blue, would be a mistake of the regions.
TILES = {SKIPPED: "#f4f4f2", MIXED: "#fbe3c0", FULL: "#c9ddf0"}
PAIRS = {SKIPPED: "#000000", MIXED: "#d55e00", FULL: "#0072b2"}
LEGEND = {SKIPPED: "skipped tile", MIXED: "mixed tile", FULL: "full tile"}


def draw_mask(
    visible: NDArray[Any],
    states: NDArray[Any],
    where: Path | Console,
    tile: int = 16,
    title: str = "",
    details: str = "",
) -> None:
    """Draws a mask (rows, keys) over its tiles (0 skipped, 1 mixed, 2 full) to a file or a
    console, under a title and a line of details (the numbers of the call)."""
    if isinstance(where, Path):
        _mask_picture(visible, states, where, tile, title, details)
    else:
        _mask_text(visible, states, where, tile, title, details)


def _tally(visible: NDArray[Any], states: NDArray[Any], tile: int) -> str:
    """Lengths and numbers of tiles, in words."""
    rows, keys = visible.shape
    counts = ", ".join(f"{int((states == kind).sum())} {LEGEND[kind]}s" for kind in LEGEND)
    return f"{rows} rows, {keys} keys, tiles of {tile}: {counts}"


def _mask_picture(
    visible: NDArray[Any],
    states: NDArray[Any],
    path: Path,
    tile: int,
    title: str,
    details: str,
) -> None:
    plt = _pyplot()
    from textwrap import fill

    from matplotlib.colors import to_rgb

    rows, keys = visible.shape
    state = np.kron(states, np.ones((tile, tile), np.int64))[:rows, :keys]
    image = np.zeros((rows, keys, 3))
    for kind in (SKIPPED, MIXED, FULL):
        image[(state == kind) & ~visible] = to_rgb(TILES[kind])
        image[(state == kind) & visible] = to_rgb(PAIRS[kind])
    wide = max(4.2 * max(keys / max(rows, 1), 0.4) + 0.8, 5.4)  # inches: the legend needs as much
    lines = [line for line in (details, _tally(visible, states, tile)) if line]
    words = "\n".join(fill(line, int(wide * 16)) for line in lines)
    height = 5.0 + 0.16 * words.count("\n")
    figure, axes = plt.subplots(figsize=(wide, height), dpi=130, layout="constrained")
    axes.imshow(image, interpolation="nearest", extent=(0, keys, rows, 0))
    axes.set_xticks(range(0, keys + 1, tile), minor=True)
    axes.set_yticks(range(0, rows + 1, tile), minor=True)
    axes.grid(which="minor", color="white", linewidth=0.8)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("key position j")
    axes.set_ylabel("query position i")
    axes.set_title(words, fontsize=8, loc="left")
    figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
    figure.legend(handles=_legend(), ncol=4, loc="outside lower center", fontsize=8, frameon=False)
    figure.savefig(path)
    plt.close(figure)


def _legend() -> list[Any]:
    from matplotlib.patches import Patch

    said = {
        TILES[SKIPPED]: LEGEND[SKIPPED],
        TILES[MIXED]: "mixed tile: hidden",
        PAIRS[MIXED]: "mixed tile: visible",
        PAIRS[FULL]: LEGEND[FULL],
    }
    return [Patch(facecolor=c, edgecolor="#999999", linewidth=0.4, label=said[c]) for c in said]


def _mask_text(
    visible: NDArray[Any],
    states: NDArray[Any],
    console: Console,
    tile: int,
    title: str,
    details: str,
) -> None:
    """Two rows a line in half blocks, then the tiles in words."""
    from rich.markup import escape

    if title:
        console.print(escape(title), style="bold")
    if details:
        console.print(escape(details), highlight=False)
    step = max(1, -(-visible.shape[1] // max(console.width - 2, 16)))
    shown = visible[::step, ::step]
    for top in range(0, len(shown), 2):
        upper = shown[top]
        lower = shown[top + 1] if top + 1 < len(shown) else np.zeros_like(upper)
        blocks = (" ▀▄█"[int(a) + 2 * int(b)] for a, b in zip(upper, lower, strict=True))
        console.print("".join(blocks).rstrip(), highlight=False, markup=False)
    console.print(_tally(visible, states, tile))


COLOURS = {
    NodeKind.LOAD: "#c9ddf0",
    NodeKind.GATHER: "#a9c8e6",
    NodeKind.REDUCE: "#fbe3c0",
    NodeKind.SCAN: "#f6c98a",
    NodeKind.SELECT: "#e8d4ef",
    NodeKind.SOLVE: "#e8d4ef",
    NodeKind.MAP: "#e6efe0",
}
LARGEST_GRAPH = 400


def draw_network(graph: Graph, path: Path) -> None:
    """Draws a Graph: operands above the nodes that use them, a colour for each kind of node."""
    plt = _pyplot()
    net, layers = graph.layers()
    if len(net) > LARGEST_GRAPH:
        raise AttncError(f"{graph.name}: {len(net)} nodes are too many to draw")
    places = [
        [(2.0 * (n - (len(layer) - 1) / 2), node) for n, node in enumerate(layer)]
        for layer in layers
    ]
    width = 2.0 * max(len(layer) for layer in places) if places else 2.0
    figure, axes = plt.subplots(figsize=(max(width, 6.0), 0.9 * len(places) + 1.0), dpi=110)
    at = {node: (x, -float(level)) for level, layer in enumerate(places) for x, node in layer}
    for a, b in net.edges:
        arrow = {
            "arrowstyle": "-",
            "color": "#888888",
            "linewidth": 0.8,
            "shrinkA": 8,
            "shrinkB": 8,
        }
        axes.annotate("", xy=at[b], xytext=at[a], arrowprops=arrow)
    for node, (x, y) in at.items():
        box = {"boxstyle": "round,pad=0.3", "facecolor": COLOURS.get(node_kind(node), "#eeeeee")}
        axes.text(x, y, _label(node), ha="center", va="center", fontsize=7, bbox=box)
    axes.set_title(f"{graph.name}: operands above, results below", fontsize=9)
    axes.set_xlim(-width / 2 - 1, width / 2 + 1)
    axes.set_ylim(-len(places) + 0.3, 0.7)
    axes.axis("off")
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def _label(node: Any) -> str:
    indices = ", ".join(sorted(str(index) for index in node.free))
    if node.op == "read":
        return expression_text(node, 40)
    head = node.monoid if node.op == "fold" else node.op
    bound = "(" + ", ".join(str(index) for index in node.bound) + ")" if node.bound else ""
    return f"{head}{bound}\n[{indices}]" if indices else f"{head}{bound}"


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise AttncError("drawing needs matplotlib: pip install 'attnc[demo]'") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
