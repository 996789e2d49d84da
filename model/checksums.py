"""SHA-256 sums of a folder's files, in the format that `sha256sum --check` reads."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

NAME = "SHA256SUMS"
_BLOCK_BYTES = 1 << 22
_THREADS = 8


def write_checksums(folder: Path) -> None:
    """Write `folder`/SHA256SUMS over all files below. A subfolder that has its own is covered by that file's sum."""
    sealed = {path.parent for path in folder.rglob(NAME)} - {folder}
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / NAME and (path.name == NAME or not sealed & set(path.parents))
    ]
    lines = [f"{digest}  {path.relative_to(folder)}\n" for path, digest in zip(files, _digests(files), strict=True)]
    (folder / NAME).write_text("".join(lines), encoding="utf-8")


def damaged(folder: Path) -> list[str]:
    """What differs from `folder`/SHA256SUMS and those below it, one text a file; empty where all is as written.

    A folder without sums, such as another program's, has nothing to differ from.
    """
    try:
        lines = (folder / NAME).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except ValueError:
        return [f"{NAME} is no list of sums"]
    pairs = [line.split("  ", 1) for line in lines]
    if any(len(pair) != 2 for pair in pairs):
        return [f"{NAME} is no list of sums"]
    paths = [folder / name for _, name in pairs]
    absent = [f"{path.relative_to(folder)} is missing" for path in paths if not path.is_file()]
    present = [(digest, path) for (digest, _), path in zip(pairs, paths, strict=True) if path.is_file()]
    digests = _digests([path for _, path in present])
    other = [
        f"{path.relative_to(folder)} has other bytes than were written"
        for (digest, path), found in zip(present, digests, strict=True)
        if digest != found
    ]
    nested = [path.parent for _, path in present if path.name == NAME]
    below = [f"{inner.relative_to(folder)}/{wrong}" for inner in nested for wrong in damaged(inner)]
    return [*absent, *other, *below]


def _digests(files: list[Path]) -> list[str]:
    """Hashing gives up the interpreter's lock, so that threads share the cores."""
    with ThreadPoolExecutor(max(1, min(_THREADS, len(os.sched_getaffinity(0))))) as pool:
        return list(pool.map(_digest, files))


def _digest(path: Path) -> str:
    sha = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_BLOCK_BYTES):
            sha.update(block)
    return sha.hexdigest()
