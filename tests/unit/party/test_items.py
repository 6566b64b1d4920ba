"""Which edits count as the same, and that their digests are the only thing that is kept of them."""

import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collabedit.crypto.kdf import transcript_hash
from collabedit.errors import EditFileError
from collabedit.party.edits import Edit
from collabedit.party.items import (
    Item,
    digests_from_bytes,
    edit_item,
    edit_items,
    items_to_bytes,
    normalise,
    paraphrase_requests,
)

EDIT = Edit("7", "{} lives in", "Ada Lovelace", "Rome", relation="P551")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ada", "ADA"),
        ("  Ada \t Lovelace\n", "ada lovelace"),
        ("Ångström", unicodedata.normalize("NFD", "ÅNGSTRÖM")),
        ("ﬁsh", "FISH"),
        ("Straße", "STRASSE"),
        ("1\u00a0km", "1 km"),
    ],
)
def test_texts_that_people_hold_for_equal_are(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(("one", "other"), [("Ada", "Ida"), ("a b", "ab"), ("é", "e"), ("1", "2")])
def test_texts_that_differ_do(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


@given(st.text())
def test_normalised_text_has_no_blanks_to_spare(text: str) -> None:
    found = normalise(text)
    assert found == " ".join(found.split())


@pytest.mark.parametrize(
    "same",
    [
        replace(EDIT, case_id="8", target_true="Turin"),
        replace(EDIT, subject="ada  LOVELACE", target_new=" rome"),
        replace(EDIT, prompt="The home of {} is"),  # the relation's id decides
    ],
)
def test_equal_facts_have_equal_items(same: Edit) -> None:
    one, other = edit_item(EDIT), edit_item(same)
    assert (one.topic, one.fact) == (other.topic, other.fact)


@pytest.mark.parametrize(
    ("other", "same_topic"),
    [
        (replace(EDIT, target_new="Turin"), True),
        (replace(EDIT, subject="Ada"), False),
        (replace(EDIT, relation="P19"), False),
        (replace(EDIT, relation=None), False),
        (replace(EDIT, relation=None, prompt="P551"), False),  # a prompt is no id
    ],
)
def test_other_facts_have_other_items(other: Edit, same_topic: bool) -> None:
    item, found = edit_item(EDIT), edit_item(other)
    assert item.fact != found.fact
    assert (item.topic == found.topic) is same_topic


def test_digests_are_as_specified() -> None:
    item = edit_item(EDIT)
    topic = ("ada lovelace", "id", "p551")
    assert item.topic == transcript_hash("topic", *topic)
    assert item.fact == transcript_hash("fact", *topic, "rome")
    plain = edit_item(replace(EDIT, relation=None))
    assert plain.topic == transcript_hash("topic", "ada lovelace", "prompt", "{} lives in")


def test_half_a_surrogate_pair_is_refused_by_record_and_without_text() -> None:
    with pytest.raises(EditFileError, match="edit 7: a text is not valid Unicode") as caught:
        edit_item(replace(EDIT, subject="Canary\ud800"))
    assert "Canary" not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_an_item_shows_no_digest() -> None:
    item = edit_item(EDIT)
    for secret in (item.topic, item.fact):
        assert secret.hex()[:8] not in repr(item)
        assert repr(secret)[2:10] not in repr(item)
    assert "Ada" not in repr(item)


PARAPHRASES = (
    "Where Ada Lovelace lives:",
    "She lives in",  # does not name the subject
    "Ada Lovelace lives in",  # the prompt itself
    "Where Ada Lovelace lives:",  # once is enough
    "{} of Ada Lovelace",  # would have two slots
    "Ada Lovelace, says Ada Lovelace, lives in",
)


def test_paraphrases_that_name_the_subject_become_requests() -> None:
    edit = replace(
        EDIT, paraphrase_prompts=PARAPHRASES, neighborhood=(("Ida is", "old"),), target_true="Turin"
    )
    requests = paraphrase_requests(edit)
    assert [request.prompt for request in requests] == [
        "Where {} lives:",
        "Ada Lovelace, says {}, lives in",
    ]
    for request in requests:
        assert (request.subject, request.target_new) == (edit.subject, edit.target_new)
        assert not request.paraphrase_prompts
        assert not request.neighborhood
    assert edit_item(edit).paraphrases == 2


def test_items_read_back_from_the_journals_bytes() -> None:
    items = edit_items([EDIT, replace(EDIT, target_new="Turin")])
    data = items_to_bytes(items)
    assert len(data) == 128
    assert digests_from_bytes(data) == tuple((item.topic, item.fact) for item in items)
    assert digests_from_bytes(b"") == ()
    with pytest.raises(ValueError, match="no items"):
        digests_from_bytes(data[:-1])
    assert items_to_bytes([Item("x", b"a" * 32, b"b" * 32)]) == b"a" * 32 + b"b" * 32
