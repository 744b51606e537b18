"""Random operators at hostile shapes, for as long as it is given.

    python tests/torture.py --seconds 1800 --seed 7
    python tests/torture.py --rounds 100 --seed 7

Every round draws an operator (of the gallery, or one that nobody wrote: random_specs), a shape and
a dtype, and compares the CPU kernel, forced to a drawn instruction set, or the Triton kernel in
Triton's interpreter, with the oracle: the result and emits; or, in every third round of the CPU,
gradients with autograd of the dense formula. A failure is written to tests/regressions/NAME.json,
which test_regressions.py repeats from then on, and makes the exit code 1. Rounds are played in a
process of their own, so that a kernel that crashes or never ends is found like any other.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import sys
import time
import traceback
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
REGRESSIONS = HERE / "regressions"
EXAMPLES = HERE.parent / "examples"
ISAS = ("generic", "avx2", "avx512", "avx512_bf16", "")
MOST_FAILURES = 25  # then it stops: something is wrong with everything
ROUND_SECONDS = 600  # what hangs is a failure
DTYPES = ("float32", "float32", "bfloat16", "float16", "float64")
BACKENDS = ("cpu", "cpu", "cpu", "triton")
EMITS = ("lse", "max", "entropy", "colsum", "weight")
# The interpreter runs program by program: of Triton's rounds, the largest of each size.
INTERPRETED = {"rows": 33, "keys": 33, "width": 16, "value_width": 16, "batch": 1, "group": 3}

# Before anything imports Triton.
os.environ["TRITON_INTERPRET"] = "1"


def draw_round(rng: random.Random) -> dict[str, Any]:
    """What one round does, as plain data that a regression file holds."""
    from random_specs import random_spec

    from attnc.cases import HOSTILE_GROUPS, HOSTILE_LENGTHS, HOSTILE_WIDTHS, Shape

    gallery = sorted(EXAMPLES.glob("*/*.attn"))
    gallery = [path for path in gallery if path.parent.name != "models"]
    text = random_spec(rng)
    if gallery and rng.random() < 0.4:
        text = rng.choice(gallery).read_text(encoding="utf-8")
    rows, keys = rng.choice(HOSTILE_LENGTHS), rng.choice(HOSTILE_LENGTHS)
    shape = Shape(
        rows=rows,
        keys=keys,
        width=rng.choice(HOSTILE_WIDTHS),
        value_width=rng.choice(HOSTILE_WIDTHS),
        batch=rng.choice((0, 1, 1, 2, 2)),
        key_heads=rng.choice((1, 2)),
        group=rng.choice(HOSTILE_GROUPS),
        magnitude=rng.choice((1.0, 1.0, 0.01, 6.0)),
        offset=rng.choice((0, 0, 3, 64, max(keys - rows, 0))),
    )
    backend = rng.choice(BACKENDS)
    return {
        "text": text,
        "shape": asdict(shape),
        "seed": rng.randrange(2**31),
        "dtype": rng.choice(DTYPES),
        "backend": backend,
        "isa": rng.choice(ISAS),
        "gradients": rng.random() < 1 / 3 and backend == "cpu",  # interpreted, they take minutes
        "emit": rng.choice((None, None, *EMITS)),
    }


def play(round_: dict[str, Any]) -> str:
    """Runs one round: "" if all is well, "none" if no such call is legal, else what went wrong."""
    import torch

    import attnc
    from attnc.cases import Shape, draw_case
    from attnc.errors import CallError
    from attnc.verification import compare
    from attnc.verification_gradients import compare_gradients, within_reach

    of_gradients = round_.get("gradients", False)
    backend = round_.get("backend", "cpu")
    os.environ["ATTNC_CPU_ISA"] = round_["isa"]
    try:
        operator = attnc.compile(round_["text"], backend=backend)
    except attnc.UnsupportedError:
        return "none"
    spec = operator.spec
    shape = Shape(**round_["shape"])
    if backend == "triton":
        least = {name: min(getattr(shape, name), most) for name, most in INTERPRETED.items()}
        shape = replace(shape, **least)
    try:
        case = draw_case(spec, within_reach(shape) if of_gradients else shape, round_["seed"])
    except attnc.AttncError:
        return "none"
    eager = attnc.compile(round_["text"], backend="eager")
    dtype = getattr(torch, round_["dtype"])
    offered = {one.array.name for one in spec.root.offered}
    emit = tuple({round_.get("emit")} & offered)
    try:
        if of_gradients:
            verdict = compare_gradients(spec, case, operator, eager, dtype, backend=backend)
        else:
            verdict = compare(spec, case, operator, eager, dtype, emit, backend=backend)
    except attnc.UnsupportedError:
        if not of_gradients:
            raise
        return "none"
    except CallError:
        if _is_legal(operator, case):
            raise
        return "none"
    return "" if verdict.passed else f"{verdict.comparisons} for {case}"


def _is_legal(operator: Any, case: Any) -> bool:
    """Whether the oracle takes a call: data may make it illegal (a divisor of 0)."""
    from attnc.errors import CallError

    try:
        operator.reference(**case.tensors, **case.numbers, **case.extras)
    except CallError:
        return False
    return True


def _play_rounds(rounds: Any) -> None:
    """Plays what comes through a pipe, until it is closed."""
    while True:
        try:
            round_ = rounds.recv()
        except EOFError:
            return
        try:
            rounds.send(play(round_))
        except Exception:  # a crash of any kind is a finding
            rounds.send(traceback.format_exc())


class Player:
    """Plays rounds in another process, and starts a new one when that is lost."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._start()

    def _start(self) -> None:
        self._rounds, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_play_rounds, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def play(self, round_: dict[str, Any]) -> str:
        """What `play` says, or how the process ended."""
        try:
            self._rounds.send(round_)
            if self._rounds.poll(ROUND_SECONDS):
                return str(self._rounds.recv())
            ending = f"no end within {ROUND_SECONDS} seconds"
        except (EOFError, ConnectionError):
            self._process.join()
            ending = f"the process ended with exit code {self._process.exitcode}"
        self._process.kill()
        self._process.join()
        self._start()
        return ending

    def close(self) -> None:
        """Ends the process."""
        self._rounds.close()
        self._process.join(10)


