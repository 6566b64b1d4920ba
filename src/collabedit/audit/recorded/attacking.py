"""One attack on recordings of a session: its view and prior in, figures out. Runs in a worker.

As in `audit.attacking`, the truth goes to scoring alone, and only figures are kept. What depends on
edits that nobody gave is not scored at all.
"""

import functools
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from collabedit.attacks.attack import Finding, Prior
from collabedit.attacks.claims import (
    Claim,
    Estimates,
    LackingError,
    Names,
    Rankings,
    Recovery,
)
from collabedit.attacks.grey_box import GreyBoxView
from collabedit.attacks.prior import model_prior
from collabedit.attacks.registry import Entry, find
from collabedit.attacks.scoring import pool, score
from collabedit.attacks.truth import Truth
from collabedit.audit.attacking import curve_of, details_of, entry_settings
from collabedit.audit.keeping import load_arrays, save_arrays
from collabedit.audit.recorded.defence import told
from collabedit.audit.recorded.sessions import RecordedSession, open_sessions
from collabedit.audit.recorded.truth import Known
from collabedit.audit.recorded.views import KINDS, Evidence
from collabedit.audit.schema import PriorName, Scope
from collabedit.audit.views import Seen
from collabedit.errors import InputError, ModelError, NumericError
from collabedit.grid import Fields
from collabedit.ids import LayerIndex
from collabedit.party.editing.editor import key_maps, load_plan_covariance, load_plan_model
from collabedit.party.editing.key_map import KeyMap
from collabedit.party.editing.keys import compute_layer_keys
from collabedit.party.editing.model import EditableModel
from collabedit.plan import Plan
from collabedit.recording import Recording
from collabedit.sketch import Matrix

_OWN_KEYS = "members"


@dataclass(frozen=True, slots=True)
class Source:
    """Where everything is; every worker sees the same files.

    Attributes:
        recordings: of one session, or of two.
        model: directory of the checkpoint, before any session.
        previous: updates of the sessions in the plan's history, oldest first.
        covariance: the plan's, None for an editor without one.
        device: as `load_model` takes it.
    """

    recordings: tuple[Path, ...]
    model: Path
    previous: tuple[Path, ...]
    covariance: Path | None
    device: str

    def plan(self) -> Plan:
        """Read the plan out of the first recording."""
        with Recording(self.recordings[0]) as recording:
            return recording.plan

    def load(self) -> EditableModel:
        """Return this process's copy of the plan's model.

        Raises:
            ModelError: it is not the plan's.
            InputError: its history is not.
        """
        return _model(self)

    def maps(self) -> dict[int, KeyMap]:
        """Make Φ of all layers.

        Raises:
            InputError: the covariance is not the plan's.
            PlanError: it does not give what the plan has.
        """
        plan = self.plan()
        return key_maps(plan, load_plan_covariance(plan, self.covariance))


@functools.lru_cache(maxsize=1)
def _model(source: Source) -> EditableModel:
    return load_plan_model(
        source.plan(), source.model, device=source.device, previous=source.previous
    )


@dataclass(frozen=True, slots=True)
class KeysTask:
    """The candidates' keys, as an adversary computes them, and the members' own.

    Attributes:
        source: of model and covariance.
        known: candidates, and who is a member.
        prior: with the records' own prompts, or with one for all.
        scope: of which layers.
        path: where they are kept.
    """

    source: Source
    known: Known
    prior: PriorName
    scope: Scope
    path: Path

    def maps(self) -> dict[int, KeyMap]:
        """Make Φ of the layers."""
        maps = self.source.maps()
        return maps if self.scope == "all" else {min(maps): maps[min(maps)]}

    def mapped(self) -> dict[LayerIndex, Matrix]:
        """Read the candidates' mapped keys, as the adversary has them, [d', candidates] each."""
        _, arrays = load_arrays(self.path)
        layers = sorted(int(name) for name in arrays if name != _OWN_KEYS)
        return {LayerIndex(layer): arrays[str(layer)] for layer in layers}

    def members(self) -> Matrix:
        """Read the members' mapped keys at the first edited layer, [d', members]."""
        found: Matrix = load_arrays(self.path)[1][_OWN_KEYS]
        return found


def prepare_keys(task: KeysTask) -> Fields:
    """Put mapped keys into the cache: of candidates by layer, and of members as they are edited."""
    if task.path.exists():
        return {}
    plan, model, maps = task.source.plan(), task.source.load(), task.maps()
    templates, candidates = plan.editing.context_templates, task.known.candidates
    if task.prior == "exact":
        keys = compute_layer_keys(model, candidates.edits, sorted(maps), templates)
        mapped = {layer: maps[layer].map_keys(keys[layer].numpy()) for layer in maps}
        first = mapped[min(maps)][:, list(task.known.member_numbers)]
    else:
        found = model_prior(model, candidates.subjects, templates=templates, maps=maps)
        mapped = {int(layer): values for layer, values in found.mapped_keys.items()}
        own = [candidates.edits[number] for number in task.known.member_numbers]
        keys = compute_layer_keys(model, own, [min(maps)], templates)
        first = maps[min(maps)].map_keys(keys[min(maps)].numpy())
    arrays = {str(layer): values for layer, values in mapped.items()}
    save_arrays(task.path, {}, {**arrays, _OWN_KEYS: first})
    return {}


