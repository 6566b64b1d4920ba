"""One attack on one session: its view and prior in, figures out. Runs in a worker.

The truth goes to scoring alone. What is kept are figures, and by number what intervals are made
from: the order of scores, and who was edited. Whatever words an attack found are not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from collabedit.attacks.attack import Finding, Prior
from collabedit.attacks.claims import Attempts, Claim, LackingError
from collabedit.attacks.pairs import guess
from collabedit.attacks.prior import model_prior
from collabedit.attacks.registry import Entry, find
from collabedit.attacks.scoring import rows_of, score
from collabedit.attacks.truth import Truth
from collabedit.audit.curves import RATES, roc
from collabedit.audit.defences import DEFENCES
from collabedit.audit.keeping import load_arrays, load_session, save_arrays
from collabedit.audit.pool import Candidates
from collabedit.audit.schema import PriorName, Scope
from collabedit.audit.sessions import Maker, Session, SessionTask, propose
from collabedit.audit.views import Seen, kind_of
from collabedit.errors import InputError, ModelError, NumericError
from collabedit.experiments.cache import Cache
from collabedit.experiments.protocol import edited_by
from collabedit.experiments.schema import CovarianceSource
from collabedit.grid import Fields
from collabedit.ids import LayerIndex
from collabedit.party.editing.covariance import Covariance
from collabedit.party.editing.editor import key_maps
from collabedit.party.editing.key_map import KeyMap
from collabedit.party.editing.keys import compute_layer_keys


@dataclass(frozen=True, slots=True)
class KeysTask:
    """The candidates' keys, as an adversary computes them.

    Attributes:
        session: any session of the audit, for a plan; who takes part does not touch the keys.
        candidates: whose.
        prior: with the records' own prompts, or with one for all.
        scope: of which layers.
        reestimate: the text of the adversary's own covariance; None for the plan's.
        path: where they are kept.
    """

    session: SessionTask
    candidates: Candidates
    prior: PriorName
    scope: Scope
    reestimate: CovarianceSource | None
    path: Path

    @property
    def maker(self) -> Maker:
        """Of the audit's sessions."""
        return self.session.maker

    def maps(self) -> dict[int, KeyMap]:
        """Make Φ of the layers, from the covariance that the adversary has."""
        model = self.maker.bench.load()
        own = self.maker.bench.second_moments(self.maker.editor)
        plan = propose(self.session, model, own)
        known: Covariance | None = own
        if self.reestimate is not None and own is not None:
            layers = edited_by(self.maker.editor, model)
            known = Cache(self.maker.bench.cache).covariance(model, layers, self.reestimate)
        maps = key_maps(plan, known)
        return maps if self.scope == "all" else {min(maps): maps[min(maps)]}


def prepare_keys(task: KeysTask) -> Fields:
    """Put the candidates' mapped keys into the cache."""
    if task.path.exists():
        return {}
    model = task.maker.bench.load()
    plan = propose(task.session, model, task.maker.bench.second_moments(task.maker.editor))
    templates, maps = plan.editing.context_templates, task.maps()
    if task.prior == "exact":
        keys = compute_layer_keys(model, task.candidates.edits, sorted(maps), templates)
        mapped = {layer: maps[layer].map_keys(keys[layer].numpy()) for layer in maps}
    else:
        known = model_prior(model, task.candidates.subjects, templates=templates, maps=maps)
        mapped = {int(layer): values for layer, values in known.mapped_keys.items()}
    save_arrays(task.path, {}, {str(layer): values for layer, values in mapped.items()})
    return {}


@dataclass(frozen=True, slots=True)
class AttackTask:
    """One attack on one session, as it travels to a worker.

    Attributes:
        attack: name.
        settings: of the file.
        session: that is attacked.
        path: where it is kept.
        again: its repetition and where that is kept, if the view needs one.
        keys: what the adversary knows of candidates.
    """

    attack: str
    settings: Mapping[str, Any]
    session: SessionTask
    path: Path
    again: tuple[SessionTask, Path] | None
    keys: KeysTask = field(repr=False)


