"""From one record, in any of the forms that people have, to an edit.

* CounterFact (Meng et al. 2022): `requested_rewrite` with a prompt that has `{}` for the subject.
* EasyEdit's flat form: the subject stands literally in `prompt`.
* KnowEdit (Zhang et al. 2024, arXiv 2401.01286): as the flat form, with prompts that should not
  change in `locality`, by kind; WikiBio's have `text`, `concept` and `labels` instead.
* zsRE in the form of MEND (Mitchell et al. 2022): a question `src`, the wanted answer `alt`.

An error names the record's place and the field, never what it holds.
"""

import unicodedata
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from collabedit.errors import EditFileError
from collabedit.party.edit import SLOT, Edit, subject_template


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


FLAT_FIELDS: Final = ("case_id", *(name for name in _Flat.model_fields if name != "case_id"))
"""What a table may have columns for."""


def _first_text(value: object) -> object:
    """Answers come as a text, a list of texts, or a list of lists of them: the first one counts."""
    while isinstance(value, list):
        value = next((each for each in value if each not in ("", [])), None)
    return _stripped(value)


FirstText = Annotated[str | None, BeforeValidator(lambda value: _first_text(value) or None)]


class _Asked(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True)

    prompt: FirstText = None
    ground_truth: FirstText = None


Locality = dict[str, list[_Asked] | None]


class _KnowEdit(_Record):
    prompt: Text
    subject: Text
    target_new: Text
    ground_truth: FirstText = None
    rephrase_prompt: FirstText = None
    rephrase: FirstText = None
    locality: Locality = {}
    relation_id: OptionalText = None


class _WikiBio(_Record):
    text: Text
    concept: Text
    labels: Text
    locality: Locality = {}


class _ZsRE(_Record):
    src: Text
    subject: Text
    alt: Text
    rephrase: OptionalText = None
    answers: list[Text] = []
    loc: OptionalText = None
    loc_ans: OptionalText = None


def edit_from_record(where: str, number: int, record: object) -> Edit:
    """Turn one record into an edit.

    Args:
        where: names file and record, for errors.
        number: of the record, which names it if it has no `case_id`.
        record: parsed JSON.

    Raises:
        EditFileError: malformed, or in no known form. One line that names record and field.
    """
    if not isinstance(record, dict):
        raise EditFileError(f"{where}: is not an object")
    try:
        if "requested_rewrite" in record:
            return _from_counterfact(where, number, _CounterFact.model_validate(record))
        if "src" in record:
            return _from_zsre(where, number, _ZsRE.model_validate(record))
        if "concept" in record and "text" in record:
            return _from_wikibio(where, number, _WikiBio.model_validate(record))
        if "prompt" in record:
            if isinstance(record.get("locality"), dict) or isinstance(
                record.get("ground_truth"), list
            ):
                return _from_knowedit(where, number, _KnowEdit.model_validate(record))
            return _from_flat(where, number, _Flat.model_validate(record))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise EditFileError(f"{where}: field '{name}': {_complaint(first['type'])}") from None
    raise EditFileError(
        f"{where}: field 'requested_rewrite': missing, and the record is neither in EasyEdit's "
        "flat form nor KnowEdit's (field 'prompt'), nor in zsRE's (field 'src')"
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


def _from_knowedit(where: str, number: int, record: _KnowEdit) -> Edit:
    rephrased = record.rephrase_prompt or record.rephrase
    return Edit(
        case_id=_case_id(record, number),
        prompt=_template(where, record.prompt, record.subject, name="prompt"),
        subject=record.subject,
        target_new=record.target_new,
        target_true=record.ground_truth,
        paraphrase_prompts=(rephrased,) if rephrased else (),
        neighborhood=_unchanged(record.locality),
        relation=record.relation_id,
    )


def _from_wikibio(where: str, number: int, record: _WikiBio) -> Edit:
    return Edit(
        case_id=_case_id(record, number),
        prompt=_template(where, record.text, record.concept, name="text"),
        subject=record.concept,
        target_new=record.labels,
        neighborhood=_unchanged(record.locality),
    )


def _unchanged(locality: Locality) -> tuple[tuple[str, str], ...]:
    # Some prompts of the data set have an empty answer, which nothing could be held against.
    return tuple(
        (asked.prompt, asked.ground_truth)
        for kind in sorted(locality)
        for asked in locality[kind] or ()
        if asked.prompt and asked.ground_truth
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
        hint = _nearly(prompt, subject)
        raise EditFileError(f"{where}: field 'subject': does not occur in '{name}'{hint}")
    return template


def _nearly(prompt: str, subject: str) -> str:
    """Say how a subject differs from what the prompt seems to have in its place, if at all."""
    composed = [unicodedata.normalize("NFC", text) for text in (prompt, subject)]
    if composed[1] in composed[0]:
        return " (but for how accents are encoded: write both in Unicode NFC)"
    folded = [" ".join(text.casefold().split()) for text in composed]
    if folded[1] in folded[0]:
        return " (but for capitals or blanks)"
    return ""


def _refuse_slot(where: str, name: str, text: str) -> None:
    if SLOT in text:
        raise EditFileError(f"{where}: field '{name}': holds {SLOT}, which marks the subject")
