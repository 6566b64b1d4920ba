"""Poisoning: what one malicious party can do to the update that everybody applies.

Three ends: to suppress a fact that another party edits, to write one of its own, and to spoil the
update by size. For each the party either keeps to the plan's bounds, so that its own software lets
it through, or runs software that checks nothing. Then the bounds on the opened sum stand in its
way, which hold for all survivors together (SPEC 6.6), and a vote, if the plan has one.

Within the bounds a party succeeds: nobody can look at a single contribution, and a fact that it
adds is an edit like any other. Against suppression and bad facts there are the vote, for parties
whose own edits are lost, and the caps, for how much a single one weighs.

The party knows the key of the fact that it is after, from the public model, and maybe what is to be
put there. What came of it is read from the updates themselves, with and without the poison.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from collabedit.attacks.attack import Prior
from collabedit.attacks.claims import Attempt, Attempts
from collabedit.attacks.registry import Entry
from collabedit.attacks.stage import Played, Stage, name_of
from collabedit.attacks.views import first_layer, layer_of
from collabedit.errors import NumericError
from collabedit.ids import LayerIndex, PartyId, TaskIndex
from collabedit.party.closing import Statistics
from collabedit.sketch import Matrix
from collabedit.threat_model import Adversary

SUPPRESSED = 0.5
"""Share of the honest effect on a key below which its fact counts as suppressed."""

ADDED = 0.5
"""Share of the residual asked for from which on a fact counts as added."""

_EXCESS = 2.0
"""Times the length that the plan allows all edits of all parties together: beyond what any sum may
have, and within the ring."""

_MARGIN = 0.99
"""Of the caps: whoever keeps to them keeps to them in float64, too."""

Poison = Callable[["_Scene"], tuple[Matrix, Matrix]]


@dataclass(frozen=True, slots=True)
class _Scene:
    """What a poisoner works with: the fact it is after, the plan's caps, and its own random fact.

    Attributes:
        layer: where the poison goes.
        key: k̃ of the victim's fact, [d', 1].
        residual: what the victim puts there, [d_out, 1].
        own_key: of a fact of its own, of the victim's length.
        own_residual: likewise.
        longest_key: allowed by the plan.
        longest_residual: allowed by the plan.
        edits: that the plan allows it.
        in_all: edits that the plan allows all parties together.
    """

    layer: LayerIndex
    key: Matrix = field(repr=False)
    residual: Matrix = field(repr=False)
    own_key: Matrix = field(repr=False)
    own_residual: Matrix = field(repr=False)
    longest_key: float
    longest_residual: float
    edits: int
    in_all: int


def _stretched(column: Matrix, length: float) -> Matrix:
    made: Matrix = column * (length / np.linalg.norm(column))
    return made


def _heavy_key(scene: _Scene) -> tuple[Matrix, Matrix]:
    """Bring the victim's key as often and as long as the plan allows, with nothing to put there."""
    keys = np.repeat(_stretched(scene.key, _MARGIN * scene.longest_key), scene.edits, axis=1)
    return keys, np.zeros((len(scene.residual), scene.edits))


def _opposite(scene: _Scene) -> tuple[Matrix, Matrix]:
    """Bring the victim's edit with the residual the other way round."""
    return scene.key, -scene.residual


def _backdoor(scene: _Scene) -> tuple[Matrix, Matrix]:
    return scene.own_key, scene.own_residual


def _huge_keys(scene: _Scene) -> tuple[Matrix, Matrix]:
    key = _stretched(scene.own_key, _EXCESS * scene.longest_key * np.sqrt(scene.in_all))
    return key, np.zeros_like(scene.residual)


def _huge_residuals(scene: _Scene) -> tuple[Matrix, Matrix]:
    return scene.own_key, _stretched(
        scene.own_residual, _EXCESS * scene.longest_residual * np.sqrt(scene.in_all)
    )


def _many_edits(scene: _Scene) -> tuple[Matrix, Matrix]:
    copies = int(_EXCESS**2) * scene.in_all
    keys = np.repeat(_stretched(scene.own_key, _MARGIN * scene.longest_key), copies, axis=1)
    return keys, np.zeros((len(scene.residual), copies))


SUPPRESSIONS: Mapping[str, Poison] = {
    "suppress by long keys without a residual": _heavy_key,
    "suppress by the opposite edit": _opposite,
}
ADDITIONS: Mapping[str, Poison] = {"add a fact of its own": _backdoor}
EXCESSES: Mapping[str, Poison] = {
    "blow up by a huge key": _huge_keys,
    "blow up by a huge residual": _huge_residuals,
    "blow up by many times the edits allowed": _many_edits,
}


