"""Names of an operator and its arguments as names in a Python module."""

from __future__ import annotations

import builtins
import keyword
from functools import cache

from attnc.emission.bundle import bundled_names
from attnc.errors import AttncError
from attnc.signature import Signature

OF_EVERY_CALL = ("offset", "key_offset", "key_length", "emit", "operator")
OF_EVERY_MODULE = (
    "eager", "operator", "reference", "BACKENDS", "CPU_SOURCE", "CPU_HEADERS",
    "CPU_SWEEP_HEADERS", "CPU_SCAN_HEADERS", "DIGEST", "SETS", "SIGNATURE", "TRITON_KERNELS",
)  # fmt: skip


def check_names(signature: Signature, support: tuple[str, ...]) -> None:
    """Names of the operator and its arguments become Python names, and they must not hide a name
    that the module itself uses or that every call has."""
    arguments = [t.name for t in signature.inputs] + [n.name for n in signature.numbers]
    for name in arguments:
        if name in OF_EVERY_CALL or (name == "seed" and signature.random):
            raise AttncError(
                f"{signature.name}: every operator has a `{name}` of its own; rename the argument"
            )
    axes = {f"len_{axis.name}" for t in signature.inputs for axis in t.array.axes}
    for name in arguments:
        if name in axes:
            raise AttncError(
                f"{signature.name}: `{name}` is how attnc calls the length of an axis; rename it"
            )
    for name in (signature.name, *arguments):
        if keyword.iskeyword(name) or name.startswith("__"):
            raise AttncError(
                f"{signature.name}: `{name}` cannot be a name in a Python module; rename it"
            )
    if signature.name in taken_names(support):
        raise AttncError(
            f"`{signature.name}` is a name that every module of attnc uses; rename the operator"
        )


@cache
def taken_names(support: tuple[str, ...]) -> frozenset[str]:
    """What the support part (its runtime files) defines or imports, with Python's own names."""
    return frozenset((*OF_EVERY_MODULE, *dir(builtins))) | bundled_names(support)
