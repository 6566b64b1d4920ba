"""Evidence as a file that one person can hand to another (SPEC 11.3).

Nothing in it is secret: it holds signed statements that the accused made to everybody in the task.
Reading is as strict as on the wire. A file is parsed and written again, and must give the very
bytes that came in, so unknown fields, repeated fields and other layouts are all refused, and one
evidence has one file.
"""

import base64
import binascii
import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from collabedit.errors import EvidenceFileError, MalformedMessageError
from collabedit.ids import PartyId
from collabedit.plan import Plan, format_digest
from collabedit.proto import messages as m
from collabedit.proto.codec import MAXIMUM_PACKET_BYTES, decode_envelope, encode_envelope
from collabedit.proto.evidence import Evidence, EvidenceKind
from collabedit.threat_model import MAXIMUM_PARTIES

FORMAT = "collabedit-evidence/1"

_MOST_ENVELOPES = 4

MAXIMUM_EVIDENCE_BYTES = 4 * _MOST_ENVELOPES * MAXIMUM_PACKET_BYTES // 3 + (1 << 16)
"""Four envelopes of the largest packet in base64, and 64 KiB for the rest: 90 MB."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Accused(_Strict):
    id: Annotated[int, Field(ge=0, le=MAXIMUM_PARTIES)]
    name: str


class _Document(_Strict):
    format: Literal["collabedit-evidence/1"]
    plan: str
    kind: EvidenceKind
    accused: _Accused
    envelopes: Annotated[list[str], Field(min_length=1, max_length=_MOST_ENVELOPES)]
    # Shown on terminals: nothing but what prints.
    note: Annotated[str, Field(pattern=r"\A[ -~]{0,500}\z")]


def format_evidence(evidence: Evidence, plan: Plan) -> bytes:
    """Write evidence as canonical JSON."""
    envelopes = [encode_envelope(envelope) for envelope in evidence.envelopes]
    document = {
        "format": FORMAT,
        "plan": format_digest(plan.digest),
        "kind": evidence.kind.value,
        "accused": {"id": evidence.accused, "name": plan.party_name(evidence.accused)},
        "envelopes": [base64.b64encode(envelope).decode("ascii") for envelope in envelopes],
        "note": evidence.note,
    }
    return (json.dumps(document, indent=2) + "\n").encode("ascii")


def parse_evidence(data: bytes, plan: Plan) -> Evidence:
    """Read evidence against a plan. What it claims is checked by `evidence.verify`.

    Raises:
        EvidenceFileError: not the one form of any evidence, or of another plan.
    """
    if len(data) > MAXIMUM_EVIDENCE_BYTES:
        raise EvidenceFileError(f"{len(data)} bytes, evidence has {MAXIMUM_EVIDENCE_BYTES} at most")
    try:
        document = _Document.model_validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise EvidenceFileError(f"not {FORMAT}: {where}: {first['msg']}") from error
    if document.plan != format_digest(plan.digest):
        raise EvidenceFileError(
            f"the evidence is of another plan; this one has {format_digest(plan.digest)}"
        )
    accused = PartyId(document.accused.id)
    evidence = Evidence(
        document.kind,
        accused,
        tuple(_decode(text) for text in document.envelopes),
        document.note,
    )
    if accused > len(plan.federation.parties):
        raise EvidenceFileError(f"the plan has no party {accused}")
    if format_evidence(evidence, plan) != data:
        raise EvidenceFileError("not in the one form that evidence has: the file was changed")
    return evidence


def _decode(text: str) -> m.Envelope:
    try:
        return decode_envelope(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError, MalformedMessageError) as error:
        raise EvidenceFileError(f"an envelope does not decode: {error}") from error


def read_evidence(path: Path, plan: Plan) -> Evidence:
    """Read a file of evidence.

    Raises:
        EvidenceFileError: names the file and what is wrong with it.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAXIMUM_EVIDENCE_BYTES + 1)
    except OSError as error:
        raise EvidenceFileError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return parse_evidence(data, plan)
    except EvidenceFileError as error:
        raise EvidenceFileError(f"{path}: {error}") from error


class EvidenceFolder:
    """Where one's own end leaves evidence: a sink that writes `evidence-KIND-DIGEST.json`.

    Args:
        directory: exists already.
        plan: the session's.

    Attributes:
        written: the files, in order.
    """

    def __init__(self, directory: Path, plan: Plan) -> None:
        self._directory = directory
        self._plan = plan
        self.written: list[Path] = []

    def __repr__(self) -> str:
        return f"EvidenceFolder({self._directory})"

    def save(self, evidence: Evidence) -> Path:
        """Write `evidence`, whole or not at all, and return where. The same again changes nothing.

        Raises:
            EvidenceFileError: the disk refuses.
        """
        data = format_evidence(evidence, self._plan)
        digest = hashlib.sha256(data).hexdigest()[:12]
        path = self._directory / f"evidence-{evidence.kind}-{digest}.json"
        partial = path.with_name(f".{path.name}.partial")
        try:
            with partial.open("wb") as file:
                # To be handed on, and nothing in it is secret.
                os.fchmod(file.fileno(), 0o644)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            raise EvidenceFileError(f"{path}: cannot be written: {error.strerror}") from error
        self.written.append(path)
        return path
