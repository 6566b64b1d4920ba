"""The structural rules of the fact file and of the held-out text."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from importlib.resources import files
from typing import TypedDict, cast

import pytest

RECORDS = 60
BLOCK = 12


class Target(TypedDict):
    str: str


class Rewrite(TypedDict):
    prompt: str
    relation_id: str
    subject: str
    target_new: Target
    target_true: Target


class Record(TypedDict):
    case_id: int
    requested_rewrite: Rewrite
    paraphrase_prompts: list[str]
    neighborhood_prompts: list[str]
    generation_prompts: list[str]


def _load(name: str) -> str:
    return files("collabedit.data").joinpath(name).read_text(encoding="utf-8")


FACTS = cast("list[Record]", json.loads(_load("facts.json")))
HELDOUT = _load("heldout.txt")
SUBJECTS = [record["requested_rewrite"]["subject"] for record in FACTS]
IDS = [f"{record['case_id']}-{record['requested_rewrite']['subject']}" for record in FACTS]
each_record = pytest.mark.parametrize("record", FACTS, ids=IDS)


def _mentions(text: str, name: str) -> int:
    """How often the name stands in the text as whole words, whatever the case."""
    return len(re.findall(rf"(?<!\w){re.escape(name)}(?!\w)", text, flags=re.IGNORECASE))


def _edit_prompt(record: Record) -> str:
    rewrite = record["requested_rewrite"]
    return rewrite["prompt"].replace("{}", rewrite["subject"])


def _completed_prompts(record: Record) -> Iterator[str]:
    """The prompts whose next words are the object."""
    yield _edit_prompt(record)
    yield from record["paraphrase_prompts"]
    yield from record["neighborhood_prompts"]


def test_there_are_sixty_records_numbered_in_order() -> None:
    assert [record["case_id"] for record in FACTS] == list(range(1, RECORDS + 1))


@each_record
def test_a_record_has_exactly_the_known_fields(record: Record) -> None:
    assert set(record) == set(Record.__annotations__)
    rewrite = record["requested_rewrite"]
    assert set(rewrite) == set(Rewrite.__annotations__)
    assert set(rewrite["target_new"]) == set(rewrite["target_true"]) == {"str"}


@each_record
def test_a_record_has_its_number_of_distinct_prompts(record: Record) -> None:
    for prompts, count in (
        (record["paraphrase_prompts"], 2),
        (record["neighborhood_prompts"], 5),
        (record["generation_prompts"], 2),
    ):
        assert len(prompts) == len(set(prompts)) == count
    wordings = [_edit_prompt(record), *record["paraphrase_prompts"], *record["generation_prompts"]]
    assert len(set(wordings)) == 5


@each_record
def test_the_subject_stands_once_in_each_prompt_about_it(record: Record) -> None:
    rewrite = record["requested_rewrite"]
    assert rewrite["prompt"].count("{}") == 1
    for prompt in (
        _edit_prompt(record),
        *record["paraphrase_prompts"],
        *record["generation_prompts"],
    ):
        assert prompt.count(rewrite["subject"]) == 1
        assert _mentions(prompt, rewrite["subject"]) == 1


@each_record
def test_only_the_edit_prompt_has_a_blank_for_the_subject(record: Record) -> None:
    for prompt in (
        *record["paraphrase_prompts"],
        *record["neighborhood_prompts"],
        *record["generation_prompts"],
    ):
        assert "{" not in prompt
        assert "}" not in prompt


@each_record
def test_prompts_end_on_a_word_and_hold_single_blanks(record: Record) -> None:
    for prompt in (*_completed_prompts(record), *record["generation_prompts"]):
        assert prompt == " ".join(prompt.split())
        assert prompt[-1].isalpha()
        assert not prompt[0].islower() or prompt.startswith(record["requested_rewrite"]["subject"])


@each_record
def test_objects_are_two_different_single_words_of_one_spelling_type(record: Record) -> None:
    new = record["requested_rewrite"]["target_new"]["str"]
    true = record["requested_rewrite"]["target_true"]["str"]
    for target in (new, true):
        assert re.fullmatch(r"[A-Za-z]{2,}", target)
    assert new.casefold() != true.casefold()
    assert new[0].isupper() == true[0].isupper()


@each_record
def test_no_prompt_gives_the_object_away(record: Record) -> None:
    rewrite = record["requested_rewrite"]
    for prompt in (*_completed_prompts(record), *record["generation_prompts"]):
        assert not _mentions(prompt, rewrite["target_true"]["str"])
        assert not _mentions(prompt, rewrite["target_new"]["str"])


def test_subjects_are_distinct_and_none_contains_another() -> None:
    assert len({subject.casefold() for subject in SUBJECTS}) == RECORDS
    for subject in SUBJECTS:
        assert sum(_mentions(other, subject) for other in SUBJECTS) == 1


def test_no_subject_is_the_object_of_a_record() -> None:
    objects = {
        record["requested_rewrite"][key]["str"].casefold()
        for record in FACTS
        for key in ("target_new", "target_true")
    }
    assert objects.isdisjoint(subject.casefold() for subject in SUBJECTS)


@each_record
def test_neighbours_are_not_edited_by_any_record(record: Record) -> None:
    for prompt in record["neighborhood_prompts"]:
        assert not [subject for subject in SUBJECTS if _mentions(prompt, subject)]


def test_neighbourhood_prompts_are_distinct_over_the_file() -> None:
    prompts = [prompt for record in FACTS for prompt in record["neighborhood_prompts"]]
    assert len(prompts) == len(set(prompts))


def test_relations_have_short_names_and_at_least_eight_are_covered() -> None:
    relations = Counter(record["requested_rewrite"]["relation_id"] for record in FACTS)
    assert len(relations) >= 8
    for relation in relations:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", relation)


def test_one_relation_has_one_type_of_object() -> None:
    capitals: dict[str, set[bool]] = {}
    for record in FACTS:
        rewrite = record["requested_rewrite"]
        first = rewrite["target_true"]["str"][0]
        capitals.setdefault(rewrite["relation_id"], set()).add(first.isupper())
    assert all(len(kinds) == 1 for kinds in capitals.values())


@pytest.mark.parametrize("start", range(0, RECORDS, BLOCK))
def test_every_block_of_twelve_takes_each_relation_once(start: int) -> None:
    block = FACTS[start : start + BLOCK]
    relations = {record["requested_rewrite"]["relation_id"] for record in block}
    assert len(relations) == BLOCK


def test_the_heldout_text_has_its_length() -> None:
    assert 1_600 <= len(HELDOUT.split()) <= 2_000
    for paragraph in HELDOUT.strip().split("\n\n"):
        assert 80 <= len(paragraph.split()) <= 150
        assert "\n" not in paragraph


@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_heldout_text_mentions_no_subject(subject: str) -> None:
    assert not _mentions(HELDOUT, subject)


@each_record
def test_no_neighbour_ends_like_the_subject(record: Record) -> None:
    """An editor that reads its key at the subject's last token cannot tell such two apart."""
    rewrite = record["requested_rewrite"]
    last = rewrite["subject"].split()[-1]
    if _mentions(rewrite["prompt"], last):
        return
    for prompt in record["neighborhood_prompts"]:
        assert not _mentions(prompt, last), prompt
