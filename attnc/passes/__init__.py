"""The passes, one file each: pure, verified before and after.

lower(spec)      Spec -> Schedule
prepare(spec)    Spec -> Graph, after every pass that leaves it one
"""

from __future__ import annotations

from attnc.passes.pipeline import lower, prepare

__all__ = ["lower", "prepare"]
