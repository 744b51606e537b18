"""The passes, one file each: pure, verified before and after.

lower(spec)   Spec -> Schedule
PIPELINE      what a Graph goes through, in order
"""

from __future__ import annotations

from attnc.passes.pipeline import lower, prepare

__all__ = ["lower", "prepare"]
