"""Every failure that the torture run ever found stays found."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
FOUND = sorted((HERE / "regressions").glob("*.json"))


def torture() -> Any:
    spec = importlib.util.spec_from_file_location("torture", HERE / "torture.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_a_found_failure_stays_mended(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNC_CPU_ISA", "")
    found = json.loads(path.read_text())
    assert torture().play(found) == ""
