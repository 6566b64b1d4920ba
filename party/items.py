"""What a counting task counts: digests of normalised edits, the same at every party.

Two edits have one topic if subject and relation agree, and are one fact if the object agrees, too.
The relation is the edit's relation id if it has one, else its prompt. Texts agree if they do after
`normalise`. Digests are not secret enough to be shown to anybody: short texts can be guessed. The
tables hold them under a key of the counting task only (`counting`).
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from collabedit.crypto.kdf import DIGEST_BYTES, transcript_hash
from collabedit.errors import EditFileError
from collabedit.party.edits import SLOT, Edit, subject_template

_ITEM_BYTES: Final = 2 * DIGEST_BYTES


@dataclass(frozen=True, slots=True)
class Item:
    """One edit, as a counting task sees it.

    Attributes:
        case_id: name of the edit's record, for its own party's report.
        topic: digest of subject and relation, 32 bytes.
        fact: digest of subject, relation and object, 32 bytes.
        paraphrases: how many paraphrases of it name the subject, and could be added as requests.
    """

    case_id: str
    topic: bytes = field(repr=False)
    fact: bytes = field(repr=False)
    paraphrases: int = 0


def normalise(text: str) -> str:
    """Return NFKC of the case-folded NFKC of `text`, runs of blanks collapsed, ends stripped."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def edit_item(edit: Edit) -> Item:
    """Digest one edit (SPEC 6.7(a)).

    Raises:
        EditFileError: a text holds half of a surrogate pair. Names the record, never the text.
    """
    kind, relation = ("prompt", edit.prompt) if edit.relation is None else ("id", edit.relation)
    topic = (normalise(edit.subject), kind, normalise(relation))
    try:
        return Item(
            edit.case_id,
            transcript_hash("topic", *topic),
            transcript_hash("fact", *topic, normalise(edit.target_new)),
            len(paraphrase_requests(edit)),
        )
    except UnicodeEncodeError:
        raise EditFileError(f"edit {edit.case_id}: a text is not valid Unicode") from None


def edit_items(edits: Sequence[Edit]) -> tuple[Item, ...]:
    """Digest a party's edits in order; see `edit_item`."""
    return tuple(map(edit_item, edits))


def paraphrase_requests(edit: Edit) -> tuple[Edit, ...]:
    """Turn the paraphrases that name the subject into requests of their own, in order.

    They ask for the same object and measure nothing. A paraphrase that is the edit's own prompt
    adds nothing and is left out.
    """
    templates = [
        subject_template(prompt, edit.subject)
        for prompt in edit.paraphrase_prompts
        if SLOT not in prompt
    ]
    wanted = dict.fromkeys(t for t in templates if t is not None and t != edit.prompt)
    return tuple(
        replace(
            edit, prompt=template, paraphrase_prompts=(), neighborhood=(), generation_prompts=()
        )
        for template in wanted
    )


def items_to_bytes(items: Sequence[Item]) -> bytes:
    """Serialise the digests for the party's journal, 64 bytes each."""
    return b"".join(item.topic + item.fact for item in items)


def digests_from_bytes(data: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Read (topic, fact) of each item back.

    Raises:
        ValueError: not a whole number of them.
    """
    if len(data) % _ITEM_BYTES:
        raise ValueError(f"{len(data)} bytes are no items")
    return tuple(
        (data[i : i + DIGEST_BYTES], data[i + DIGEST_BYTES : i + _ITEM_BYTES])
        for i in range(0, len(data), _ITEM_BYTES)
    )
