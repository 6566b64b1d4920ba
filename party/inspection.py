"""What will go wrong with a file of edits, found before anything is computed with it.

Errors end a run or make it useless; warnings are what usually was not meant. A finding names
record, field and kind, and holds no text of an edit: it may be shown, logged and kept.

The loader's own complaints are findings here, so that a file without errors loads.
"""

import enum
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias

from collabedit.errors import EditFileError
from collabedit.party.edit import Edit
from collabedit.party.edit_files import Columns
from collabedit.party.edits import read_edits
from collabedit.party.items import edit_item, normalise
from collabedit.plan import Plan


class Severity(enum.StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of finding, and what to do about it."""

    severity: Severity
    advice: str


def _error(advice: str) -> Kind:
    return Kind(Severity.ERROR, advice)


def _warning(advice: str) -> Kind:
    return Kind(Severity.WARNING, advice)


KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        "malformed": _error("correct the field"),
        "not-unicode": _error("write the text anew: it holds half of a surrogate pair"),
        "conflict": _error("keep one of the two: a model cannot say both"),
        "too-many": _error("leave some out, or agree on a plan with a larger max_edits"),
        "too-long": _error("shorten the prompt or the target"),
        "no-tokens": _error("write subject and target in characters that the tokenizer knows"),
        "special-token": _error("remove it: the model reads it as a command, not as text"),
        "unknown-token": _warning("the tokenizer cannot tell these characters from others"),
        "duplicate": _warning("leave one out: both weigh in the sum"),
        "repeated-name": _warning("give every record its own case_id: reports cannot tell them"),
        "subject-twice": _warning("the last one is edited: mark the right one with {}"),
        "subject-spills": _warning("reword: the last token reads on into what follows"),
        "target-boundary": _warning("the target has other tokens behind this prompt than alone"),
        "target-blank": _warning("a blank is put before the target: reword if it does not belong"),
        "target-known": _warning("the record gives it as the true answer already"),
        "invisible": _warning("remove characters that are not seen (zero width, direction marks)"),
        "damaged": _warning("the text was read in a wrong encoding once: restore it"),
        "not-normalised": _warning("write it in Unicode NFC, as nearly all text is"),
        "odd-spacing": _warning("use single ordinary blanks"),
        "said-already": _warning("leave it out: the model says so without an edit"),
    }
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or probably is.

    Attributes:
        kind: of `KINDS`.
        record: number of the record, counted from 1; None for the file as a whole.
        case_id: name of the record, if it could be read.
        detail: what and where, in words that quote no edit.
    """

    kind: str
    record: int | None
    case_id: str | None
    detail: str

    @property
    def severity(self) -> Severity:
        """Of its kind."""
        return KINDS[self.kind].severity

    @property
    def advice(self) -> str:
        """What to do, of its kind."""
        return KINDS[self.kind].advice

    def to_dict(self) -> dict[str, object]:
        """Return what is written as JSON."""
        return {
            "record": self.record,
            "case_id": self.case_id,
            "severity": self.severity.value,
            "kind": self.kind,
            "detail": self.detail,
            "advice": self.advice,
        }


Numbered: TypeAlias = tuple[int, Edit]
"""Number of the record, counted from 1, and its edit."""


def read_file(
    path: Path, columns: Columns | None = None
) -> tuple[tuple[Numbered, ...], tuple[Finding, ...]]:
    """Read a file of edits; what cannot be read is a finding.

    Raises:
        EditFileError, InputError: the file as a whole cannot be read (`edits.read_edits`).
    """
    edits: list[Numbered] = []
    findings: list[Finding] = []
    for number, found in read_edits(path, columns):
        if isinstance(found, EditFileError):
            # The finding has file and number already.
            detail = str(found).removeprefix(f"{path}: record {number}: ")
            findings.append(Finding("malformed", number, None, detail))
        else:
            edits.append((number, found))
    return tuple(edits), tuple(findings)


def inspect_texts(edits: Sequence[Numbered]) -> Iterator[Finding]:
    """Look at each edit by itself, and at all of them together."""
    yield from _repeated(edits)
    for number, edit in edits:
        for kind, detail in _of_one(edit):
            yield Finding(kind, number, edit.case_id, detail)


def inspect_count(edits: int, plan: Plan, name: str | None) -> Iterator[Finding]:
    """Hold the number of edits against what a plan lets a party bring.

    Args:
        edits: how many.
        plan: the plan.
        name: of the party; None takes the most that any may bring.

    Raises:
        PlanError: the plan has no such party.
    """
    if name is None:
        who, allowed = "any party", max(each.max_edits for each in plan.federation.parties)
    else:
        party = plan.party_id(name)
        who, allowed = name, plan.federation.parties[party - 1].max_edits
    if edits > allowed:
        yield Finding("too-many", None, None, f"{edits} edits, the plan allows {who} {allowed}")


def _repeated(edits: Sequence[Numbered]) -> Iterator[Finding]:
    """Records about the same subject and relation, by the same rules as sessions count them."""
    first_facts: dict[bytes, int] = {}
    first_topics: dict[bytes, int] = {}
    names = Counter(edit.case_id for _, edit in edits)
    for number, edit in edits:
        if names[edit.case_id] > 1:
            detail = f"{names[edit.case_id]} records have this name"
            yield Finding("repeated-name", number, edit.case_id, detail)
        try:
            item = edit_item(edit)
        except EditFileError:
            yield Finding("not-unicode", number, edit.case_id, "subject, prompt or target")
            continue
        earlier = first_facts.setdefault(item.fact, number)
        if earlier != number:
            detail = f"says the same as record {earlier}"
            yield Finding("duplicate", number, edit.case_id, detail)
            continue
        earlier = first_topics.setdefault(item.topic, number)
        if earlier != number:
            detail = f"asks for another object than record {earlier}"
            yield Finding("conflict", number, edit.case_id, detail)


def _of_one(edit: Edit) -> Iterator[tuple[str, str]]:
    whole_word = rf"(?<!\w){re.escape(edit.subject)}(?!\w)"
    count = len(re.findall(whole_word, edit.question))
    if count > 1:
        yield "subject-twice", f"the subject is {count} times in the prompt"
    if edit.target_true and normalise(edit.target_true) == normalise(edit.target_new):
        yield "target-known", "target_new and the true answer are alike"
    for field, text in (
        ("prompt", edit.prompt),
        ("subject", edit.subject),
        ("target_new", edit.target_new),
    ):
        yield from ((kind, f"field {field}") for kind in _of_text(text))


def _of_text(text: str) -> Iterator[str]:
    categories = {unicodedata.category(letter) for letter in text if letter not in "\t\n\r"}
    if categories & {"Cf", "Cc", "Co", "Cn"}:
        yield "invisible"
    if "\N{REPLACEMENT CHARACTER}" in text or "\u00e2\u20ac" in text:
        yield "damaged"  # the second is what UTF-8's punctuation looks like in Windows-1252
    if not unicodedata.is_normalized("NFC", text):
        yield "not-normalised"
    if any(letter != " " and letter.isspace() for letter in text) or "  " in text:
        yield "odd-spacing"