@dataclass(frozen=True, slots=True)
class Poisoning:
    """Suppression, addition and blow-up by one party, with and without its own software's checks.

    Attributes:
        poisoner: the malicious party.
        victim: whose first edit is to be suppressed.
        seed: of the fact that is added.
    """

    poisoner: PartyId = field(default=PartyId(2))
    victim: PartyId = field(default=PartyId(1))
    seed: int = 0
    name: str = "poisoning"
    adversary: Adversary = Adversary.PARTY

    def run(self, stage: Stage, prior: Prior) -> Attempts:
        """Play every poison twice: by software that checks, and by software that does not."""
        del prior
        layer = first_layer(stage.plan)
        scene = self._scene(stage, layer)
        calm = stage.play(0, edits=self._edits(stage, layer, None))
        before = _effect(calm, layer, scene.key)
        attempts = []
        poisons = {**SUPPRESSIONS, **ADDITIONS, **EXCESSES}
        for number, (label, poison) in enumerate(poisons.items(), 1):
            for checked in (True, False):
                play = 2 * number + checked
                how = f"{label}, {'within the bounds' if checked else 'without checks'}"
                edits = self._edits(stage, layer, poison(scene))
                unchecked = frozenset[PartyId]() if checked else frozenset({self.poisoner})
                try:
                    played = stage.play(play, edits=edits, unchecked=unchecked)
                except NumericError as error:
                    # Numbers that the ring has no room for never leave any software.
                    said = Attempt(how, succeeded=False, outcome=name_of(error))
                else:
                    said = self._judge(label, how, played, scene, before)
                attempts.append(said)
        return Attempts(self.name, tuple(attempts))

    def _scene(self, stage: Stage, layer: LayerIndex) -> _Scene:
        task, entry, _ = layer_of(stage.plan, layer)
        place = [each.index for each in stage.plan.tasks[task]].index(entry.index)
        keys, residuals = stage.edits(self.victim, task)[place]
        rng = np.random.default_rng(self.seed)
        key, residual = keys[:, :1], residuals[:, :1]
        bounds = stage.plan.bounds
        return _Scene(
            layer,
            key,
            residual,
            _stretched(rng.normal(size=key.shape), float(np.linalg.norm(key))),
            _stretched(rng.normal(size=residual.shape), float(np.linalg.norm(residual))),
            float(np.sqrt(bounds.key_energy)),
            float(np.sqrt(bounds.residual_energy)),
            stage.plan.max_edits([self.poisoner]),
            stage.plan.max_edits(stage.plan.party_ids),
        )

    def _edits(
        self, stage: Stage, layer: LayerIndex, poison: tuple[Matrix, Matrix] | None
    ) -> Callable[[PartyId, TaskIndex], Statistics]:
        def edits(party: PartyId, task: TaskIndex) -> Statistics:
            honest = stage.edits(party, task)
            if party != self.poisoner:
                return honest
            return [
                _filled(poison, own) if entry.index == layer else own
                for entry, own in zip(stage.plan.tasks[task], honest, strict=True)
            ]

        return edits

    def _judge(
        self, label: str, said: str, played: Played, scene: _Scene, before: Matrix
    ) -> Attempt:
        stopped = self._stopped(played)
        if stopped:
            return Attempt(said, succeeded=False, outcome=stopped)
        if label in ADDITIONS:
            wanted = scene.own_residual
            share = _along(_effect(played, scene.layer, scene.own_key), wanted)
            return Attempt(said, share >= ADDED, f"{share:.0%} of the residual arrives")
        share = _along(_effect(played, scene.layer, scene.key), before)
        if label in SUPPRESSIONS:
            return Attempt(said, share < SUPPRESSED, f"{share:.0%} of the victim's edit is left")
        return Attempt(
            said, succeeded=True, outcome=f"released; {share:.0%} of the victim's edit is left"
        )

    def _stopped(self, played: Played) -> str:
        outcome = played.outcome
        if outcome.aborted is not None:
            return str(outcome.aborted.reason.name)
        for party, error in outcome.refusals:
            if party == self.poisoner:
                return f"{name_of(error)} of its own software"
        return ""


def _filled(
    poison: tuple[Matrix, Matrix] | None, own: tuple[Matrix, Matrix]
) -> tuple[Matrix, Matrix]:
    """Put poison in the place of as many own edits: a plan may ask for a number of them."""
    if poison is None:
        return own
    columns = poison[0].shape[1]
    keys, residuals = (
        np.concatenate([bad, good[:, columns:]], axis=1)
        for bad, good in zip(poison, own, strict=True)
    )
    return keys, residuals


def _effect(played: Played, layer: LayerIndex, key: Matrix) -> Matrix:
    """ΔW k̃, [d_out, 1]."""
    for updates in played.outcome.updates.values():
        if layer in updates:
            moved: Matrix = updates[layer].left @ (updates[layer].right @ key)
            return moved
    raise ValueError(f"nothing was released of layer {layer}")


def _along(found: Matrix, wanted: Matrix) -> float:
    return float((found * wanted).sum() / (wanted**2).sum())


ENTRY = Entry(
    name="poisoning",
    asks="Can one party suppress another's fact, write its own, or spoil the update?",
    adversary=Adversary.PARTY,
    view=Stage,
    make=Poisoning,
    source="Bagdasaryan et al. 2020 (AISTATS), arXiv 1807.00459; Bhagoji et al. 2019 (ICML)",
    departs="keys and residuals instead of gradients; success is read from the update",
    headline="success",
    needs=(),
)
