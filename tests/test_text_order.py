"""Emitted texts do not depend on how Python hashes names: no set is printed in its own order."""

from __future__ import annotations

import os
import subprocess
import sys

from gallery_cases import EXAMPLES

# A recurrence in chunks, its reverse, a table that pairs add to, a root found in rounds, keys that
# are chosen by a block of the text.
KINDS = (
    "decay/gla backward",
    "ssm/mamba2 forward",
    "positional/relative_bias backward",
    "variants/entmax backward",
    "sparse/block_topk forward",
)
PRINTED = """
import hashlib, sys
from pathlib import Path
from attnc.cli.show import member_text, stage_text
from attnc.front import load_source, read_spec

for path, member in zip(sys.argv[1::2], sys.argv[2::2]):
    spec = read_spec(load_source(Path(path)))
    for backend in ("triton", "cpu"):
        plain = member == "forward"
        text = stage_text(spec, backend) if plain else member_text(spec, backend, member)
        print(path, member, backend, hashlib.sha256(text.encode()).hexdigest())
"""


def test_texts_are_the_same_however_names_are_hashed() -> None:
    """Of the two seeds one turns the indices of a recurrence's instance around."""
    given = [word for kind in KINDS for word in kind.split()]
    given[::2] = [str(EXAMPLES / f"{name}.attn") for name in given[::2]]
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", PRINTED, *given],
            env=os.environ | {"PYTHONHASHSEED": seed}, stdout=subprocess.PIPE, text=True,
        )
        for seed in ("1", "3")
    ]  # fmt: skip
    first, second = (run.communicate()[0].splitlines() for run in runs)
    assert len(first) == 2 * len(KINDS)
    assert first == second
