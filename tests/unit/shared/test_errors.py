"""The error tree is the one that its module prints, and wire numbers stay."""

import re

import pytest

from collabedit import errors
from collabedit.errors import AbortReason, CollabEditError, SessionAbortedError

REASONS = {
    "UNSPECIFIED": 0,
    "BELOW_THRESHOLD": 1,
    "INVALID_SIGNATURE": 2,
    "UNKNOWN_PARTY": 3,
    "REPEATED_PARTY": 4,
    "MISSING_SELF": 5,
    "ALTERED_OWN_MESSAGE": 6,
    "INVALID_SEAL": 7,
    "INVALID_PUBLIC_KEY": 8,
    "DIGEST_MISMATCH": 9,
    "ROSTER_FORK": 10,
    "SURVIVOR_FORK": 11,
    "UPDATE_FORK": 12,
    "INVALID_SHARE": 13,
    "REPEATED_OPENING": 14,
    "PLAN_MISMATCH": 15,
    "INPUT_REFUSED": 16,
    "MERGE_FAILED": 17,
    "PARTY_LEFT": 18,
    "TIMEOUT": 19,
    "MALFORMED_MESSAGE": 20,
    "INTERNAL": 21,
    "BOUNDS_EXCEEDED": 22,
    "COUNTS_REFUSED": 24,
    "UPDATE_REJECTED": 23,
    "MERGE_UNVERIFIED": 25,
    "TOO_FEW_EDITS": 26,
    "OPENER_GONE": 27,
}


def classes() -> set[type[CollabEditError]]:
    return {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, CollabEditError)
    }


def printed() -> dict[str, tuple[str, int]]:
    """Parent and exit code of every class in the module's drawing."""
    assert errors.__doc__ is not None
    found: dict[str, tuple[str, int]] = {}
    path: list[tuple[str, int]] = []
    for line in errors.__doc__.splitlines():
        match = re.match(r"^    ([│├└─ ]*)([A-Z]\w+Error)\s*(\d*)", line)
        if not match:
            continue
        depth = len(match[1]) // 4
        del path[depth:]
        parent = path[-1][0] if path else "Exception"
        code = int(match[3]) if match[3] else path[-1][1]
        path.append((match[2], code))
        found[match[2]] = (parent, code)
    return found


def test_the_printed_tree_is_the_tree() -> None:
    real = {kind.__name__: (kind.__bases__[0].__name__, kind.exit_code) for kind in classes()}
    assert printed() == real
    assert len(real) > 15


def test_reasons_keep_their_numbers() -> None:
    assert {reason.name: reason.value for reason in AbortReason} == REASONS


def test_every_reason_and_every_class_is_explained() -> None:
    for kind in classes():
        assert kind.__doc__
        assert kind.__doc__[0].isupper()


@pytest.mark.parametrize(
    ("culprit", "said"),
    [("party-2", "TIMEOUT: no word (culprit: party-2)"), ("", "TIMEOUT: no word")],
)
def test_an_aborted_session_says_reason_and_culprit(culprit: str, said: str) -> None:
    error = SessionAbortedError(AbortReason.TIMEOUT, "no word", culprit=culprit)
    assert str(error) == said
    assert (error.reason, error.culprit) == (AbortReason.TIMEOUT, culprit)