@dataclass(frozen=True, slots=True)
class RecordedTask:
    """One attack on recordings, as it travels to a worker.

    Attributes:
        attack: name.
        keys: what the adversary knows of candidates, and where everything is.
        seed: of what the attack draws.
    """

    attack: str
    keys: KeysTask = field(repr=False)
    seed: int = 0


def attack_recordings(task: RecordedTask) -> Fields:
    """Run an attack on every view that recordings give.

    Returns:
        `outputs`: d_out of the first edited layer. `seen`: of each view its `label`, `note`,
        `scores`, `curve` and `details`; or `unscored`: why files that were not given keep it from
        being scored; or `refused`: why the attack cannot be run, as its own error says.

    Raises:
        InputError: no such attack on this worker, or a file was damaged meanwhile.
        ModelError: the attack left the model changed.
    """
    entry, source = find(task.attack), task.keys.source
    kind = KINDS.get(entry.view)
    if kind is None:
        raise InputError(f"attack {task.attack}: nothing makes its views on this worker")
    prior = _prior(task, entry)
    model = source.load() if entry.view is GreyBoxView or prior.model is not None else None
    before = None if model is None else model.weights_digest()
    with open_sessions(source.recordings) as (session, *rest):
        evidence = Evidence(session, rest[0] if rest else None, source.load, source.maps)
        outputs = session.plan.editing.layers[0].outputs
        try:
            found = [_attacked(task, entry, session, seen, prior) for seen in kind.see(evidence)]
        except _UnscoredError as error:
            return {"outputs": outputs, "unscored": str(error)}
        except (LackingError, NumericError) as error:
            return {"outputs": outputs, "refused": f"{type(error).__name__}: {error}"}
    if model is not None and model.weights_digest() != before:
        raise ModelError(f"attack {task.attack} left the model changed; report it to its author")
    return {"outputs": outputs, "seen": found}


def _attacked(
    task: RecordedTask, entry: Entry, session: RecordedSession, seen: Seen, prior: Prior
) -> dict[str, Any]:
    plan, known = session.plan, task.keys.known
    settings = entry_settings(entry, {}, told(plan, parties=len(session.summed)))
    attack = entry.create(settings, seed=task.seed)
    claim = attack.run(seen.view, prior if seen.turn is None else seen.turn(prior))
    truth = known.truth(plan, task.keys.members(), parties=seen.parties)
    asked = session.summed if seen.parties is None else seen.parties
    why = unscored(claim, truth, [plan.party_name(p) for p in sorted(known.unknown & asked)])
    if why is not None:
        raise _UnscoredError(why)
    return {
        "label": seen.label,
        "note": seen.note,
        # Without what intervals are made of: who was edited, by number, stays in this process.
        "scores": [asdict(replace(pool([each]), sample=None)) for each in score(claim, truth)],
        "curve": curve_of(claim, truth),
        "details": details_of(claim),
    }


class _UnscoredError(Exception):
    """Nobody can say whether the claim is right."""


def unscored(claim: Claim, truth: Truth, unknown: list[str]) -> str | None:
    """Say why a claim cannot be held against what is known; None if it can.

    Args:
        claim: of the attack.
        truth: with no members for parties whose files were not given.
        unknown: names of those parties.
    """
    files = f"the edits of {', '.join(unknown)} were not given"
    match claim:
        case Finding() if unknown and None in claim.about:
            return f"it is about the edits of all parties, and {files}"
        case Finding() if not any(
            truth.members if party is None else truth.members.get(party) for party in claim.about
        ):
            return f"it is about parties of which nothing is known: {files}"
        case Names() if unknown:
            return f"whoever it names may be right: {files}"
        case Names() | Rankings() if not truth.facts:
            return "no edit of its parties is known"
        case Recovery() if claim.what not in truth.vectors:
            return f"files of edits say nothing of {claim.what}: these follow from parties' targets"
        case Estimates() if not claim.values.keys() & truth.quantities.keys():
            return (
                f"these numbers are not known: {files}"
                if unknown
                else "these numbers are not known"
            )
    return None


def _prior(task: RecordedTask, entry: Entry) -> Prior:
    """Hand out what the entry needs, and nothing that is dear to have and not needed."""
    keys, needs = task.keys, entry.needs
    candidates = keys.known.candidates
    return Prior(
        mapped_keys=keys.mapped(),
        subjects=candidates.subjects if "subjects" in needs else (),
        prompts=candidates.prompts if "prompts" in needs else (),
        objects=candidates.objects if "objects" in needs else (),
        model=keys.source.load() if "model" in needs else None,
        maps=keys.maps() if "maps" in needs else {},
        seed=task.seed,
    )
