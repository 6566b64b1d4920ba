"""The adversary's knowledge before the session: keys of candidate subjects, from public things."""

from collections.abc import Mapping, Sequence

from collabedit.attacks.attack import Prior
from collabedit.ids import LayerIndex
from collabedit.party.editing.key_map import KeyMap
from collabedit.party.editing.keys import compute_layer_keys
from collabedit.party.editing.model import EditableModel
from collabedit.party.edits import Edit

GENERIC_PROMPT = "The mother tongue of {} is"
"""KSTER's single template (arXiv 2602.10134, `experiments/attack_kr_opt.py`)."""


def model_prior(
    model: EditableModel,
    subjects: Sequence[str],
    *,
    templates: Sequence[str],
    maps: Mapping[int, KeyMap],
    prompt: str = GENERIC_PROMPT,
) -> Prior:
    """Compute the mapped keys of candidate subjects on the unedited public model.

    Keys are nearly independent of the prompt around the subject, so a generic one serves.

    Args:
        model: the unedited model.
        subjects: candidates, in the order of the columns.
        templates: the plan's context templates, which are public.
        maps: Φ by layer, from the public covariance.
        prompt: with one `{}` for the subject.
    """
    probes = [
        Edit(case_id=str(number), prompt=prompt, subject=subject, target_new="")
        for number, subject in enumerate(subjects)
    ]
    keys = compute_layer_keys(model, probes, sorted(maps), templates)
    return Prior(
        {LayerIndex(layer): maps[layer].map_keys(keys[layer].numpy()) for layer in sorted(maps)}
    )
