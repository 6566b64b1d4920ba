"""The error tree, by who is at fault. One exit code each; `docs/errors.md` has a row for every one.

    CollabEditError                     1   anything of ours
    ├── InputError                      2   a file, flag or plan that this user can correct
    │   ├── PlanError                       the plan does not hold together
    │   ├── KeyFileError                    a key or certificate file: missing, malformed, not ours
    │   ├── EditFileError                   an edits file: names file, record and field
    │   ├── EvidenceFileError               a file of evidence: not one, altered, of another plan
    │   └── ModelError                      model directory missing, unknown or not the plan's
    ├── NumericError                    3   the numbers refuse: overflow, capacity, not finite
    │   └── BoundsError                     numbers beyond what the plan's bounds allow
    ├── CryptoError                     4   a cryptographic check failed
    │   ├── InvalidSignatureError
    │   ├── InvalidSealError
    │   ├── InvalidPublicKeyError
    │   ├── InvalidShareError
    │   └── InvalidEvidenceError            the statements do not prove what is claimed
    ├── ProtocolError                   5   the session cannot go on
    │   ├── UnexpectedMessageError          not accepted by this state, which stays valid
    │   ├── MalformedMessageError           bytes that are not the message they claim to be
    │   └── SessionAbortedError             the session ended early; carries an AbortReason
    ├── TransportError                  6   the network or TLS
    ├── AcceptanceError                 7   a run finished but missed a stated bound
    ├── StorageError                    8   a disk is full, read-only or damaged
    │   ├── DamagedUploadError              a stored upload: missing or damaged, its sum is lost
    │   ├── JournalError                    a journal: damaged, in use, or of another session
    │   └── MemoryFileError                 past edits: damaged, of another key or history
    ├── DeclinedError                   9   the operator looked at what was decided, and left
    ├── GridError                       10  some cells of a grid have no result, the others do
    └── RankError                       1   of processes that compute together, one is gone
    usage errors of the command line    2   (typer's own)

Messages name the culprit and what to do. They never contain edit texts, keys, seeds or statistics.
"""

import enum
from typing import ClassVar


class AbortReason(enum.IntEnum):
    """Why a task or session ended early. Values are wire-stable: never renumber, never reuse."""

    UNSPECIFIED = 0
    BELOW_THRESHOLD = 1
    """Fewer parties than the plan's threshold are left."""
    INVALID_SIGNATURE = 2
    """A signature does not verify under the identity pinned in the plan."""
    UNKNOWN_PARTY = 3
    """A message names a party that is not in the plan or not in the roster."""
    REPEATED_PARTY = 4
    """A list names one party twice."""
    MISSING_SELF = 5
    """A roster or transcript leaves out the party it is addressed to."""
    ALTERED_OWN_MESSAGE = 6
    """A relayed list holds another message than the one that this party sent."""
    INVALID_SEAL = 7
    """A sealed share did not open."""
    INVALID_PUBLIC_KEY = 8
    """A public key is malformed or of low order."""
    DIGEST_MISMATCH = 9
    """A digest does not match what it should cover."""
    ROSTER_FORK = 10
    """Two parties were shown different rosters or transcripts."""
    SURVIVOR_FORK = 11
    """Two parties were shown different survivor sets."""
    UPDATE_FORK = 12
    """Two parties were shown different updates."""
    INVALID_SHARE = 13
    """Shares do not reconstruct the secret that their owner committed to."""
    REPEATED_OPENING = 14
    """A second unmasking of the same task was asked for."""
    PLAN_MISMATCH = 15
    """A party joined under another plan."""
    INPUT_REFUSED = 16
    """A party's own input broke a bound of the plan; nothing of it was sent."""
    MERGE_FAILED = 17
    """The opened sums do not allow a merge (not finite, symmetric and positive semidefinite)."""
    PARTY_LEFT = 18
    """A party ended the session on its side."""
    TIMEOUT = 19
    """The peer stayed silent beyond the plan's limit."""
    MALFORMED_MESSAGE = 20
    """Bytes of an authenticated peer do not decode, or hold values out of range."""
    INTERNAL = 21
    """A fault on the sender's own side."""
    BOUNDS_EXCEEDED = 22
    """The opened sums are more than the plan's bounds allow the survivors together."""
    COUNTS_REFUSED = 24
    """The opened tables of a counting task cannot be the survivors' counts."""
    UPDATE_REJECTED = 23
    """Fewer parties than the plan asks for accepted the session's update; all take it back."""
    MERGE_UNVERIFIED = 25
    """The update is not the merge of what the parties contributed, as their secret vectors show."""
    TOO_FEW_EDITS = 26
    """The survivors brought fewer edits than the plan lets an update be made of."""
    OPENER_GONE = 27
    """The one party that may open an encrypted sum is gone; no other one may take its place."""


