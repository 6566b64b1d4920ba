"""Benchmarks are scripts that import their neighbours: their folder is no package."""

import sys
from pathlib import Path

# Behind everything else, so that none of their names hides an installed package.
sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))
