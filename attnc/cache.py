"""The cache folder: private to its owner, keyed by content, safe under processes that write at
once.

Everything in it is made anew when it is missing. `ATTNC_CACHE` moves it.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import platformdirs

from attnc.errors import AttncError, CacheError


def cache_folder(part: str) -> Path:
    """The folder for one kind of thing (`modules`, `cpu`), made if it is missing, readable by its
    owner alone."""
    base = os.environ.get("ATTNC_CACHE") or platformdirs.user_cache_dir("attnc", appauthor=False)
    folder = Path(base) / part
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_private(folder)
    except OSError as error:
        raise CacheError(
            f"{_why(error)}: {folder}. Set ATTNC_CACHE to a folder of yours."
        ) from None
    return folder


def check_private(folder: Path) -> None:
    """Refuses a folder that another user owns or may write: code is loaded from it."""
    status = folder.stat()
    if not hasattr(os, "getuid"):
        return
    if status.st_uid != os.getuid():
        raise CacheError(f"the cache folder belongs to another user: {folder}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise CacheError(f"other users may write to the cache folder: chmod 700 {folder}")


def write_once(path: Path, text: str) -> Path:
    """Writes `text` to `path` unless the file is there; readers never see half a file."""
    if path.exists():
        return path
    return write_atomically(path, text)


def write_file(path: Path, text: str) -> Path:
    """Writes a file that a user named, in one step, with the permissions that it has or that any
    new file gets."""
    path = path.resolve()
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        mask = os.umask(0)
        os.umask(mask)
        mode = 0o666 & ~mask
    try:
        return write_atomically(path, text, mode)
    except CacheError as error:
        raise AttncError(str(error).replace("the cache", "the file", 1)) from None


def write_atomically(path: Path, text: str, mode: int | None = None) -> Path:
    """Replaces the file at `path` in one step; without a mode it is its owner's alone."""
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        if mode is not None:
            os.chmod(temporary, mode)
        os.replace(temporary, path)
    except OSError as error:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
        raise CacheError(f"{_why(error)}: {path}") from None
    return path


def _why(error: OSError) -> str:
    return f"the cache cannot be written ({error.strerror or type(error).__name__})"
