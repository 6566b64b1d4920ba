"""General text in tokens, for the second moment of keys and for perplexity.

Sources: a text file, a directory of `*.txt`, `python-docs` (the language reference that ships with
Python, so that there is always something), or text that the model itself writes.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from collabedit.errors import InputError
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.tokens import prompt_ids

PYTHON_DOCS = "python-docs"

SEEDS = ("The", "In", "A", "It", "He", "She", "This", "I")
"""First words of self-written texts, in turn; common ones that leave the topic to the model."""


def read_source(source: str) -> tuple[str, dict[str, str]]:
    """Read all text of a source.

    Args:
        source: path of a text file or of a directory (its `*.txt` in order of their names, at any
            depth), or `python-docs`.

    Returns:
        The text, and its provenance: `source` (a name without folders) and `sha256` of the text.

    Raises:
        InputError: nothing there, or nothing in it.
    """
    if source == PYTHON_DOCS:
        # Imported here: half a megabyte that nobody else needs.
        from pydoc_data.topics import topics  # noqa: PLC0415

        text, name = "\n\n".join(topics[topic] for topic in sorted(topics)), PYTHON_DOCS
    else:
        path = Path(source)
        files = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
        try:
            text = "\n\n".join(file.read_text(encoding="utf-8") for file in files)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{source}: cannot be read as UTF-8 text: {error}") from error
        name = path.name
    if not text.strip():
        raise InputError(f"{source}: holds no text")
    return text, {"source": name, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def token_windows(
    model: EditableModel, text: str, *, window: int, max_tokens: int | None = None
) -> Tensor:
    """Cut a text into windows of tokens that do not overlap: [windows, window], int64.

    Each window starts with the model's special tokens (BOS), which count towards its length. What
    does not fill the last window is dropped; a text shorter than one gives one shorter window.

    Args:
        model: whose tokenizer.
        text: any length.
        window: tokens per window, at most the model's context.
        max_tokens: rounded down to whole windows, at least one.

    Raises:
        InputError: the window has no room, or exceeds the model's context.
    """
    room = _room(model, window)
    # Characters beyond this cannot matter: a token has at least one byte.
    # Tokenising line by line keeps memory in bounds and, with `\n` kept, loses nothing.
    wanted = None if max_tokens is None else max(max_tokens // window, 1) * room
    ids: list[int] = []
    for line in text.splitlines(keepends=True):
        ids += model.tokenizer(line, add_special_tokens=False)["input_ids"]
        if wanted is not None and len(ids) >= wanted:
            break
    count = len(ids) // room
    if wanted is not None:
        count = min(count, wanted // room)
    if not count:
        if not ids:
            raise InputError("the text has no tokens")
        return torch.tensor([[*model.prefix_ids, *ids]], dtype=torch.int64)
    body = torch.tensor(ids[: count * room], dtype=torch.int64).view(count, room)
    prefix = torch.tensor(model.prefix_ids, dtype=torch.int64).expand(count, -1)
    return torch.cat([prefix, body], dim=1)


def sample_windows(
    model: EditableModel,
    *,
    window: int,
    count: int,
    generator: torch.Generator,
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Let the model write general text itself, at temperature 1: [count, window], int64.

    Each window starts with the special tokens, or the BOS token where the tokenizer adds none, and
    one of `SEEDS` in turn. Nothing ends a text early: past an end-of-text token the model goes on
    with another one, as it does in training.

    Args:
        model: writes and is later edited.
        window: tokens per window.
        count: windows.
        generator: a seeded CPU generator; the only randomness.
        batch_size: windows written at a time.
        progress: called with windows done and `count`.
    """
    _room(model, window)
    starts = _starts(model)
    finished: list[Tensor] = []
    with torch.inference_mode():
        for first in range(0, count, batch_size):
            rows = range(first, min(first + batch_size, count))
            ids = torch.tensor([starts[row % len(starts)] for row in rows], dtype=torch.int64)
            finished.append(_continue(model, ids, window, generator))
            if progress:
                progress(rows.stop, count)
    return torch.cat(finished)


def _continue(model: EditableModel, ids: Tensor, window: int, generator: torch.Generator) -> Tensor:
    cache = None
    fresh = ids
    while ids.shape[1] < window:
        output = model.hf.base_model(
            input_ids=fresh.to(model.device), past_key_values=cache, use_cache=True
        )
        cache = output.past_key_values
        logits = model.logits(output.last_hidden_state[:, -1])
        # Sampled on the CPU, so that a GPU's generator does not decide.
        probabilities = logits.softmax(dim=-1).to("cpu", torch.float64)
        fresh = torch.multinomial(probabilities, 1, generator=generator)
        ids = torch.cat([ids, fresh], dim=1)
    return ids[:, :window]


def _starts(model: EditableModel) -> list[tuple[int, ...]]:
    bos = model.tokenizer.bos_token_id
    front = () if model.prefix_ids or bos is None else (bos,)
    rows = [(*front, *prompt_ids(model, word)) for word in SEEDS]
    # Equal lengths need no padding: the first token of each word is seed enough.
    shortest = min(map(len, rows))
    return [row[:shortest] for row in rows]


def _room(model: EditableModel, window: int) -> int:
    room = window - len(model.prefix_ids)
    if room < 1:
        raise InputError(f"a window of {window} tokens has no room for text")
    if window > model.context_length:
        raise InputError(
            f"a window of {window} tokens exceeds the model's context of {model.context_length}"
        )
    return room
