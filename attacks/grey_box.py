"""Grey box: what the answers alone give away, for whoever may ask the model before and after.

KSTER's baseline (arXiv 2602.10134, section 6): no weights, only the distributions of the next
token. An edit moves the answers about its subject, also to prompts that it is not about, so a
candidate is scored by the Jensen-Shannon divergence of the answers to a generic prompt about it;
with several prompts, by the mean. Departs from the paper in nothing that its text states. Each
prompt costs two queries for a candidate.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from collabedit.attacks.attack import GENERIC_PROMPT, Finding, Prior
from collabedit.attacks.claims import LackingError
from collabedit.attacks.registry import Entry
from collabedit.attacks.views import RecipientView
from collabedit.party.edits import SLOT
from collabedit.plan import Plan
from collabedit.threat_model import Adversary

if TYPE_CHECKING:
    from collabedit.party.editing.key_map import KeyMap
    from collabedit.party.editing.model import EditableModel

LogProbabilities: TypeAlias = NDArray[np.float32]
"""Of the next token, [prompts, vocabulary], natural."""

Ask: TypeAlias = Callable[[Sequence[str]], LogProbabilities]
"""What a model says next to complete prompts."""

PROMPTS = (GENERIC_PROMPT,)
"""A second one, such as `{} is`, is a second reading at twice the queries."""

_AT_ONCE = 64
"""Candidates between two changes from one model to the other: an answer of 50,000 tokens has 200
kilobytes."""


@dataclass(frozen=True, slots=True)
class GreyBoxView:
    """Who may ask the model before and after, and sees no weight of it (`Adversary.RECIPIENT`).

    Attributes:
        plan: public.
        before: asks the unedited model.
        after: asks the edited one.
    """

    plan: Plan
    before: Ask = field(repr=False)
    after: Ask = field(repr=False)

    @classmethod
    def of(
        cls, view: RecipientView, *, model: "EditableModel", maps: "Mapping[int, KeyMap]"
    ) -> Self:
        """Put a model and a released update behind two counters.

        Args:
            view: with the update.
            model: unedited; edited only while `after` runs.
            maps: Φ by layer, for the update is in mapped coordinates.
        """
        # torch is imported slowly, and lists of attacks do without.
        from collabedit.attacks import asking  # noqa: PLC0415

        def before(prompts: Sequence[str]) -> LogProbabilities:
            rows = [asking.plain(model, prompt) for prompt in prompts]
            found: LogProbabilities = asking.all_answers(model, rows).numpy()
            return found

        def after(prompts: Sequence[str]) -> LogProbabilities:
            with asking.edited(model, view.updates, maps):
                return before(prompts)

        return cls(view.plan, before, after)


@dataclass(frozen=True, slots=True)
class GreyBox:
    """Membership by how far answers moved.

    Attributes:
        prompts: with one `{}` each.
    """

    prompts: tuple[str, ...] = PROMPTS
    name: str = "grey-box"
    adversary: Adversary = Adversary.RECIPIENT

    def __post_init__(self) -> None:
        if not self.prompts or any(prompt.count(SLOT) != 1 for prompt in self.prompts):
            raise ValueError(f"each generic prompt holds {SLOT} exactly once")

    def run(self, view: GreyBoxView, prior: Prior) -> Finding:
        """Score the candidates: one row, about nobody.

        Raises:
            LackingError: the prior has no subjects.
        """
        # As in `GreyBoxView.of`.
        import torch  # noqa: PLC0415

        from collabedit.attacks import asking  # noqa: PLC0415

        if not prior.subjects:
            raise LackingError("the attack asks about candidates, and the prior has no subjects")
        scores = np.zeros(len(prior.subjects))
        for start in range(0, len(scores), _AT_ONCE):
            some = prior.subjects[start : start + _AT_ONCE]
            asked = [prompt.replace(SLOT, subject) for subject in some for prompt in self.prompts]
            before, after = (torch.from_numpy(ask(asked)) for ask in (view.before, view.after))
            moved = asking.jensen_shannon(before, after).numpy()
            scores[start : start + len(some)] = moved.reshape(len(some), -1).mean(axis=1)
        return Finding(self.name, (None,), scores[None])


ENTRY = Entry(
    name="grey-box",
    asks="Which candidates were edited, by the model's answers before and after alone?",
    adversary=Adversary.RECIPIENT,
    view=GreyBoxView,
    make=GreyBox,
    source="KSTER, arXiv 2602.10134, its grey-box baseline",
    departs="with several generic prompts the mean over them, if so set",
    headline="auc",
    needs=("subjects",),
    first_layer_only=False,
)
