"""What a defence leaves of the effect of edits: metrics of experiments, on sessions of an audit."""

from dataclasses import dataclass
from pathlib import Path

from collabedit.audit.keeping import load_session
from collabedit.audit.sessions import SessionTask, propose
from collabedit.errors import ModelError
from collabedit.experiments.measuring import outcomes_of
from collabedit.grid import Fields
from collabedit.party.editing.apply import applied
from collabedit.party.editing.editor import key_maps
from collabedit.party.editing.measures import figures
from collabedit.sketch import LowRankUpdate

METRICS = ("efficacy", "paraphrase", "neighborhood")


@dataclass(frozen=True, slots=True)
class UtilityTask:
    """A session of all layers, and where it is kept."""

    session: SessionTask
    path: Path


def measure_utility(task: UtilityTask) -> Fields:
    """Measure the model with the update that the session published.

    Returns:
        For each of `METRICS` its `value` in percent and `interval`, both None where the data has
        nothing to measure it on.

    Raises:
        ModelError: the model was not restored.
    """
    maker = task.session.maker
    model = maker.bench.load()
    before = model.weights_digest()
    covariance = maker.bench.second_moments(maker.editor)
    maps = key_maps(propose(task.session, model, covariance), covariance)
    session = load_session(task.path, task.session)
    own = {
        int(layer): LowRankUpdate(update.left, maps[layer].unmap_rows(update.right))
        for layer, update in session.released.items()
    }
    with applied(model, own):
        found = figures(outcomes_of(model, list(task.session.edits.values())))
    if model.weights_digest() != before:
        raise ModelError("an audit left the model edited; this is a bug, please report it")
    return {
        name: {"value": found[name].value, "interval": found[name].interval} for name in METRICS
    }
