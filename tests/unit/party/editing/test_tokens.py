import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from collabedit.errors import EditFileError, ModelError
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.tokens import (
    batches_by_length,
    check_templates,
    pad_rows,
    prompt_ids,
    subject_row,
    target_ids,
)
from collabedit.party.edits import Edit


def edit(prompt: str, subject: str) -> Edit:
    return Edit(case_id="1", prompt=prompt, subject=subject, target_new="x")


def up_to_subject(model: EditableModel, prompt: str, subject: str, template: str = "{}") -> str:
    """Text of the tokens up to the subject's last one."""
    row = subject_row(model, edit(prompt, subject), template=template)
    decoded: str = model.tokenizer.decode(row.up_to_subject, skip_special_tokens=True)
    return decoded


@pytest.mark.parametrize(
    ("prompt", "subject", "template", "expected"),
    [
        ("{} plays the", "Ann", "{}", "Ann"),
        ("The capital of {} is", "France", "{}", "The capital of France"),
        ("The capital of {} is", "France", "It is so. {}", "It is so. The capital of France"),
        # The template says which of two occurrences is meant.
        ("Ann or {}, Ann?", "Ann", "{}", "Ann or Ann"),
        ("{} or Ann?", "Ann", "{}", "Ann"),
        ('Is ({}), said "{{"', "A.B. (C)!", "{}", "Is (A.B. (C)!"),
        ("In {}, it is", "Łódź", "{}", "In Łódź"),
        ("In {}", "東京", "{}", "In 東京"),
        ("{}", "Zed 🎸", "{}", "Zed 🎸"),
        ("no{}pause", "sub", "{}", "nosub"),
        ("of {}'s", " Paris ", "{}", "of  Paris"),
    ],
)
def test_subject_ends_where_it_ends(
    model: EditableModel, prompt: str, subject: str, template: str, expected: str
) -> None:
    assert up_to_subject(model, prompt, subject, template) == expected


def test_a_token_that_goes_on_behind_the_subject_counts(model: EditableModel) -> None:
    # " Paris" is one token, so the subject "Par" ends inside it.
    assert up_to_subject(model, "of {}is the", "Par") == "of Paris"


def test_special_tokens_are_in_front_once(model: EditableModel) -> None:
    row = subject_row(model, edit("{} plays", "Ann"))
    bare = model.tokenizer("Ann plays", add_special_tokens=False)["input_ids"]
    assert row.ids == (*model.prefix_ids, *bare)
    assert prompt_ids(model, "Ann plays  ") == row.ids
    assert row.up_to_subject == (*model.prefix_ids, *bare[:3])


def test_trailing_blanks_are_left_to_the_target(model: EditableModel) -> None:
    assert (
        subject_row(model, edit("{} is ", "Ann")).ids
        == subject_row(model, edit("{} is", "Ann")).ids
    )


def test_a_row_has_no_text_in_its_repr(model: EditableModel) -> None:
    assert repr(subject_row(model, edit("{}", "Ann"))).startswith("SubjectRow(subject_last=")


def test_context_overflow_is_refused_by_case(model: EditableModel) -> None:
    with pytest.raises(ModelError, match=r"edit 1: \d+ tokens exceed"):
        subject_row(model, edit("{} " + "b" * 300, "Ann"))


def test_target_has_a_leading_blank_and_no_special_tokens(model: EditableModel) -> None:
    assert target_ids(model, "Paris") == tuple(
        model.tokenizer(" Paris", add_special_tokens=False)["input_ids"]
    )
    assert len(target_ids(model, "Paris")) == 1
    assert model.tokenizer.decode(target_ids(model, "the Paris of é")) == " the Paris of é"


def test_target_under_a_tokenizer_that_marks_word_starts(model: EditableModel) -> None:
    words = {"<unk>": 0, "▁a": 1, "▁Paris": 2, "▁": 3}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace()
    sentencepiece = EditableModel(
        hf=model.hf,
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>"),
        architecture=model.architecture,
        device=model.device,
        dtype=model.dtype,
        prefix_ids=(),
    )
    # Encoding " Paris" by itself would give a stray blank in front.
    assert target_ids(sentencepiece, "Paris") == (2,)


def test_an_empty_target_is_refused(model: EditableModel) -> None:
    with pytest.raises(EditFileError, match="no tokens"):
        target_ids(model, " ")


def test_padding_is_on_the_right(model: EditableModel) -> None:
    padding = model.tokenizer.pad_token_id
    assert pad_rows(model, [(5, 6, 7), (8,)]).tolist() == [[5, 6, 7], [8, padding, padding]]


def test_batches_are_a_permutation_longest_first() -> None:
    batches = list(batches_by_length([3, 9, 1, 9, 5], 2))
    assert batches == [[1, 3], [4, 0], [2]]
    assert list(batches_by_length([], 2)) == []


@pytest.mark.parametrize("templates", [(), ("{}", "none"), ("{} {}",)])
def test_context_templates_hold_one_slot(templates: tuple[str, ...]) -> None:
    with pytest.raises(ModelError, match="context template"):
        check_templates(templates)
