"""Evidence has one file, and nothing else is read as evidence."""

import base64
import hashlib
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from collabedit.errors import EvidenceFileError, InvalidEvidenceError, MalformedMessageError
from collabedit.ids import AGGREGATOR, PartyId, TaskIndex
from collabedit.plan import format_digest
from collabedit.proto import messages as m
from collabedit.proto.codec import decode_envelope, encode_envelope
from collabedit.proto.envelope import first_chain, sign_message
from collabedit.proto.evidence import Evidence, EvidenceKind, verify
from collabedit.proto.evidence_file import (
    MAXIMUM_EVIDENCE_BYTES,
    EvidenceFolder,
    format_evidence,
    parse_evidence,
    read_evidence,
)
from tests.support.federations import build_federation

FEDERATION = build_federation(3)
PLAN = FEDERATION.plan
CONTEXT = m.Context(PLAN.digest, bytes(32), TaskIndex(0), first_chain(PLAN.digest, bytes(32)))


def signed(message: m.Message, sender: int = 0) -> m.Envelope:
    party = PartyId(sender)
    return sign_message(message, context=CONTEXT, sender=party, key=FEDERATION.identities[party])


def releases() -> tuple[m.Envelope, m.Envelope]:
    first, second = (signed(m.Release(bytes([n]) * 32, 1, bytes(32))) for n in (1, 2))
    return first, second


PROOF = Evidence(EvidenceKind.REPEATED_STATEMENT, AGGREGATOR, releases(), "told twice")
DATA = format_evidence(PROOF, PLAN)


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    """The file after somebody changed it, in the layout that files have."""
    document = json.loads(DATA)
    change(document)
    return (json.dumps(document, indent=2) + "\n").encode()


def test_the_bytes_of_a_file_are_pinned() -> None:
    # SPEC 11.3, field by field.
    first, second = (base64.b64encode(encode_envelope(e)).decode() for e in PROOF.envelopes)
    expected = (
        "{\n"
        '  "format": "collabedit-evidence/1",\n'
        f'  "plan": "{format_digest(PLAN.digest)}",\n'
        '  "kind": "repeated-statement",\n'
        '  "accused": {\n'
        '    "id": 0,\n'
        '    "name": "aggregator"\n'
        "  },\n"
        '  "envelopes": [\n'
        f'    "{first}",\n'
        f'    "{second}"\n'
        "  ],\n"
        '  "note": "told twice"\n'
        "}\n"
    )
    assert expected.encode("ascii") == DATA
    assert parse_evidence(DATA, PLAN) == PROOF
    assert verify(parse_evidence(DATA, PLAN), PLAN).name == "aggregator"


def test_an_envelope_is_the_first_field_of_its_packet() -> None:
    envelope = releases()[0]
    data = encode_envelope(envelope)
    assert decode_envelope(data) == envelope
    for damaged in (b"", data + b"\x00", data + b"\xf8\x01\x00", data[:-1]):
        with pytest.raises(MalformedMessageError):
            decode_envelope(damaged)


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "an unknown field": lambda d: d.update(extra=1),
    "an unknown field of the accused": lambda d: d["accused"].update(extra=1),
    "no note": lambda d: d.pop("note"),
    "no envelopes": lambda d: d.update(envelopes=[]),
    "too many envelopes": lambda d: d.update(envelopes=d["envelopes"] * 3),
    "another format": lambda d: d.update(format="collabedit-evidence/2"),
    "an unknown kind": lambda d: d.update(kind="bad-manners"),
    "an id that is text": lambda d: d["accused"].update(id="0"),
    "an id that is no integer": lambda d: d["accused"].update(id=0.0),
    "an id below zero": lambda d: d["accused"].update(id=-1),
    "an id beyond the plan": lambda d: d["accused"].update(id=4),
    "another name": lambda d: d["accused"].update(name="party-1"),
    "another id than the name": lambda d: d["accused"].update(id=1),
    "an escape sequence in the note": lambda d: d.update(note="\x1b[2J"),
    "a line break in the note": lambda d: d.update(note="one\n"),
    "a note without end": lambda d: d.update(note="x" * 501),
    "a blank in the base64": lambda d: d["envelopes"].__setitem__(0, " " + d["envelopes"][0]),
    "no base64": lambda d: d["envelopes"].__setitem__(0, "ä"),
    "no envelope": lambda d: d["envelopes"].__setitem__(0, "AAAA"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_file_is_refused(name: str) -> None:
    with pytest.raises(EvidenceFileError):
        parse_evidence(changed(CHANGES[name]), PLAN)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"null",
        b"[" * 100_000,
        b"\xff\xfe",
        DATA + b"\n",
        DATA.replace(b"\n", b"\r\n"),
        json.dumps(json.loads(DATA)).encode(),
        DATA.replace(b'  "note"', b'  "kind": "roster-fork",\n  "note"'),
        DATA[:-10],
    ],
    ids=[
        "empty",
        "no fields",
        "null",
        "deep",
        "no text",
        "one line more",
        "other line ends",
        "another layout",
        "a field twice",
        "cut",
    ],
)
def test_another_form_of_a_file_is_refused(data: bytes) -> None:
    with pytest.raises(EvidenceFileError):
        parse_evidence(data, PLAN)


def test_the_last_bits_of_base64_cannot_vary() -> None:
    text = json.loads(DATA)["envelopes"][0]
    assert text.endswith("=")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    stem, padding = text.rstrip("="), text[len(text.rstrip("=")) :]
    other = stem[:-1] + alphabet[alphabet.index(stem[-1]) + 1] + padding
    assert base64.b64decode(other) == base64.b64decode(text)
    with pytest.raises(EvidenceFileError, match="was changed"):
        parse_evidence(DATA.replace(text.encode(), other.encode()), PLAN)


def test_a_file_of_another_plan_is_refused_by_name() -> None:
    other = build_federation(3, capacity=40).plan
    with pytest.raises(EvidenceFileError, match="of another plan"):
        parse_evidence(DATA, other)
    # Whoever changes the digest to fit gets past the file, and not past the signatures.
    fitting = DATA.replace(
        format_digest(PLAN.digest).encode(), format_digest(other.digest).encode()
    )
    with pytest.raises(InvalidEvidenceError, match="another plan"):
        verify(parse_evidence(fitting, other), other)


def test_a_file_that_is_too_large_is_not_parsed(tmp_path: Path) -> None:
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(MAXIMUM_EVIDENCE_BYTES + 10)
    with pytest.raises(EvidenceFileError, match="at most"):
        read_evidence(large, PLAN)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvidenceFileError, match="nowhere"):
        read_evidence(tmp_path / "nowhere.json", PLAN)


# Where one's own end leaves evidence.


def test_a_folder_keeps_one_readable_file_for_each_evidence(tmp_path: Path) -> None:
    folder = EvidenceFolder(tmp_path, PLAN)
    path = folder.save(PROOF)
    assert folder.save(PROOF) == path
    digest = hashlib.sha256(DATA).hexdigest()[:12]
    assert path.name == f"evidence-repeated-statement-{digest}.json"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert read_evidence(path, PLAN) == PROOF
    assert set(folder.written) == {path}


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    folder = EvidenceFolder(tmp_path / "gone", PLAN)
    with pytest.raises(EvidenceFileError, match="cannot be written"):
        folder.save(PROOF)
    assert not folder.written
