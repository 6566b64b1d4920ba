import json
from pathlib import Path
from typing import Any

import pytest

from collabedit.errors import EditFileError
from collabedit.party.edits import Edit, edits_digest, load_edits, load_true_facts

COUNTERFACT: dict[str, Any] = {
    "case_id": 7,
    "requested_rewrite": {
        "prompt": "{} plays the",
        "subject": "Zed Qux",
        "target_new": {"str": "piano", "id": "Q1"},
        "target_true": {"str": "guitar", "id": "Q2"},
        "relation_id": "P1303",
    },
    "paraphrase_prompts": ["On stage, Zed Qux plays the"],
    "neighborhood_prompts": ["Ann Other plays the"],
    "generation_prompts": ["Zed Qux is known for"],
    "attribute_prompts": ["ignored"],
}
FLAT: dict[str, Any] = {
    "case_id": 8,
    "prompt": "The instrument of Zed Qux is",
    "subject": "Zed Qux",
    "target_new": "piano",
    "ground_truth": "guitar",
    "rephrase_prompt": "Zed Qux plays",
    "locality_prompt": "Ann Other plays",
    "locality_ground_truth": "drums",
}
ZSRE: dict[str, Any] = {
    "src": "What does Zed Qux play?",
    "subject": "Zed Qux",
    "rephrase": "Which instrument is Zed Qux's?",
    "alt": "piano",
    "answers": ["guitar", "lute"],
    "loc": "nq question: who plays drums",
    "loc_ans": "Ann Other",
}


PROMPT = "field 'requested_rewrite.prompt': "


def write(directory: Path, content: object, name: str = "edits.json") -> Path:
    path = directory / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def without(record: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != key}


def with_paraphrases(value: object) -> dict[str, Any]:
    return {**COUNTERFACT, "paraphrase_prompts": value}


def rewritten(**changes: object) -> dict[str, Any]:
    return {**COUNTERFACT, "requested_rewrite": {**COUNTERFACT["requested_rewrite"], **changes}}


def test_counterfact_form(tmp_path: Path) -> None:
    assert load_edits(write(tmp_path, [COUNTERFACT])) == (
        Edit(
            case_id="7",
            prompt="{} plays the",
            subject="Zed Qux",
            target_new="piano",
            target_true="guitar",
            paraphrase_prompts=("On stage, Zed Qux plays the",),
            neighborhood=(("Ann Other plays the", "guitar"),),
            generation_prompts=("Zed Qux is known for",),
            relation="P1303",
        ),
    )


def test_flat_form(tmp_path: Path) -> None:
    (edit,) = load_edits(write(tmp_path, [FLAT]))
    assert edit == Edit(
        case_id="8",
        prompt="The instrument of {} is",
        subject="Zed Qux",
        target_new="piano",
        target_true="guitar",
        paraphrase_prompts=("Zed Qux plays",),
        neighborhood=(("Ann Other plays", "drums"),),
    )
    assert edit.question == FLAT["prompt"]


def test_zsre_form_is_named_by_its_number(tmp_path: Path) -> None:
    _, edit = load_edits(write(tmp_path, [FLAT, ZSRE]))
    assert edit == Edit(
        case_id="2",
        prompt="What does {} play?",
        subject="Zed Qux",
        target_new="piano",
        target_true="guitar",
        paraphrase_prompts=("Which instrument is Zed Qux's?",),
        neighborhood=(("nq question: who plays drums?", "Ann Other"),),
    )


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\n\n"])
def test_json_lines(tmp_path: Path, separator: str) -> None:
    text = separator.join(json.dumps(record) for record in (COUNTERFACT, FLAT, ZSRE))
    assert [edit.case_id for edit in load_edits(write(tmp_path, text))] == ["7", "8", "3"]


def test_one_object_is_a_file_of_one_edit(tmp_path: Path) -> None:
    assert len(load_edits(write(tmp_path, json.dumps(FLAT, indent=2)))) == 1


def test_a_case_may_repeat_in_a_file(tmp_path: Path) -> None:
    assert len(load_edits(write(tmp_path, [FLAT, FLAT]))) == 2


def test_byte_order_mark_and_non_ascii(tmp_path: Path) -> None:
    record = {**FLAT, "subject": "Łódź", "prompt": "The mayor of Łódź is"}
    text = "\ufeff" + json.dumps([record], ensure_ascii=False)
    (edit,) = load_edits(write(tmp_path, text))
    assert (edit.prompt, edit.subject) == ("The mayor of {} is", "Łódź")


