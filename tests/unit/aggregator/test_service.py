"""Every error of the tree has one status."""

import grpc
import pytest

from collabedit import errors
from collabedit.aggregator import service
from collabedit.errors import AbortReason, CollabEditError
from collabedit.party import client
from collabedit.proto.statements import RefusalError

STATUS = grpc.StatusCode
EXPECTED: dict[type[CollabEditError], grpc.StatusCode] = {
    CollabEditError: STATUS.INTERNAL,
    errors.InputError: STATUS.INTERNAL,
    errors.PlanError: STATUS.INTERNAL,
    errors.KeyFileError: STATUS.INTERNAL,
    errors.EditFileError: STATUS.INTERNAL,
    errors.EvidenceFileError: STATUS.INTERNAL,
    errors.ModelError: STATUS.INTERNAL,
    errors.NumericError: STATUS.INTERNAL,
    errors.BoundsError: STATUS.INTERNAL,
    errors.CryptoError: STATUS.UNAUTHENTICATED,
    errors.InvalidSignatureError: STATUS.UNAUTHENTICATED,
    errors.InvalidSealError: STATUS.UNAUTHENTICATED,
    errors.InvalidPublicKeyError: STATUS.UNAUTHENTICATED,
    errors.InvalidShareError: STATUS.UNAUTHENTICATED,
    errors.InvalidEvidenceError: STATUS.UNAUTHENTICATED,
    errors.ProtocolError: STATUS.FAILED_PRECONDITION,
    errors.UnexpectedMessageError: STATUS.FAILED_PRECONDITION,
    errors.MalformedMessageError: STATUS.INVALID_ARGUMENT,
    errors.SessionAbortedError: STATUS.FAILED_PRECONDITION,
    errors.TransportError: STATUS.INTERNAL,
    errors.AcceptanceError: STATUS.INTERNAL,
    errors.DeclinedError: STATUS.INTERNAL,
    errors.GridError: STATUS.INTERNAL,
    errors.RankError: STATUS.INTERNAL,
    errors.MemoryFileError: STATUS.RESOURCE_EXHAUSTED,
    RefusalError: STATUS.FAILED_PRECONDITION,
    errors.StorageError: STATUS.RESOURCE_EXHAUSTED,
    errors.DamagedUploadError: STATUS.RESOURCE_EXHAUSTED,
    errors.JournalError: STATUS.RESOURCE_EXHAUSTED,
    service._PermissionError: STATUS.PERMISSION_DENIED,
}


def tree(root: type[CollabEditError]) -> set[type[CollabEditError]]:
    found = {root}
    for child in root.__subclasses__():
        if child.__module__.startswith(("collabedit.errors", "collabedit.aggregator")):
            found |= tree(child)
    return found


def make(kind: type[CollabEditError]) -> CollabEditError:
    if kind is RefusalError:
        return RefusalError(AbortReason.TIMEOUT, "detail", culprit=None)
    if kind is errors.SessionAbortedError:
        return errors.SessionAbortedError(AbortReason.TIMEOUT, "detail")
    return kind("detail")


def test_the_mapping_is_total_over_the_tree() -> None:
    assert tree(CollabEditError) <= set(EXPECTED)


@pytest.mark.parametrize("kind", EXPECTED, ids=lambda kind: kind.__name__)
def test_every_error_has_its_status(kind: type[CollabEditError]) -> None:
    assert service._status(make(kind)) is EXPECTED[kind]


def test_no_refusal_looks_like_an_aggregator_that_is_not_there() -> None:
    # These two are what a client repeats for as long as it has patience.
    assert not {service._status(make(kind)) for kind in EXPECTED} & set(client._RETRIED)
