"""The backends of a kernel set."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from attnc.runtime.cpu_calls import CpuBackend
from attnc.runtime.family import Family, KernelSet
from attnc.runtime.operator import KernelOperator
from attnc.runtime.triton_launch import TritonBackend
from attnc.runtime.triton_tune import TritonTuner, time_on_device

DEVICES = ("cpu", "cuda")


def backends_of(
    kernels: KernelSet, namespace: dict[str, Any], devices: Collection[str] = DEVICES
) -> dict[str, Any]:
    """The backends of a set by device type; `namespace` holds its Triton functions. Tiles that were
    measured are read from a file beside the module."""
    made: dict[str, Any] = {}
    if kernels.cpu and "cpu" in devices:
        made["cpu"] = CpuBackend(kernels.cpu)
    if kernels.cuda is not None and "cuda" in devices:
        made["cuda"] = TritonBackend(kernels.cuda, namespace)
        path = Path(namespace["__file__"]).with_suffix(".tuned.json")
        TritonTuner(made["cuda"], path, time_on_device)
    return made


def family_of(
    sets: dict[str, Any], namespace: dict[str, Any], devices: Collection[str] = DEVICES
) -> Family:
    """The operators of a module."""
    return Family(sets, lambda kernels: backends_of(kernels, namespace, devices), KernelOperator)
