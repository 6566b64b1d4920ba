"""Under `torchrun`, or alone: what each rank gets of one party's edits, in OUT.RANK.npz.

rank_statistics.py PLAN MODEL COVARIANCE EDITS TRUE_FACTS OUT
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch

from collabedit.cli.ranks import as_one_of_several, use_ranks
from collabedit.crypto.rng import SystemRandomness
from collabedit.party.editing.editor import (
    ModelEditor,
    edited_layers,
    key_maps,
    load_plan_covariance,
    load_plan_model,
    target_settings,
)
from collabedit.party.editing.ranks import Ranks
from collabedit.party.editing.reassertion import (
    Search,
    Wish,
    make_reassertions,
    residual_lengths,
)
from collabedit.party.editing.selection import distances
from collabedit.party.editing.targets import compute_targets, load_targets
from collabedit.party.edits import load_edits, load_true_facts
from collabedit.plan import load_plan


def compute(ranks: Ranks, paths: list[Path]) -> None:
    plan_file, directory, covariance, edits_file, facts_file, out = paths
    plan = load_plan(plan_file)
    edits = load_edits(edits_file)
    model = load_plan_model(plan, directory, device="cpu")
    layers, editing = edited_layers(plan.editing), plan.editing
    templates, settings = tuple(editing.context_templates), target_settings(editing)
    targets = compute_targets(
        model, edits, layer=layers[-1], templates=templates, settings=settings, ranks=ranks
    )
    maps = key_maps(plan, load_plan_covariance(plan, covariance))
    # Batches of two, so that there is something to share out.
    editor = ModelEditor(plan, model, edits, targets, maps, batch_size=2, ranks=ranks)
    found = {"targets": targets.values.numpy()}
    for layer, (keys, wanted) in zip(layers, editor.statistics(editing.layers), strict=True):
        found[f"keys-{layer}"], found[f"residuals-{layer}"] = keys, wanted
    away = distances(model, edits, targets, layers[-1], ranks=ranks)
    found["distances"] = away.numpy()
    kept = out.with_suffix(".targets")
    if ranks.is_first:
        targets.save(kept)
    told = load_targets(
        kept,
        edits_digest=targets.edits_digest,
        settings_digest=targets.settings_digest,
        ranks=ranks,
    )
    assert torch.equal(told.values, targets.values)
    made = make_reassertions(
        Search(model, layers[-1], templates, settings, ranks=ranks),
        Wish(facts_file, load_true_facts(facts_file), 3, edits),
        residual_lengths(model, edits, targets, layers[-1]),
        out.with_suffix(".reassertions"),
        SystemRandomness(),
    )
    ranks.agree("choice of facts", " ".join(fact.case_id for fact in made.facts))
    found["facts"] = np.array(len(made.facts))
    np.savez(out.with_suffix(f".{ranks.rank}.npz"), allow_pickle=False, **found)
    ranks.finish()


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with as_one_of_several():
        compute(use_ranks("cpu")[0], [Path(argument) for argument in sys.argv[1:]])
        sys.exit(0)
