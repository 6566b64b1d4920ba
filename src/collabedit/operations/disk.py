"""Bytes that a session keeps on disk, and bytes that are left there."""

import os
import shutil
from pathlib import Path


def used_bytes(folder: Path) -> int:
    """Return the size of all files below a folder; files that vanish meanwhile count nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size  # noqa: PTH118  many files
            except OSError:
                continue
    return total


def free_bytes(folder: Path) -> int | None:
    """Return what an ordinary user may still write there; None if the disk does not say."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
