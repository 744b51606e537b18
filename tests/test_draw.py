"""Pictures of masks: files, the terminal, and what they say without matplotlib."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from rich.console import Console

from attnc.draw import FULL, LEGEND, MIXED, SKIPPED, TILES, draw_mask
from attnc.errors import AttncError

VISIBLE = np.tril(np.ones((64, 64), bool))
STATES = np.array([[1, 0, 0, 0], [2, 1, 0, 0], [2, 2, 1, 0], [2, 2, 2, 1]])


def lightness(colour: str) -> float:
    """CIELAB lightness L* of #rrggbb, 0 to 100, from its sRGB luminance (IEC 61966-2-1)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(116 * np.cbrt(np.dot((0.2126, 0.7152, 0.0722), linear)) - 16)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_file_is_drawn(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mask.{suffix}"
    draw_mask(VISIBLE, STATES, path, tile=16, title="causal")
    head = path.read_bytes()[:200]
    assert head.startswith(b"\x89PNG") if suffix == "png" else b"<?xml" in head


def test_the_picture_says_its_numbers_and_tiles(tmp_path: Path) -> None:
    path = tmp_path / "mask.svg"
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        draw_mask(VISIBLE, STATES, path, tile=16, title="band", details="window = 24")
    said = path.read_text()
    for words in ("band", "window = 24", "tiles of 16", LEGEND[FULL], "mixed tile: visible"):
        assert words in said


def test_partial_tiles_and_a_single_pair_are_drawn(tmp_path: Path) -> None:
    draw_mask(np.ones((21, 37), bool), np.full((2, 3), FULL), tmp_path / "a.png", tile=16)
    draw_mask(np.ones((1, 1), bool), np.full((1, 1), FULL), tmp_path / "b.png", tile=16)
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "b.png"}


def test_the_terminal_shows_pairs_and_counts_tiles() -> None:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    draw_mask(VISIBLE, STATES, console, tile=16, title="causal [b]")
    text = console.file.getvalue()  # type: ignore[attr-defined]
    lines = text.splitlines()
    assert lines[0] == "causal [b]"
    assert lines[1][0] == "█" and lines[32].startswith("█" * 63)
    assert f"6 {LEGEND[SKIPPED]}s" in text and f"6 {LEGEND[FULL]}s" in text
    assert f"4 {LEGEND[MIXED]}s" in text


def test_a_narrow_terminal_is_not_overrun() -> None:
    console = Console(file=io.StringIO(), width=40, color_system=None)
    wide = np.ones((300, 300), bool)
    draw_mask(wide, np.full((5, 5), FULL), console, tile=64)
    assert max(map(len, console.file.getvalue().splitlines()[:-2])) <= 40  # type: ignore[attr-defined]


def test_states_differ_in_lightness_not_in_hue_alone() -> None:
    """By more than a just noticeable difference (2.3 in CIELAB: Mahy and others 1994)."""
    shades = sorted(lightness(TILES[state]) for state in (SKIPPED, MIXED, FULL))
    assert min(np.diff(shades)) > 2.3


def test_matplotlib_is_loaded_only_to_draw() -> None:
    code = "import sys, attnc.draw; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_matplotlib_the_error_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(AttncError, match="matplotlib"):
        draw_mask(VISIBLE, STATES, tmp_path / "mask.png", tile=16)
