"""Entrances to fuzz, one module each: `run(data)` raises if a promise is broken, `seeds()` starts.

A module of this list is all that a new entrance needs; `make_corpus.py` writes its seeds.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """One entrance.

    Attributes:
        share: of all executions of `make fuzz`, in thousandths; by speed and by what is at stake.
        quick: mutations in the fast test suite.
        longest: input length in bytes.
    """

    share: int
    quick: int
    longest: int


TARGETS: dict[str, Target] = {
    "codec": Target(share=280, quick=4000, longest=2048),
    "exchange": Target(share=150, quick=2000, longest=4096),
    "closed": Target(share=30, quick=400, longest=2048),
    "plan": Target(share=100, quick=300, longest=4096),
    "edits": Target(share=150, quick=500, longest=2048),
    "evidence": Target(share=60, quick=300, longest=8192),
    "crypto": Target(share=60, quick=1000, longest=1024),
    "ckks": Target(share=20, quick=400, longest=80),
    "party": Target(share=90, quick=600, longest=96),
    "aggregator": Target(share=50, quick=300, longest=96),
    "coordinator": Target(share=10, quick=60, longest=64),
}
