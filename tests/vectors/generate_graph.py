"""Write tests/vectors/graph.json with the code under test: degrees and share thresholds (SPEC 4.9).

python tests/vectors/generate_graph.py [file]
"""

import json
import sys
from pathlib import Path

from collabedit.crypto.graph import neighbourhood

CASES: tuple[tuple[int, int, int | None], ...] = (
    (4, 3, None),
    (32, 24, 10),
    (33, 33, 0),
    (33, 23, 12),
    (34, 34, 1),
    (40, 27, 10),
    (48, 33, 15),
    (50, 50, 0),
    (64, 43, 21),
    (64, 43, None),
    (64, 60, 3),
    (80, 54, 27),
    (90, 80, 10),
    (100, 67, 0),
    (100, 67, 30),
    (100, 80, 10),
    (100, 98, 50),
    (128, 86, 20),
)
"""(roster, threshold, corruptions)."""


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "graph.json"
    cases = []
    for roster, threshold, corruptions in CASES:
        graph = neighbourhood(roster, threshold=threshold, corruptions=corruptions)
        given = {"roster": roster, "threshold": threshold, "corruptions": corruptions}
        made = {"degree": graph.degree, "share_threshold": graph.threshold}
        cases.append({**given, **made})
    content = {"generator": "tests/vectors/generate_graph.py", "cases": cases}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