def attack_session(task: AttackTask) -> Fields:
    """Run an attack on every view of a session.

    Returns:
        `outputs`: d_out of the first edited layer. `seen`: of each view its `label`, `note`,
        `scores`, `guesses`, `curve` and `details`; or `refused`: why the attack cannot be run, as
        its own error says.

    Raises:
        InputError: no such attack on this worker, or something in the cache is damaged.
        ModelError: the attack left the model changed.
    """
    entry = find(task.attack)
    kind = kind_of(entry.view)
    if kind is None:
        raise InputError(f"attack {task.attack}: nothing makes its views on this worker")
    again = None if task.again is None else load_session(task.again[1], task.again[0])
    session = load_session(task.path, task.session, again)
    prior = _prior(task, entry)
    before = None if prior.model is None else prior.model.weights_digest()
    outputs = session.plan.editing.layers[0].outputs
    try:
        found = [_attacked(task, entry, session, seen, prior) for seen in kind.see(session)]
    except (LackingError, NumericError) as error:
        return {"outputs": outputs, "refused": f"{type(error).__name__}: {error}"}
    if prior.model is not None and prior.model.weights_digest() != before:
        raise ModelError(f"attack {task.attack} left the model changed; report it to its author")
    return {"outputs": outputs, "seen": found}


def _attacked(
    task: AttackTask, entry: Entry, session: Session, seen: Seen, prior: Prior
) -> dict[str, Any]:
    setting, defence = session.setting, DEFENCES[session.setting.defence]
    told = defence.told(task.session.maker.defences, parties=setting.parties)
    attack = entry.create(entry_settings(entry, task.settings, told), seed=setting.seed)
    claim = attack.run(seen.view, prior if seen.turn is None else seen.turn(prior))
    truth = session.truth(len(task.keys.candidates.edits), parties=seen.parties)
    return {
        "label": seen.label,
        "note": seen.note,
        "scores": [asdict(each) for each in score(claim, truth)],
        "guesses": _guesses(task, claim, seen),
        "curve": curve_of(claim, truth),
        "details": details_of(claim),
    }


def _guesses(task: AttackTask, claim: Claim, seen: Seen) -> dict[str, Any] | None:
    """Guess which of each pair was edited, by whom the view is about; None for other claims."""
    if not isinstance(claim, Finding):
        return None
    pairs = task.keys.candidates.pairs(task.session.setting)
    found = guess(claim, [p for p in pairs if seen.parties is None or p.party in seen.parties])
    return None if found is None else asdict(found)


def entry_settings(
    entry: Entry, settings: Mapping[str, Any], told: Mapping[str, object]
) -> dict[str, object]:
    """Return the settings of an attack: the file's, and before them what the defence tells.

    Args:
        entry: the attack.
        settings: of the file.
        told: by field (`Defence.told`); only those that the attack has count.
    """
    fields = getattr(entry.make, "__dataclass_fields__", {})
    return {name: value for name, value in told.items() if name in fields} | dict(settings)


def _prior(task: AttackTask, entry: Entry) -> Prior:
    """Hand out what the entry needs, and nothing that is dear to have and not needed."""
    keys, needs = task.keys, entry.needs
    candidates = keys.candidates
    _, arrays = load_arrays(keys.path)
    return Prior(
        mapped_keys={LayerIndex(int(layer)): values for layer, values in sorted(arrays.items())},
        subjects=candidates.subjects if "subjects" in needs else (),
        prompts=candidates.prompts if "prompts" in needs else (),
        relations=candidates.relations if "prompts" in needs else (),
        objects=candidates.objects if "objects" in needs else (),
        model=keys.maker.bench.load() if "model" in needs else None,
        maps=keys.maps() if "maps" in needs else {},
        seed=task.session.setting.seed,
    )


def curve_of(claim: Claim, truth: Truth) -> list[float] | None:
    """Average the curves of a finding's rows; None for other claims."""
    if not isinstance(claim, Finding):
        return None
    rows = [each for each in rows_of(claim, truth) if 0 < each[1].sum() < truth.candidates]
    curves = [roc(scores, members, RATES) for scores, members in rows]
    return [float(value) for value in np.mean(curves, axis=0)]


def details_of(claim: Claim) -> Sequence[str]:
    """Say what each try of an attack that acts came to."""
    if not isinstance(claim, Attempts):
        return []
    return [
        f"{each.label}: {'succeeded' if each.succeeded else 'refused'}, {each.outcome}"
        for each in claim.attempts
    ]