def record(round_: dict[str, Any], failure: str) -> Path:
    """Writes a failing round as a regression."""
    REGRESSIONS.mkdir(exist_ok=True)
    name = hashlib.sha256(json.dumps(round_, sort_keys=True).encode()).hexdigest()[:12]
    path = REGRESSIONS / f"{name}.json"
    path.write_text(json.dumps({**round_, "failure": failure[-2000:]}, indent=1) + "\n")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--rounds", type=int, default=None, help="no more than these")
    parser.add_argument(
        "--seed", type=int, default=None, help="printed, so that a run can be repeated"
    )
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**31)
    print(f"torture: seed {seed}, {options.seconds:.0f} seconds", flush=True)
    rng = random.Random(seed)
    stop = time.monotonic() + options.seconds
    passed = failed = skipped = 0
    player = Player()
    while time.monotonic() < stop and failed < MOST_FAILURES:
        if passed + failed + skipped == options.rounds:
            break
        round_ = draw_round(rng)
        outcome = player.play(round_)
        if outcome == "none":
            skipped += 1
        elif outcome:
            failed += 1
            print(
                f"FAILED {record(round_, outcome)}: {outcome.strip().splitlines()[-1][:300]}",
                flush=True,
            )
        else:
            passed += 1
        if (passed + failed) % 50 == 0:
            print(f"torture: {passed} passed, {failed} failed so far", flush=True)
    player.close()
    print(f"rounds that no kernel or call exists for: {skipped}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
