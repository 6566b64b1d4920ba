"""Places and addresses that are checked before any work is done for them."""

import os
from pathlib import Path

from collabedit.errors import InputError


def check_place(path: Path) -> None:
    """Refuse a place for a result before any work is done for it; missing folders may be made.

    Raises:
        InputError: names the path and what is in its way.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a directory")
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise InputError(f"{path}: cannot be written: {folder} is not a directory")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{path}: cannot be written: no permission in {folder}")


def check_address(option: str, address: str) -> None:
    """Refuse what is not HOST:PORT.

    Raises:
        InputError: names the option and the text.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(f"{option} {address}: must be HOST:PORT")
