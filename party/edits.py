"""Edits of one party, read from files.

`edit_files` has the kinds of file, `edit_forms` the forms of a record, `edit` what comes of both.
An edit's text is what the whole system hides. It stays out of every `repr` and every message: an
error names file, record and field.
"""

from collections.abc import Iterator
from pathlib import Path

from collabedit.errors import EditFileError
from collabedit.party.edit import SLOT, Edit, edits_digest, subject_template
from collabedit.party.edit_files import Columns, load_columns, read_records
from collabedit.party.edit_forms import edit_from_record

__all__ = [
    "SLOT",
    "Edit",
    "edits_digest",
    "load_edits",
    "load_true_facts",
    "read_edits",
    "subject_template",
]


def read_edits(
    path: Path, columns: Columns | None = None
) -> Iterator[tuple[int, Edit | EditFileError]]:
    """Read a file of edits record by record, and go on behind records that are malformed.

    Args:
        path: the file.
        columns: of a file of other columns; default: those in the file beside it
            (`edit_files.columns_file`), if there is one.

    Yields:
        Number of the record, counted from 1, and the edit, or what is wrong with the record: one
        line that names file, record and field.

    Raises:
        EditFileError: the file cannot be read, or holds no record.
        InputError: the mapping beside it is malformed.
    """
    chosen = load_columns(path) if columns is None else columns
    records = list(read_records(path, chosen))
    if not records:
        raise EditFileError(f"{path}: holds no edits")
    for number, record in enumerate(records, start=1):
        try:
            yield number, edit_from_record(f"{path}: record {number}", number, record)
        except EditFileError as error:
            yield number, error


def load_edits(path: Path, columns: Columns | None = None) -> tuple[Edit, ...]:
    """Read a file of edits, in file order.

    Each record may be in any of the forms. A record without `case_id` is named by its number,
    counted from 1.

    Args:
        path: JSON, JSONL, CSV or TSV.
        columns: as `read_edits` has them.

    Raises:
        EditFileError: the file cannot be read, or a record is malformed. One line that names file,
            record and field.
        InputError: the mapping beside it is malformed.
    """
    edits = []
    for _, found in read_edits(path, columns):
        if isinstance(found, EditFileError):
            raise found
        edits.append(found)
    return tuple(edits)


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