@pytest.mark.parametrize(
    ("prompt", "subject", "template"),
    [
        ("Art and Arthur see Art at Arthur's", "Art", "Art and Arthur see {} at Arthur's"),
        ("Zed and Zed", "Zed", "Zed and {}"),
        ("Zed is", "Zed", "{} is"),
        ("the Zeds are", "Zed", "the {}s are"),
        ("Who is A. (B)?", "A. (B)", "Who is {}?"),
    ],
)
def test_subject_is_the_last_whole_word_occurrence(
    tmp_path: Path, prompt: str, subject: str, template: str
) -> None:
    (edit,) = load_edits(write(tmp_path, [{**FLAT, "prompt": prompt, "subject": subject}]))
    assert edit.prompt == template
    assert edit.question == prompt


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        (without(FLAT, "subject"), "field 'subject': missing"),
        (without(ZSRE, "alt"), "field 'alt': missing"),
        ({**FLAT, "subject": "Nobody"}, "field 'subject': does not occur in 'prompt'"),
        ({**ZSRE, "subject": "Nobody"}, "field 'subject': does not occur in 'src'"),
        ({**FLAT, "target_new": "  "}, "field 'target_new': empty"),
        ({**FLAT, "target_new": 3}, "field 'target_new': must be text"),
        ({**FLAT, "locality_ground_truth": None}, "field 'locality_ground_truth': missing beside"),
        (rewritten(target_new={"id": "Q1"}), "field 'requested_rewrite.target_new.str': missing"),
        (rewritten(target_new="piano"), "field 'requested_rewrite.target_new': must be an object"),
        (
            rewritten(prompt="Zed plays"),
            PROMPT + "must hold {} once for the subject, holds it 0 times",
        ),
        (
            rewritten(prompt="{} and {}"),
            PROMPT + "must hold {} once for the subject, holds it 2 times",
        ),
        (rewritten(subject="a {}"), "field 'requested_rewrite.subject': holds {}"),
        (rewritten(target_true=None), "field 'requested_rewrite.target_true': missing"),
        (with_paraphrases("no list"), "field 'paraphrase_prompts': must be a list"),
        (with_paraphrases(["fine", 5]), "field 'paraphrase_prompts.1': must be text"),
        ({"something": "else"}, "field 'requested_rewrite': missing, and the record is neither"),
        ("a string", "is not an object"),
    ],
)
def test_a_bad_record_is_named_in_one_line(tmp_path: Path, record: object, complaint: str) -> None:
    path = write(tmp_path, [FLAT, FLAT, record])
    with pytest.raises(EditFileError) as caught:
        load_edits(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: record 3: {complaint}")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("[]", "holds no edits"),
        ('[{"a": 1},\n{"b": }]', "line 2: not JSON: Expecting value"),
        ('{"a": 1}\n{"b": ', "line 2: not JSON: Expecting value"),
        ("[" * 200_000, "line 1: nested too deeply"),
    ],
)
def test_a_bad_file_is_named_in_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(EditFileError) as caught:
        load_edits(path)
    assert str(caught.value) == f"{path}: {complaint}"


def test_a_missing_file_and_other_bytes(tmp_path: Path) -> None:
    with pytest.raises(EditFileError, match="No such file"):
        load_edits(tmp_path / "none.json")
    (tmp_path / "latin").write_bytes(b"[\xe9]")
    with pytest.raises(EditFileError, match="byte 1 is not UTF-8"):
        load_edits(tmp_path / "latin")


def test_texts_stay_out_of_repr_and_errors(tmp_path: Path) -> None:
    (edit,) = load_edits(write(tmp_path, [COUNTERFACT]))
    assert repr(edit) == "Edit(case_id='7')"
    texts = {"prompt": "CANARY is", "subject": "CANARY subject", "target_new": ["CANARY"]}
    canary = {**FLAT, **texts}
    for record in (canary, {**canary, "target_new": "CANARY"}):
        with pytest.raises(EditFileError) as caught:
            load_edits(write(tmp_path, [record]))
        assert "CANARY" not in str(caught.value)


def test_digest_depends_on_content_and_order(tmp_path: Path) -> None:
    edits = load_edits(write(tmp_path, [COUNTERFACT, FLAT]))
    again = load_edits(write(tmp_path, "\n".join(map(json.dumps, (COUNTERFACT, FLAT))), "b.jsonl"))
    assert edits_digest(edits) == edits_digest(again)
    assert edits_digest(edits) != edits_digest(edits[::-1])


def test_true_facts_are_asked_for_in_every_form(tmp_path: Path) -> None:
    facts = load_true_facts(write(tmp_path, [COUNTERFACT, FLAT, ZSRE]))
    assert facts == (
        Edit("7", "{} plays the", "Zed Qux", "guitar", relation="P1303"),
        Edit("8", "The instrument of {} is", "Zed Qux", "guitar"),
        Edit("3", "What does {} play?", "Zed Qux", "guitar"),
    )


@pytest.mark.parametrize(
    "record",
    [without(FLAT, "ground_truth"), {**FLAT, "ground_truth": " "}, {**ZSRE, "answers": []}],
)
def test_a_record_without_a_true_completion_is_named(
    tmp_path: Path, record: dict[str, Any]
) -> None:
    path = write(tmp_path, [COUNTERFACT, record])
    with pytest.raises(EditFileError, match="record 2: has no true completion") as caught:
        load_true_facts(path)
    assert str(path) in str(caught.value)
    assert "Zed" not in str(caught.value)
