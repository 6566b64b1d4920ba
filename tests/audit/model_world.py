"""What `model_attacks_table` attacks: one session's edits as each adversary sees them.

Real edits on the demo's model, in all of its layers for a recipient and in the first one for the
aggregator, and everything that an adversary brings along: the public model, Φ, candidates, prompts
and objects.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from collabedit.attacks.attack import Prior
from collabedit.attacks.grey_box import GreyBoxView
from collabedit.attacks.truth import Fact, Truth
from collabedit.attacks.views import AggregatorView, RecipientView
from collabedit.experiments.cache import Cache
from collabedit.party.editing.editor import edited_layers, target_settings
from collabedit.party.editing.schedule import residuals
from collabedit.party.edits import Edit
from collabedit.sketch import LowRankUpdate
from tests.audit import camouflage_world, closed_world
from tests.audit.closed_world import Defence, deal

PARTIES = 3


@dataclass(frozen=True, slots=True)
class Scene:
    """One session.

    Attributes:
        prior: of every adversary.
        truth: of the session.
        recipient: the released update.
        grey_box: the model before and after, to be asked.
        aggregators: by defence.
    """

    prior: Prior = field(repr=False)
    truth: Truth = field(repr=False)
    recipient: RecipientView = field(repr=False)
    grey_box: GreyBoxView = field(repr=False)
    aggregators: dict[Defence, AggregatorView] = field(repr=False)


def load_scene(
    edits: Sequence[Edit],
    *,
    edited: int,
    templates: int,
    cache: Path,
    report: Callable[[str], None],
    seed: int = 0,
) -> Scene:
    """Edit the first records and lay out what is seen of it.

    Args:
        edits: candidates, each of another subject.
        edited: how many of them, from the front.
        templates: prompts that the adversary chooses among: those of the edits, and further ones of
            the candidates, in an order that says nothing.
        cache: the demo's.
        report: told what is done next.
        seed: of bases and of the order of prompts.
    """
    world = camouflage_world.load_world(
        edits, name="", cache=cache, counts=(edited,), report=report
    )
    _, _, pieces = closed_world.load_demo(cache, report)
    return scene_of(world, pieces, edited=edited, templates=templates, seed=seed)


def scene_of(
    world: camouflage_world.World,
    pieces: Cache,
    *,
    edited: int,
    templates: int,
    seed: int,
    exact: bool = False,
) -> Scene:
    """Lay out what is seen of a session on any model.

    Args:
        world: candidates, of which the first ones are edited.
        pieces: has targets.
        edited: how many.
        templates: as in `load_scene`.
        seed: as there.
        exact: whether the adversary has the candidates' very keys: those of a random model depend
            on the prompt far more than a trained one's.
    """
    edits, plan, model, first = world.edits, world.plan, world.model, world.layer
    updates = {
        layer: LowRankUpdate(update.left, world.maps[layer].remap_rows(update.right))
        for layer, update in world.updates[edited].items()
    }
    recipient = RecipientView(plan, updates)
    prior = prior_of(world, edited=edited, templates=templates, seed=seed, exact=exact)
    layers = edited_layers(plan.editing)
    targets = pieces.targets(
        model,
        edits[:edited],
        layer=layers[-1],
        templates=plan.editing.context_templates,
        settings=target_settings(plan.editing),
    )
    wanted = residuals(
        model, edits[:edited], targets, layers[0], layers=layers, schedule=plan.editing.schedule
    ).numpy()
    # Sums are of the first layer alone; how many layers share a residual, the plan says to all.
    sums = closed_world.World(plan, world.priors, wanted, "")
    shares = deal(np.arange(edited), PARTIES)
    rng = np.random.default_rng(seed)
    names: tuple[Defence, ...] = ("uploads", "sum", "basis")
    views = {
        name: closed_world.view_of(sums, shares, defence=name, covers=0, rng=rng) for name in names
    }
    truth = Truth(
        candidates=len(edits),
        members={
            party: tuple(int(number) for number in share)
            for party, share in zip(views["sum"].plan.party_ids, shares, strict=True)
        },
        facts={
            number: Fact(edit.subject, edit.prompt, edit.target_new, edit.target_true or "")
            for number, edit in enumerate(edits[:edited])
        },
        vectors={
            "keys": world.priors["exact"].mapped_keys[first][:, :edited],
            "residuals": wanted,
        },
    )
    return Scene(
        prior, truth, recipient, GreyBoxView.of(recipient, model=model, maps=world.maps), views
    )


def prior_of(
    world: camouflage_world.World, *, edited: int, templates: int, seed: int, exact: bool
) -> Prior:
    """Put together what the adversary knows: subjects, not records, unless keys are exact."""
    edits = world.edits
    used = list(dict.fromkeys(edit.prompt for edit in edits[:edited]))
    others = [p for p in dict.fromkeys(edit.prompt for edit in edits) if p not in used]
    prompts = (used + others)[: max(templates, len(used))]
    order = np.random.default_rng(seed).permutation(len(prompts))
    return replace(
        world.priors["exact" if exact else "generic"],
        subjects=tuple(edit.subject for edit in edits),
        prompts=tuple(prompts[place] for place in order),
        objects=tuple(sorted({edit.target_new for edit in edits})),
        model=world.model,
        maps=world.maps,
        seed=seed,
    )
