"""The model that benchmarks take if they need a real one."""

from pathlib import Path

from collabedit.cli.gridding import CACHE
from collabedit.demo.assets import MODEL_NAME

DEMO_MODEL: Path = CACHE / MODEL_NAME
"""Where `make demo` leaves it, below the project's root."""
