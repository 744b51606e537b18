"""Measures the candidate tiles of a Triton kernel on request, and remembers the fastest in one JSON
file beside the module.

An entry is keyed by device, versions, kernel, dtype, widths and the power of two that the lengths
lie under, so that a new length within its bucket measures nothing. The file is replaced atomically;
a file that cannot be read counts as empty, one that cannot be written only costs the measurement.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from attnc.runtime.call import Call
from attnc.runtime.triton_launch import TritonBackend
from attnc.runtime.triton_plan import TritonTile, power_of_two

ROUNDS = 5


class TritonTuner:
    """The measured tiles of one backend: `TritonTuner(backend, path).tune(call, wanted)`.

    path    of the JSON file
    timer   (run) -> seconds; time_on_device is one
    """

    def __init__(
        self, backend: TritonBackend, path: Path, timer: Callable[[Callable[[], Any]], float]
    ) -> None:
        self.backend, self.path, self.timer = backend, path, timer
        self.known = read_tunings(path)
        backend.tuned = self.chosen

    def chosen(self, function: str, call: Call) -> TritonTile | None:
        """The tile measured best for calls like this one."""
        entry = self.known.get(self.key(function, call))
        if not isinstance(entry, dict):
            return None
        return TritonTile(entry["constants"], entry["warps"], entry["stages"])

    def key(self, function: str, call: Call) -> str:
        """What a measurement holds for."""
        versions = f"torch {torch.__version__}"
        with contextlib.suppress(ImportError):
            import triton

            versions += f", triton {triton.__version__}"
        device = "interpreter"
        if call.device.type == "cuda":
            device = torch.cuda.get_device_name(call.device)
        widths = {axis: call.known[f"len_{axis}"] for axis in self.backend.table["widths"]}
        lengths = {
            name: power_of_two(size)
            for name, size in sorted(call.known.items())
            if name.startswith("len_") and name.removeprefix("len_") not in widths
        }
        return json.dumps([device, versions, function, str(call.dtype), widths, lengths])

    def tune(self, call: Call, wanted: frozenset[str]) -> dict[str, TritonTile]:
        """Measures every candidate of every stream kernel; stores and gives back the fastest."""
        best: dict[str, TritonTile] = {}
        for function, tiles in self.backend.candidates(call).items():
            seconds = [self._timed(call, wanted, {**best, function: tile}) for tile in tiles]
            best[function] = tiles[seconds.index(min(seconds))]
        self._keep(call, best)
        return best

    def _timed(self, call: Call, wanted: frozenset[str], trial: dict[str, TritonTile]) -> float:
        """Seconds of a call with these tiles."""
        self.backend.tuned = lambda function, _: trial.get(function)
        try:
            return self.timer(lambda: self.backend(call, wanted))
        finally:
            self.backend.tuned = self.chosen

    def _keep(self, call: Call, best: dict[str, TritonTile]) -> None:
        new = {
            self.key(function, call): {
                "constants": dict(tile.constants),
                "warps": tile.warps,
                "stages": tile.stages,
            }
            for function, tile in best.items()
        }
        self.known = {**read_tunings(self.path), **new}
        write_tunings(self.path, self.known)


def time_on_device(run: Callable[[], Any]) -> float:
    """Median of a few runs, after one that compiles; the device is waited for."""
    wait: Callable[[], Any] = torch.cuda.synchronize if torch.cuda.is_available() else tuple
    run()
    seconds = []
    for _ in range(ROUNDS):
        wait()
        start = time.perf_counter()
        run()
        wait()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[ROUNDS // 2]


def read_tunings(path: Path) -> dict[str, Any]:
    """The measurements of a file; none if it is missing or not ours."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_tunings(path: Path, tunings: dict[str, Any]) -> None:
    """Replaces the file as a whole: readers see the old or the new one, never a part."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    except OSError:
        return
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(tunings, file, indent=1, sort_keys=True)
        os.replace(name, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(name)
