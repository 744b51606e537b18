"""One measurement in a process of its own: prints one number.

python -m attnc.bench.probe cold FILE           seconds from the text to a first result
python -m attnc.bench.probe import              seconds of `import attnc` after torch's
python -m attnc.bench.probe memory LENGTH 0|1 [TEXT]
                                                bytes beyond tensors at the peak; 1: with backward;
                                                of the causal softmax, or of a text
"""

from __future__ import annotations

import sys
import time
from pathlib import Path


def cold(path: str) -> float:
    import torch

    import attnc

    q = torch.randn(1, 1, 8, 64)
    start = time.perf_counter()
    attnc.compile(path, backend="cpu")(q, q, q)
    return time.perf_counter() - start


def importing() -> float:
    import torch  # noqa: F401

    for name in [name for name in sys.modules if name.partition(".")[0] == "attnc"]:
        del sys.modules[name]
    start = time.perf_counter()
    import attnc  # noqa: F401

    return time.perf_counter() - start


def memory(length: int, training: bool, text: str = "") -> float:
    """Bytes of resident pages at the peak of a call, beyond inputs, outputs and gradients."""
    import torch

    import attnc
    from attnc.bench.figures import TEXT

    torch.set_num_threads(2)
    operator = attnc.compile(text or TEXT, name="bench", backend="cpu")

    def call(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        result = operator(*tensors)
        return (
            [result, *torch.autograd.grad(result, tensors, result.detach())]
            if training
            else [result]
        )

    call([torch.randn(1, 8, 64, 64, requires_grad=training) for _ in range(3)])  # builds, threads
    inputs = [torch.randn(1, 8, length, 64, requires_grad=training) for _ in range(3)]
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    made = call(inputs)
    peak = resident("VmHWM")
    return float(peak - before - sum(x.numel() * x.element_size() for x in made))


def resident(field: str) -> int:
    """Bytes of a field of /proc/self/status (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} on this system")


def main(what: str, *arguments: str) -> None:
    if what == "cold":
        found = cold(*arguments)
    elif what == "import":
        found = importing()
    else:
        found = memory(int(arguments[0]), arguments[1] == "1", *arguments[2:])
    print(found)


if __name__ == "__main__":
    main(*sys.argv[1:])
