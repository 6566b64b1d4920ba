"""One edit: a fact to write, and the prompts that measure it.

An edit's text is what the whole system hides. It stays out of every `repr` and every message.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

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


def subject_template(prompt: str, subject: str) -> str | None:
    """Put `{}` where the subject stands: its last occurrence as whole words, else its last one.

    The last one, because the model has then read most of what identifies the subject. None if the
    subject does not occur.
    """
    whole_words = list(re.finditer(rf"(?<!\w){re.escape(subject)}(?!\w)", prompt))
    start = whole_words[-1].start() if whole_words else prompt.rfind(subject)
    return None if start < 0 else prompt[:start] + SLOT + prompt[start + len(subject) :]
