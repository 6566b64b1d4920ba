"""Where a model's files are: a directory, or a name of the Hugging Face hub."""

import re
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from collabedit.errors import ModelError

_NAME = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[\w.-]+))?", re.ASCII)
_PATTERNS = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "LICENSE*", "README.md")
"""What is asked of the hub: no code, which is never run, and no other copies of the weights."""


def model_directory(path: Path) -> Path:
    """Return a model's directory.

    Args:
        path: a directory; or, where there is none, a name of the hub (`organisation/model`, and
            `@` with a branch, tag or commit). It is looked up in the hub's local cache, and
            downloaded unless `HF_HUB_OFFLINE` is set.

    Raises:
        ModelError: neither.
    """
    if path.exists():
        return path
    named = _NAME.fullmatch(str(path))
    if named is None or set(named["name"]) <= {".", "/"}:
        raise ModelError(f"{path}: is no model directory (it has no config.json)")
    offline = bool(constants.HF_HUB_OFFLINE)
    try:
        return Path(
            snapshot_download(
                named["name"],
                revision=named["revision"],
                allow_patterns=list(_PATTERNS),
                local_files_only=offline,
            )
        )
    except LocalEntryNotFoundError as error:
        why = (
            "HF_HUB_OFFLINE is set, and the local cache has no such model"
            if offline
            else "the local cache has no such model, and the hub cannot be reached"
        )
        raise ModelError(f"{path}: is no model directory (it has no config.json); {why}") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelError(
            f"{path}: is no model directory (it has no config.json), and the hub has no such model "
            "for you"
        ) from error
