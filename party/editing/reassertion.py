"""Re-assertions: true facts that the model knows, edited in beside a party's own edits as cover.

A cover edit (`party.cover`) has no residual, and whoever sees T tells it from an edit. A
re-assertion has a key and a residual of the same kinds as an edit's: the target search goes towards
the true object, and what it finds is rescaled to a length drawn from those of the party's own
edits. It is the party's choice alone. What it buys and what not: docs/closed-sums.md, section 11.

Facts about the subject of an own edit are never taken, since they would have the edit's key and
another residual, nor two about one subject.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from collabedit.crypto.kdf import SECRET_BYTES
from collabedit.crypto.keystream import Keystream
from collabedit.crypto.ring import Ring
from collabedit.crypto.rng import Randomness
from collabedit.errors import InputError, NumericError
from collabedit.party.editing.artefacts import load_tensors, save_tensors
from collabedit.party.editing.keys import current_outputs
from collabedit.party.editing.likelihood import Completion, score_completions
from collabedit.party.editing.means import OWN_MEANS, Means
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.ranks import ALONE, Ranks
from collabedit.party.editing.targets import (
    Progress,
    Targets,
    TargetSettings,
    compute_targets,
    settings_digest,
)
from collabedit.party.editing.tokens import prompt_ids, target_ids
from collabedit.party.edits import Edit, edits_digest
from collabedit.party.items import normalise

LEAST_UPDATES = 1
"""Of δ: the model knows the fact, so its loss may be low enough at once, without a direction."""

_ASKED_TOGETHER = 64
"""Facts that the model is asked about before it is known whether more are needed."""

_ROUNDING = 1e-5
"""Of ‖z*‖: float32 activations of one prompt differ by less from batch to batch, and by far more
after one update."""

_KIND = "reassertions"


@dataclass(frozen=True, slots=True)
class Reassertions:
    """Facts that a party re-asserts in a session.

    Attributes:
        facts: r requests, each with a true object as `target_new`.
        targets: z* of `facts`, rescaled.
    """

    facts: tuple[Edit, ...] = field(repr=False)
    targets: Targets = field(repr=False)

    def without_subjects_of(self, edits: Sequence[Edit]) -> "Reassertions":
        """Leave out facts about the subject of one of `edits`."""
        subjects = {normalise(edit.subject) for edit in edits}
        return self.kept([normalise(fact.subject) not in subjects for fact in self.facts])

    def kept(self, keep: Sequence[bool]) -> "Reassertions":
        """Return those that are kept; one truth value for each."""
        columns = [column for column, _ in enumerate(self.facts) if keep[column]]
        facts = tuple(self.facts[column] for column in columns)
        values = self.targets.values[:, columns]
        return Reassertions(
            facts, replace(self.targets, values=values, edits_digest=edits_digest(facts))
        )


@dataclass(frozen=True, slots=True)
class Wish:
    """What a party asks for.

    Attributes:
        source: of the facts, for messages.
        pool: true facts to draw from (`edits.load_true_facts`).
        count: how many to draw, at least 1.
        edits: the party's own, all of them.
    """

    source: Path
    pool: tuple[Edit, ...] = field(repr=False)
    count: int
    edits: tuple[Edit, ...] = field(repr=False)

    @property
    def digest(self) -> str:
        """Of all that is asked for, hex SHA-256; never leaves the party."""
        canonical = json.dumps([edits_digest(self.pool), edits_digest(self.edits), self.count])
        return hashlib.sha256(b"collabedit/v1/reassertions\n" + canonical.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Search:
    """Where, how and by whom targets are searched; arguments of `compute_targets`."""

    model: EditableModel
    layer: int
    templates: tuple[str, ...]
    settings: TargetSettings
    weights: str | None = None
    ranks: Ranks = ALONE
    means: Means = OWN_MEANS

    @property
    def digest(self) -> str:
        """Of everything but facts and lengths that determines targets."""
        return settings_digest(
            self.model,
            layer=self.layer,
            templates=self.templates,
            settings=self.settings,
            weights=self.weights,
        )


def residual_lengths(
    model: EditableModel, edits: Sequence[Edit], targets: Targets, layer: int
) -> Tensor:
    """Measure ‖z* - z‖, z being what the last edited layer puts out now: [n], float64.

    Residuals of all layers are shares of that (`schedule`). What rounding leaves of a search that
    made no update is 0.
    """
    wanted = targets.values.double()
    missing = wanted - current_outputs(model, edits, layer)
    lengths: Tensor = torch.linalg.vector_norm(missing, dim=0)
    lengths[lengths < _ROUNDING * torch.linalg.vector_norm(wanted, dim=0)] = 0.0
    return lengths


def draw_facts(model: EditableModel, wish: Wish, randomness: Randomness) -> list[int]:
    """Draw facts that the model knows: places in the pool.

    It knows a fact if each token of the object is the likeliest where it stands, behind the bare
    prompt.

    Args:
        model: as it is at the session's start.
        wish: from what, and how many.
        randomness: the party's own.

    Raises:
        InputError: there are fewer; names the file and how many there are.
    """
    words = _words(len(wish.pool), randomness)
    taken = {normalise(edit.subject) for edit in wish.edits}
    order = []
    for place in np.argsort(words).tolist():
        subject = normalise(wish.pool[place].subject)
        if subject not in taken:
            order.append(place)
            taken.add(subject)
    known: list[int] = []
    for start in range(0, len(order), _ASKED_TOGETHER):
        asked = order[start : start + _ASKED_TOGETHER]
        known += _known(model, wish.pool, asked)
        if len(known) >= wish.count:
            return known[: wish.count]
    raise InputError(
        f"{wish.source}: the model knows {len(known)} of its {len(wish.pool)} facts, with subjects "
        f"that differ from each other and from own edits': too few for {wish.count} re-assertions"
    )


def _known(model: EditableModel, pool: Sequence[Edit], places: Sequence[int]) -> list[int]:
    completions = [
        Completion(prompt_ids(model, fact.question), target_ids(model, fact.target_new))
        for fact in (pool[place] for place in places)
    ]
    right = score_completions(model, completions).tokens_right
    return [place for place, share in zip(places, right.tolist(), strict=True) if share == 1]


def search_directions(
    search: Search, facts: Sequence[Edit], *, progress: Progress | None = None
) -> Targets:
    """Search z* of facts as of edits, with at least `LEAST_UPDATES` of δ."""
    return compute_targets(
        search.model,
        facts,
        layer=search.layer,
        templates=search.templates,
        settings=search.settings,
        least_updates=LEAST_UPDATES,
        weights=search.weights,
        progress=progress,
        ranks=search.ranks,
        means=search.means,
    )


def rescale(
    model: EditableModel,
    facts: Sequence[Edit],
    found: Targets,
    *,
    layer: int,
    lengths: Tensor,
    randomness: Randomness,
) -> Targets:
    """Give each residual a length drawn from an edit's, with repetition.

    Args:
        model: as it is at the session's start.
        facts: r facts.
        found: z* of them, as the search left it.
        layer: the last edited layer.
        lengths: `residual_lengths` of the party's edits; those that are 0 are not drawn, as such an
            edit hides behind nothing and covers nothing.
        randomness: the party's own.

    Raises:
        InputError: no edit has a length.
        NumericError: a search found no direction.
    """
    positive = lengths[lengths > 0]
    if not len(positive):
        raise InputError("no edit changes anything: there is no length to give a re-assertion")
    start = current_outputs(model, facts, layer)
    directions = found.values.double() - start
    sizes = residual_lengths(model, facts, found, layer)
    for fact, size in zip(facts, sizes.tolist(), strict=True):
        if not size > 0:
            raise NumericError(
                f"re-assertion {fact.case_id}: the search found no direction; the plan's "
                "editing.targets.steps must be 2 or more"
            )
    # 2⁶⁴ modulo so few lengths favours none of them by anything that could be seen.
    drawn = _words(len(facts), randomness) % np.uint64(len(positive))
    wanted = positive[torch.from_numpy(drawn.astype(np.int64))]
    values = (start + directions * (wanted / sizes)).to(found.values.dtype)
    return replace(found, values=values)


def make_reassertions(
    search: Search,
    wish: Wish,
    lengths: Tensor,
    path: Path,
    randomness: Randomness,
    *,
    progress: Progress | None = None,
) -> Reassertions:
    """Draw facts, search their targets, and leave both in a private file (mode 0600).

    Of several ranks, which share the search, the first draws and writes for all.

    Args:
        search: where and how.
        wish: what is asked for.
        lengths: as `rescale` takes them.
        path: of the file.
        randomness: the party's own.
        progress: called with (done, total) of the targets.

    Returns:
        What the session takes; at another rank than the first with lengths as they were found.

    Raises:
        InputError, NumericError: see `draw_facts`, `rescale`, `compute_targets`.
        StorageError: the disk refuses.
    """
    ranks = search.ranks
    drawn = draw_facts(search.model, wish, randomness) if ranks.is_first else []
    places: list[int] = ranks.broadcast(torch.tensor(drawn)).tolist()
    facts = tuple(wish.pool[place] for place in places)
    targets = search_directions(search, facts, progress=progress)
    if not ranks.is_first:
        return Reassertions(facts, targets)
    targets = rescale(
        search.model,
        facts,
        targets,
        layer=search.layer,
        lengths=lengths,
        randomness=randomness,
    )
    save_tensors(
        path,
        {"targets": targets.values, "places": torch.tensor(places)},
        {"wish": wish.digest, "settings": search.digest},
        kind=_KIND,
        private=True,
    )
    return Reassertions(facts, targets)


def load_reassertions(path: Path, search: Search, wish: Wish) -> Reassertions:
    """Read what `make_reassertions` left.

    Raises:
        InputError: no such file, malformed, or made for another wish or under other settings.
    """
    tensors, digests = load_tensors(path, kind=_KIND)
    if digests.get("wish") != wish.digest or digests.get("settings") != search.digest:
        raise InputError(
            f"{path}: re-assertions were prepared from other facts or edits, in another number, or "
            "under another model or settings; remove the file and prepare them again"
        )
    facts = tuple(wish.pool[place] for place in tensors["places"].tolist())
    return Reassertions(facts, Targets(tensors["targets"], edits_digest(facts), search.digest))


def _words(count: int, randomness: Randomness) -> NDArray[np.uint64]:
    """Draw independent uniform words: [count], uint64."""
    stream = Keystream(randomness.random_bytes(SECRET_BYTES))
    words: NDArray[np.uint64] = stream.tile(0, count, Ring.from_bits(64))
    return words
