"""attnc: a compiler for attention operators.

    op = attnc.compile("sliding_window.attn")     # or the text itself
    out = op(q, k, v, window=512)                 # torch in, torch out

Names are imported when they are first used, so that `import attnc` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnc.compiler import compile
    from attnc.errors import (
        AttncError,
        CacheError,
        CallError,
        CompilerNotFound,
        InternalError,
        SpecError,
        UnsupportedError,
    )
    from attnc.flex import TraceError, from_flex
    from attnc.jit import jit
    from attnc.operator import Operator

__version__ = "0.1.0"
__all__ = [
    "AttncError",
    "CacheError",
    "CallError",
    "CompilerNotFound",
    "InternalError",
    "Operator",
    "SpecError",
    "TraceError",
    "UnsupportedError",
    "compile",
    "from_flex",
    "jit",
]

_HOME = {
    "compile": "attnc.compiler",
    "from_flex": "attnc.flex",
    "jit": "attnc.jit",
    "Operator": "attnc.operator",
    "TraceError": "attnc.flex",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'attnc' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME.get(name, "attnc.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
