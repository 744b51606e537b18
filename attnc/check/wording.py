"""Small pieces that messages are made of."""

from __future__ import annotations

from collections.abc import Sequence

from attnc.errors import did_you_mean


def listed(names: Sequence[str], none: str = "none") -> str:
    """Names in backticks, at most eight of them."""
    shown = [f"`{name}`" for name in names[:8]]
    if len(names) > 8:
        shown.append("...")
    return ", ".join(shown) or none


def hint_for(name: str, known: Sequence[str], otherwise: str = "") -> str:
    return did_you_mean(name, known) or otherwise
