"""Write the seeds of every target under tests/fuzz/corpus. Deterministic.

    python -m tests.fuzz.make_corpus [folder]

Files called `regression-…` are inputs that once broke a promise; they are kept as they are.
"""

import importlib
import sys
from pathlib import Path

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"


def write_corpus(folder: Path) -> None:
    """Replace all seeds in `folder`."""
    for name in TARGETS:
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        for old in place.iterdir():
            if not old.name.startswith("regression-"):
                old.unlink()
        for seed, data in importlib.import_module(f"tests.fuzz.targets.{name}").seeds().items():
            (place / seed).write_bytes(data)


if __name__ == "__main__":
    write_corpus(Path(sys.argv[1]) if len(sys.argv) > 1 else CORPUS)