class CollabEditError(Exception):
    """Root of everything this package raises on purpose."""

    exit_code: ClassVar[int] = 1


class InputError(CollabEditError):
    """A file, flag or setting that the user can correct. Nothing was sent."""

    exit_code = 2


class PlanError(InputError):
    """The plan is malformed, inconsistent, or not the one expected."""


class KeyFileError(InputError):
    """A key or certificate file is missing, malformed or belongs to somebody else."""


class EditFileError(InputError):
    """An edits file cannot be used; the message names file, record and field, never the text."""


class EvidenceFileError(InputError):
    """A file of evidence is not one, was altered, or is of another plan."""


class ModelError(InputError):
    """A model directory is missing, of an unknown architecture, or not the plan's model."""


class NumericError(CollabEditError):
    """Numbers break a proven bound: overflow, capacity, or not finite. Nothing was sent."""

    exit_code = 3


class BoundsError(NumericError):
    """Numbers exceed what the plan's bounds allow a party, or all survivors together."""


class CryptoError(CollabEditError):
    """A cryptographic check failed."""

    exit_code = 4


class InvalidSignatureError(CryptoError):
    """A signature does not verify."""


class InvalidSealError(CryptoError):
    """An authenticated ciphertext does not open."""


class InvalidPublicKeyError(CryptoError):
    """A public key is malformed or of low order."""


class InvalidShareError(CryptoError):
    """A secret share is malformed, repeated, or does not lead to the committed secret."""


class InvalidEvidenceError(CryptoError):
    """Signed statements do not prove what is claimed of their signer."""


class ProtocolError(CollabEditError):
    """The session cannot go on."""

    exit_code = 5


class UnexpectedMessageError(ProtocolError):
    """A message that the current state does not accept; the state is unchanged and stays valid."""


class MalformedMessageError(ProtocolError):
    """Bytes that are not the message they claim to be."""


class SessionAbortedError(ProtocolError):
    """The session ended early.

    Attributes:
        reason: the first reason that applied.
        culprit: the party at fault by its name in the plan, `aggregator`, or empty if unknown.
    """

    def __init__(self, reason: AbortReason, detail: str, *, culprit: str = "") -> None:
        self.reason = reason
        self.culprit = culprit
        blame = f" (culprit: {culprit})" if culprit else ""
        super().__init__(f"{reason.name}: {detail}{blame}")


class TransportError(CollabEditError):
    """The network or TLS failed; the message says which end and what to check."""

    exit_code = 6


class AcceptanceError(CollabEditError):
    """A run finished, but a stated bound does not hold."""

    exit_code = 7


class StorageError(CollabEditError):
    """A disk is full, read-only or damaged. What was acknowledged before is kept."""

    exit_code = 8


class JournalError(StorageError):
    """A journal is damaged, in use by another process, or belongs to another session."""


class DamagedUploadError(StorageError):
    """A stored upload is gone, too short or altered: its task cannot be summed any more."""


class MemoryFileError(StorageError):
    """A file of past edits is damaged, under another key, or of another history."""


class DeclinedError(CollabEditError):
    """The party's own operator looked at the copies and conflicts of its edits and left."""

    exit_code = 9


class GridError(CollabEditError):
    """Some cells of a grid failed; the results of the others are kept."""

    exit_code = 10


class RankError(CollabEditError):
    """One of the processes that share a party's computation is gone, silent, or unlike the rest."""
