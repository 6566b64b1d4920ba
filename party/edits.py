"""Edits of one party, read from the three file forms that people have.

* CounterFact (Meng et al. 2022): `requested_rewrite` with a prompt that has `{}` for the subject.
* EasyEdit's flat form: the subject stands literally in `prompt`.
* zsRE in the form of MEND (Mitchell et al. 2022): a question `src`, the wanted answer `alt`.

An edit's text is what the whole system hides. It stays out of every `repr` and every message: an
error names file, record and field.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from collabedit.errors import EditFileError

SLOT = "{}"
"""Where the subject goes in a prompt. A prompt has exactly one."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One fact to write, with the prompts that measure it.

    Attributes:
        case_id: name of the record; appears in reports, unlike everything below.
        prompt: template with one `{}` for the subject; the completion follows it.
        subject: what the fact is about.
        target_new: wanted completion, without the leading blank.
        target_true: completion before the edit, if known.
        paraphrase_prompts: complete prompts that should now also give `target_new`.
        neighborhood: pairs (complete prompt, its true answer) that should not change.
        generation_prompts: complete prompts for free generation.
        relation: id of the relation, if known.
    """

    case_id: str
    prompt: str = field(repr=False)
    subject: str = field(repr=False)
    target_new: str = field(repr=False)
    target_true: str | None = field(default=None, repr=False)
    paraphrase_prompts: tuple[str, ...] = field(default=(), repr=False)
    neighborhood: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    generation_prompts: tuple[str, ...] = field(default=(), repr=False)
    relation: str | None = field(default=None, repr=False)

    @property
    def question(self) -> str:
        """The prompt with the subject in place."""
        return self.prompt.replace(SLOT, self.subject)


def edits_digest(edits: Sequence[Edit]) -> str:
    """Digest the edits in order, as hex SHA-256.

    It ties files of one party together and never leaves that party: short texts can be guessed.
    """
    canonical = json.dumps([asdict(edit) for edit in edits], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def load_edits(path: Path) -> tuple[Edit, ...]:
    """Read a JSON or JSONL file of edits, in file order.

    Each record may be in any of the three forms. A record without `case_id` is named by its number,
    counted from 1.

    Raises:
        EditFileError: the file cannot be read, or a record is malformed. One line that names file,
            record and field.
    """
    records = list(_records(path))
    if not records:
        raise EditFileError(f"{path}: holds no edits")
    return tuple(_edit(path, number, record) for number, record in enumerate(records, start=1))


def load_true_facts(path: Path) -> tuple[Edit, ...]:
    """Read a file of edits for its true completions: requests for these, in file order.

    The true completion is `target_true` of CounterFact's form, `ground_truth` of EasyEdit's, the
    first of `answers` of zsRE's. Prompts that measure an edit are left out.

    Raises:
        EditFileError: a record has none, or see `load_edits`. One line that names file and record.
    """
    return tuple(
        _true_fact(path, number, edit) for number, edit in enumerate(load_edits(path), start=1)
    )


def _true_fact(path: Path, number: int, edit: Edit) -> Edit:
    if not edit.target_true:
        raise EditFileError(
            f"{path}: record {number}: has no true completion to re-assert ('target_true', "
            "'ground_truth' or 'answers', by its form)"
        )
    return Edit(
        case_id=edit.case_id,
        prompt=edit.prompt,
        subject=edit.subject,
        target_new=edit.target_true,
        relation=edit.relation,
    )


def subject_template(prompt: str, subject: str) -> str | None:
    """Put `{}` where the subject stands: its last occurrence as whole words, else its last one.

    The last one, because the model has then read most of what identifies the subject. None if the
    subject does not occur.
    """
    whole_words = list(re.finditer(rf"(?<!\w){re.escape(subject)}(?!\w)", prompt))
    start = whole_words[-1].start() if whole_words else prompt.rfind(subject)
    return None if start < 0 else prompt[:start] + SLOT + prompt[start + len(subject) :]


def _records(path: Path) -> Iterator[Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise EditFileError(f"{path}: {error.strerror or 'cannot be read'}") from error
    except UnicodeDecodeError as error:
        raise EditFileError(f"{path}: byte {error.start} is not UTF-8") from error
    if not text.strip():
        raise EditFileError(f"{path}: is empty")
    if text.lstrip().startswith("["):
        yield from _parse(path, text, first_line=1)
        return
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        for number, line in lines:
            yield _parse(path, line, first_line=number)
    else:
        yield whole


def _parse(path: Path, text: str, *, first_line: int) -> Any:  # noqa: ANN401  # JSON is untyped
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        # `error.msg` is one of json's fixed phrases; `str(error)` is safe too, `error.doc` is not.
        line = first_line + error.lineno - 1
        raise EditFileError(f"{path}: line {line}: not JSON: {error.msg}") from None
    except RecursionError:
        raise EditFileError(f"{path}: line {first_line}: nested too deeply") from None


def _stripped(value: object) -> object:
    return value.strip() if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_stripped), Field(min_length=1)]
CaseId = Annotated[
    str | None, BeforeValidator(lambda value: str(value) if type(value) is int else value)
]
OptionalText = Annotated[str | None, BeforeValidator(lambda value: _stripped(value) or None)]


class _Record(BaseModel):
    """Fields beyond these are ignored: data sets carry many."""

    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True)

    case_id: CaseId = None


class _Object(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True)

    text: Text = Field(alias="str")


class _Rewrite(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True)

    prompt: Text
    subject: Text
    target_new: _Object
    target_true: _Object | None = None
    relation_id: OptionalText = None


class _CounterFact(_Record):
    requested_rewrite: _Rewrite
    paraphrase_prompts: list[Text] = []
    neighborhood_prompts: list[Text] = []
    generation_prompts: list[Text] = []


class _Flat(_Record):
    prompt: Text
    subject: Text
    target_new: Text
    ground_truth: OptionalText = None
    rephrase_prompt: OptionalText = None
    locality_prompt: OptionalText = None
    locality_ground_truth: OptionalText = None
    relation_id: OptionalText = None


class _ZsRE(_Record):
    src: Text
    subject: Text
    alt: Text
    rephrase: OptionalText = None
    answers: list[Text] = []
    loc: OptionalText = None
    loc_ans: OptionalText = None


def _edit(path: Path, number: int, record: object) -> Edit:
    where = f"{path}: record {number}"
    if not isinstance(record, dict):
        raise EditFileError(f"{where}: is not an object")
    try:
        if "requested_rewrite" in record:
            return _from_counterfact(where, number, _CounterFact.model_validate(record))
        if "src" in record:
            return _from_zsre(where, number, _ZsRE.model_validate(record))
        if "prompt" in record:
            return _from_flat(where, number, _Flat.model_validate(record))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise EditFileError(f"{where}: field '{name}': {_complaint(first['type'])}") from None
    raise EditFileError(
        f"{where}: field 'requested_rewrite': missing, and the record is neither in EasyEdit's "
        "flat form (field 'prompt') nor in zsRE's (field 'src')"
    )


def _complaint(kind: str) -> str:
    # Our own words by pydantic's error type: its own messages may quote the input.
    return {
        "missing": "missing",
        "string_too_short": "empty",
        "too_short": "empty",
        "string_type": "must be text",
        "list_type": "must be a list",
        "model_type": "must be an object",
        "dict_type": "must be an object",
    }.get(kind, f"has the wrong form ({kind})")


def _case_id(record: _Record, number: int) -> str:
    return str(number) if record.case_id is None else record.case_id


def _from_counterfact(where: str, number: int, record: _CounterFact) -> Edit:
    rewrite = record.requested_rewrite
    slots = rewrite.prompt.count(SLOT)
    if slots != 1:
        raise EditFileError(
            f"{where}: field 'requested_rewrite.prompt': must hold {SLOT} once for the subject, "
            f"holds it {slots} times"
        )
    _refuse_slot(where, "requested_rewrite.subject", rewrite.subject)
    true = rewrite.target_true
    if record.neighborhood_prompts and true is None:
        # CounterFact's neighbours share the edit's true object; without it they measure nothing.
        raise EditFileError(
            f"{where}: field 'requested_rewrite.target_true': missing, and 'neighborhood_prompts' "
            "need it as their answer"
        )
    answer = true.text if true else ""
    return Edit(
        case_id=_case_id(record, number),
        prompt=rewrite.prompt,
        subject=rewrite.subject,
        target_new=rewrite.target_new.text,
        target_true=true.text if true else None,
        paraphrase_prompts=tuple(record.paraphrase_prompts),
        neighborhood=tuple((prompt, answer) for prompt in record.neighborhood_prompts),
        generation_prompts=tuple(record.generation_prompts),
        relation=rewrite.relation_id,
    )


def _from_flat(where: str, number: int, record: _Flat) -> Edit:
    if record.prompt.count(SLOT) == 1:
        template = record.prompt
        _refuse_slot(where, "subject", record.subject)
    else:
        template = _template(where, record.prompt, record.subject, name="prompt")
    neighborhood = _neighborhood(
        where,
        ("locality_prompt", record.locality_prompt),
        ("locality_ground_truth", record.locality_ground_truth),
    )
    return Edit(
        case_id=_case_id(record, number),
        prompt=template,
        subject=record.subject,
        target_new=record.target_new,
        target_true=record.ground_truth,
        paraphrase_prompts=(record.rephrase_prompt,) if record.rephrase_prompt else (),
        neighborhood=neighborhood,
        relation=record.relation_id,
    )


def _from_zsre(where: str, number: int, record: _ZsRE) -> Edit:
    # The data set's own reader asks neighbours with a question mark (MEMIT, dsets/zsre.py).
    loc = f"{record.loc}?" if record.loc and not record.loc.endswith("?") else record.loc
    return Edit(
        case_id=_case_id(record, number),
        prompt=_template(where, record.src, record.subject, name="src"),
        subject=record.subject,
        target_new=record.alt,
        target_true=record.answers[0] if record.answers else None,
        paraphrase_prompts=(record.rephrase,) if record.rephrase else (),
        neighborhood=_neighborhood(where, ("loc", loc), ("loc_ans", record.loc_ans)),
    )


def _neighborhood(
    where: str, prompt: tuple[str, str | None], answer: tuple[str, str | None]
) -> tuple[tuple[str, str], ...]:
    if prompt[1] and answer[1]:
        return ((prompt[1], answer[1]),)
    if prompt[1] or answer[1]:
        missing, present = (answer, prompt) if prompt[1] else (prompt, answer)
        raise EditFileError(f"{where}: field '{missing[0]}': missing beside '{present[0]}'")
    return ()


def _template(where: str, prompt: str, subject: str, *, name: str) -> str:
    _refuse_slot(where, name, prompt)
    template = subject_template(prompt, subject)
    if template is None:
        raise EditFileError(f"{where}: field 'subject': does not occur in '{name}'")
    return template


def _refuse_slot(where: str, name: str, text: str) -> None:
    if SLOT in text:
        raise EditFileError(f"{where}: field '{name}': holds {SLOT}, which marks the subject")
