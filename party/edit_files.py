"""Records in the files that people have: JSON, JSONL, CSV and TSV, and columns by other names.

A table, or a file of objects, whose columns are called otherwise than EasyEdit's flat form calls
them comes with a mapping of fields to columns, as an argument or as a file beside it. No message
holds what a record holds: it names file, line or record, and columns that the user named.
"""

import csv
import io
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from collabedit.errors import EditFileError, InputError
from collabedit.party.edit_forms import FLAT_FIELDS

Columns: TypeAlias = Mapping[str, str]
"""Field of EasyEdit's flat form -> name of the column that holds it."""

_TABLES: Final = {".csv": ",", ".tsv": "\t"}


def columns_file(path: Path) -> Path:
    """Where the mapping of an edits file is looked for: `facts.columns.toml` for `facts.csv`."""
    return path.with_suffix(".columns.toml")


def parse_columns(text: str) -> Columns:
    """Read `prompt=question,subject=entity,target_new=answer`.

    Raises:
        InputError: not in this form, or not a field of the flat form.
    """
    columns: dict[str, str] = {}
    for part in text.split(","):
        field, equals, column = (piece.strip() for piece in part.partition("="))
        if not (field and equals and column):
            raise InputError(f"--columns {part.strip() or text}: must be FIELD=COLUMN")
        if field in columns:
            raise InputError(f"--columns: names field {field} twice")
        columns[field] = column
    return _checked(columns, "--columns")


def load_columns(path: Path) -> Columns | None:
    """Read the mapping beside an edits file; None if there is none.

    Raises:
        InputError: it is malformed, or names a field that the flat form does not have.
    """
    beside = columns_file(path)
    try:
        content = tomllib.loads(beside.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{beside}: {error}") from error
    columns = content.get("columns")
    if not isinstance(columns, dict) or len(content) > 1:
        raise InputError(f'{beside}: must hold one table, [columns], with FIELD = "COLUMN"')
    if not all(isinstance(column, str) and column for column in columns.values()):
        raise InputError(f"{beside}: every column must be a text")
    return _checked(columns, str(beside))


def _checked(columns: Columns, where: str) -> Columns:
    for field in columns:
        if field not in FLAT_FIELDS:
            raise InputError(f"{where}: {field} is none of the fields {', '.join(FLAT_FIELDS)}")
    return columns


def read_records(path: Path, columns: Columns | None = None) -> Iterator[Any]:
    """Read the records of a file in order, as parsed JSON has them.

    Args:
        path: a table by its ending (`.csv`, `.tsv`), else JSON or JSONL.
        columns: given, each record is one of the flat form, with these columns for these fields.

    Raises:
        EditFileError: the file cannot be read, or is neither. One line that names file and line.
    """
    for record in _rows(path) if path.suffix.lower() in _TABLES else _objects(path):
        if columns is None or not isinstance(record, dict):
            yield record
        else:
            kept = {field: record[field] for field in FLAT_FIELDS if field in record}
            yield kept | {
                field: record.get(column)
                for field, column in columns.items()
                if record.get(column) is not None or field in kept
            }


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """Rows of a table with a header; empty cells are left out."""
    text = _read(path, newline="")  # a quoted cell may hold line ends
    delimiter = _TABLES[path.suffix.lower()]
    header = text.splitlines()[0]
    if delimiter == "," and delimiter not in header and ";" in header:
        delimiter = ";"  # spreadsheets of countries that write decimals with a comma
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = [name.strip() for name in reader.fieldnames or ()]
        if len(set(names)) < len(names):
            raise EditFileError(f"{path}: line 1: two columns have the same name")
        reader.fieldnames = names
        for row in reader:
            if None in row:
                raise EditFileError(f"{path}: line {reader.line_num}: has more cells than line 1")
            yield {name: cell for name, cell in row.items() if cell and cell.strip()}
    except csv.Error as error:
        # The module's phrases are fixed; none quotes the file.
        raise EditFileError(f"{path}: line {reader.reader.line_num}: no table: {error}") from None


def _read(path: Path, *, newline: str | None = None) -> str:
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as stream:
            text = stream.read()
    except OSError as error:
        raise EditFileError(f"{path}: {error.strerror or 'cannot be read'}") from error
    except UnicodeDecodeError as error:
        raise EditFileError(f"{path}: byte {error.start} is not UTF-8") from error
    if not text.strip():
        raise EditFileError(f"{path}: is empty")
    return text


def _objects(path: Path) -> Iterator[Any]:
    text = _read(path)
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
