"""The one error of a mod that cannot be traced: which function, in which line of the mod."""

from __future__ import annotations

import linecache
import os
import sys

from attnc.errors import AttncError

# Frames of these packages are nobody's mod.
INSIDE = (f"attnc{os.sep}flex{os.sep}", f"{os.sep}torch{os.sep}", f"{os.sep}functools.py")


class TraceError(AttncError):
    """A FlexAttention mod that cannot be written as equations.

    function   what it called, such as `torch.rand`
    reason     why that cannot be traced
    place      file and line of the mod, with its text; empty where it is not known
    """

    def __init__(self, function: str, reason: str, place: str = "") -> None:
        self.function = function
        self.reason = reason
        self.place = place
        where = f"{place}\n" if place else ""
        super().__init__(f"{where}from_flex cannot trace `{function}`: {reason}.")

    def __reduce__(self) -> tuple[type[TraceError], tuple[str, str, str]]:
        return type(self), (self.function, self.reason, self.place)


def refuse(function: str, reason: str) -> TraceError:
    """The error for the line of the mod that is being run."""
    return TraceError(function, reason, current_place())


def current_place() -> str:
    """`file.py:12: text of the line` of the innermost frame that is the user's, or nothing."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not any(part in name for part in INSIDE):
            line = linecache.getline(name, frame.f_lineno).strip()
            return f"{os.path.basename(name)}:{frame.f_lineno}: {line}".rstrip(": ")
        if frame.f_back is None:
            return ""
        frame = frame.f_back
    return ""
