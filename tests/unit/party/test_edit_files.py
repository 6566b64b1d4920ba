"""Tables, columns of other names, KnowEdit's form: what loads, and what is said of the rest."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collabedit.errors import EditFileError, InputError
from collabedit.party.edit_files import columns_file, load_columns, parse_columns
from collabedit.party.edits import Edit, load_edits, read_edits

KNOWEDIT: dict[str, Any] = {
    "subject": "Zed Qux",
    "prompt": "The instrument of Zed Qux is",
    "target_new": "piano",
    "ground_truth": [["guitar"], ["lute"]],
    "rephrase_prompt": "Zed Qux plays",
    "portability": {"Reasoning": [{"prompt": "ignored", "ground_truth": [["ignored"]]}]},
    "locality": {
        "Relation_Specificity": [
            {"prompt": "Zed Qux lives in", "ground_truth": [["Oslo", "oslo"]]},
            {"prompt": "Zed Qux has no", "ground_truth": [[""]]},
        ],
        "Forgetfulness": [{"prompt": "Zed Qux also plays", "ground_truth": ["drums"]}],
    },
}
WIKIBIO: dict[str, Any] = {
    "concept": "zed qux",
    "text": "This is a passage about zed qux. He was",
    "labels": "born in Oslo.",
    "locality": {"Relation_Specificity": [{"prompt": "A passage", "ground_truth": ["about"]}]},
}


def write(directory: Path, content: object, name: str = "edits.json") -> Path:
    path = directory / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_knowedit_form(tmp_path: Path) -> None:
    assert load_edits(write(tmp_path, [KNOWEDIT, WIKIBIO])) == (
        Edit(
            case_id="1",
            prompt="The instrument of {} is",
            subject="Zed Qux",
            target_new="piano",
            target_true="guitar",
            paraphrase_prompts=("Zed Qux plays",),
            neighborhood=(("Zed Qux also plays", "drums"), ("Zed Qux lives in", "Oslo")),
        ),
        Edit(
            case_id="2",
            prompt="This is a passage about {}. He was",
            subject="zed qux",
            target_new="born in Oslo.",
            neighborhood=(("A passage", "about"),),
        ),
    )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"subject": "Nobody"}, "field 'subject': does not occur in 'prompt'"),
        ({"target_new": ["piano"]}, "field 'target_new': must be text"),
        ({"locality": {"Forgetfulness": "no"}}, "field 'locality.Forgetfulness': must be a list"),
        ({"subject": "zed  qux"}, "'prompt' (but for capitals or blanks)"),
    ],
)
def test_a_malformed_record_is_named_without_its_text(
    change: dict[str, object], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(EditFileError) as caught:
        load_edits(write(tmp_path, [KNOWEDIT | change]))
    assert complaint in str(caught.value)
    assert "Zed" not in str(caught.value)


def test_a_subject_in_another_normal_form_is_told_from_one_that_is_missing(tmp_path: Path) -> None:
    record = {"prompt": "Zoe\u0308 sings", "subject": "Zo\u00eb", "target_new": "alto"}
    with pytest.raises(EditFileError, match="write both in Unicode NFC"):
        load_edits(write(tmp_path, [record]))


TABLE = "prompt,subject,target_new,ground_truth\n"


def test_a_table_with_the_form_s_own_names(tmp_path: Path) -> None:
    text = TABLE + '"Where, then, is Oslo?",Oslo,Chad,\n\nRome is in,Rome,Peru,Italy\n'
    assert load_edits(write(tmp_path, text, "edits.csv")) == (
        Edit(case_id="1", prompt="Where, then, is {}?", subject="Oslo", target_new="Chad"),
        Edit(
            case_id="2", prompt="{} is in", subject="Rome", target_new="Peru", target_true="Italy"
        ),
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("edits.tsv", "question\tentity\tanswer\nOslo is in\tOslo\tChad\n"),
        ("edits.csv", "question,entity,answer\r\nOslo is in,Oslo,Chad\r\n"),
        ("edits.csv", "\ufeffquestion;entity;answer\nOslo is in;Oslo;Chad\n"),
        ("edits.jsonl", '{"question": "Oslo is in", "entity": "Oslo", "answer": "Chad"}\n'),
        ("edits.json", '[{"question": "Oslo is in", "entity": "Oslo", "answer": "Chad"}]'),
    ],
)
def test_columns_of_other_names(name: str, text: str, tmp_path: Path) -> None:
    path = write(tmp_path, text, name)
    wanted = (Edit(case_id="1", prompt="{} is in", subject="Oslo", target_new="Chad"),)
    columns = parse_columns("prompt=question, subject=entity,target_new = answer")
    assert load_edits(path, columns) == wanted
    # A mapping beside the file serves every command.
    with pytest.raises(EditFileError, match="record 1"):
        load_edits(path)
    columns_file(path).write_text(
        '[columns]\nprompt = "question"\nsubject = "entity"\ntarget_new = "answer"\n'
    )
    assert load_edits(path) == wanted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prompt", "--columns prompt: must be FIELD=COLUMN"),
        ("prompt=", "must be FIELD=COLUMN"),
        ("prompt=a,prompt=b", "names field prompt twice"),
        ("question=prompt", "question is none of the fields case_id, prompt, subject"),
    ],
)
def test_columns_that_make_no_sense(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_columns(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[columns", "edits.columns.toml"),
        ("prompt = 'question'", "must hold one table"),
        ("[columns]\nprompt = 3", "every column must be a text"),
        ("[columns]\nquestion = 'prompt'", "question is none of the fields"),
    ],
)
def test_a_mapping_beside_the_file_is_checked(text: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path, TABLE, "edits.csv")
    columns_file(path).write_text(text)
    with pytest.raises(InputError) as caught:
        load_columns(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TABLE + "secret,secret,secret,secret,secret\n", "line 2: has more cells than line 1"),
        (TABLE + "secret\n", "record 1: field 'subject': missing"),
        ("prompt,prompt\nsecret,secret\n", "line 1: two columns have the same name"),
        (TABLE + '"secret\n', "line 2: no table: unexpected end of data"),
        (TABLE + '"secret" secret,b,c,d\n', "line 2: no table: "),
        (TABLE, "holds no edits"),
        ("secret one,secret two\nsecret,secret\n", "record 1: field 'requested_rewrite'"),
    ],
)
def test_a_bad_table_is_named_by_line_and_not_quoted(text: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path, text, "edits.csv")
    with pytest.raises(EditFileError) as caught:
        load_edits(path)
    assert str(caught.value).startswith(f"{path}: {said}")
    assert "secret" not in str(caught.value)


def test_reading_goes_on_behind_a_malformed_record(tmp_path: Path) -> None:
    path = write(tmp_path, [KNOWEDIT, {"prompt": 3}, KNOWEDIT])
    found = list(read_edits(path))
    assert [number for number, _ in found] == [1, 2, 3]
    assert [isinstance(each, Edit) for _, each in found] == [True, False, True]


WORDS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"], exclude_characters="{}"),
    min_size=1,
    max_size=12,
).filter(lambda text: text == text.strip())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=5),
    st.sampled_from([",", "\t"]),
)
def test_a_table_and_json_give_the_same_edits(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]], delimiter: str
) -> None:
    directory = tmp_path_factory.mktemp("tables")
    records = [
        {"prompt": f"{before} {subject} is", "subject": subject, "target_new": target}
        for before, subject, target in rows
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(records)
    table = directory / ("edits.csv" if delimiter == "," else "edits.tsv")
    table.write_text(text.getvalue(), encoding="utf-8", newline="")
    assert load_edits(table) == load_edits(write(directory, records))


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60), st.sampled_from(["edits.csv", "edits.tsv", "edits.json"]))
def test_any_text_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, text: str, name: str
) -> None:
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        load_edits(path)
    except EditFileError as error:
        message = str(error)
        assert message.startswith(f"{path}: ")
        assert "\n" not in message
