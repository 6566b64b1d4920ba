"""Secure aggregation for collaborative knowledge editing of language models.

The names below are the public interface (docs/api.md, docs/versioning.md): what is not listed may
change in any version. They are imported when they are first used, so that an aggregator needs no
torch and `import collabedit` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collabedit.api.aggregator import Aggregator as Aggregator
    from collabedit.api.aggregator import Served as Served
    from collabedit.api.credentials import Credentials as Credentials
    from collabedit.api.federation import Federation as Federation
    from collabedit.api.joining import Joined as Joined
    from collabedit.api.joining import JoinOptions as JoinOptions
    from collabedit.api.party import Party as Party
    from collabedit.api.proposing import PlanOptions as PlanOptions
    from collabedit.api.reporting import Reporter as Reporter
    from collabedit.api.simulating import Simulated as Simulated
    from collabedit.api.simulating import simulate as simulate
    from collabedit.errors import CollabEditError as CollabEditError
    from collabedit.errors import InputError as InputError
    from collabedit.errors import SessionAbortedError as SessionAbortedError
    from collabedit.party.editing.means import Means as Means
    from collabedit.party.editing.model import EditableModel as EditableModel
    from collabedit.party.editing.model import load_model as load_model
    from collabedit.party.edits import Edit as Edit
    from collabedit.party.edits import load_edits as load_edits
    from collabedit.plan import Plan as Plan
    from collabedit.plan import format_digest as format_digest
    from collabedit.plan import load_plan as load_plan
    from collabedit.simulation import Faults as Faults
    from collabedit.sketch import LowRankUpdate as LowRankUpdate

__version__ = "0.1.0"

_PLACES = {
    "Aggregator": "api.aggregator",
    "CollabEditError": "errors",
    "Credentials": "api.credentials",
    "Edit": "party.edits",
    "EditableModel": "party.editing.model",
    "Faults": "simulation",
    "Federation": "api.federation",
    "InputError": "errors",
    "JoinOptions": "api.joining",
    "Joined": "api.joining",
    "LowRankUpdate": "sketch",
    "Means": "party.editing.means",
    "Party": "api.party",
    "Plan": "plan",
    "PlanOptions": "api.proposing",
    "Reporter": "api.reporting",
    "Served": "api.aggregator",
    "SessionAbortedError": "errors",
    "Simulated": "api.simulating",
    "format_digest": "plan",
    "load_edits": "party.edits",
    "load_model": "party.editing.model",
    "load_plan": "plan",
    "simulate": "api.simulating",
}

__all__ = [
    "Aggregator",
    "CollabEditError",
    "Credentials",
    "Edit",
    "EditableModel",
    "Faults",
    "Federation",
    "InputError",
    "JoinOptions",
    "Joined",
    "LowRankUpdate",
    "Means",
    "Party",
    "Plan",
    "PlanOptions",
    "Reporter",
    "Served",
    "SessionAbortedError",
    "Simulated",
    "__version__",
    "format_digest",
    "load_edits",
    "load_model",
    "load_plan",
    "simulate",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401  # any of the names above
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{place}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
