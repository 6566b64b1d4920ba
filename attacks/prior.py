"""The adversary's knowledge before the session: keys of candidate subjects, from public things."""

from collections.abc import Mapping, Sequence

from collabedit.attacks.attack import GENERIC_PROMPT, Prior
from collabedit.attacks.views import RecipientView
from collabedit.ids import LayerIndex
from collabedit.party.editing.corpus import token_windows
from collabedit.party.editing.covariance import second_moments
from collabedit.party.editing.key_map import KeyMap
from collabedit.party.editing.keys import compute_layer_keys
from collabedit.party.editing.model import EditableModel
from collabedit.party.edits import Edit
from collabedit.sketch import LowRankUpdate

__all__ = ["GENERIC_PROMPT", "estimated_maps", "model_prior", "reexpressed"]


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


def estimated_maps(
    model: EditableModel,
    layers: Sequence[int],
    *,
    text: str,
    weight: float,
    tokens: int,
    window: int = 128,
) -> dict[int, KeyMap]:
    """Make Φ of MEMIT or EMMET from a text of the adversary's own.

    Who has no access to the plan's covariance estimates it: KSTER (arXiv 2602.10134) finds that 100
    samples of any general text serve. With fewer tokens than a key has numbers the estimate is
    singular, and `KeyMap.from_covariance` adds a ridge.

    Args:
        model: unedited.
        layers: whose keys.
        text: general, in the language of the edits.
        weight: λ, the plan's `covariance_weight`. Scores of spans do not depend on it.
        tokens: how many of the text are read, rounded down to whole windows.
        window: tokens that are read together.

    Raises:
        InputError: the text has no tokens.
        NumericError: so few tokens that no ridge helps.
    """
    windows = token_windows(model, text, window=window, max_tokens=tokens)
    found = second_moments(model, windows, layers, provenance={})
    return {
        layer: KeyMap.from_covariance(found.matrices[layer], weight) for layer in sorted(layers)
    }


def reexpressed(
    view: RecipientView, *, maps: Mapping[int, KeyMap], own: Mapping[int, KeyMap]
) -> RecipientView:
    """Put a released update into the mapped coordinates of another Φ.

    A recipient has ΔW in the model's coordinates, whatever covariance made it. Whoever maps keys
    with an estimate looks at ΔW Φ'⁻¹ beside them.

    Args:
        view: in the plan's coordinates.
        maps: Φ of the plan, by layer.
        own: Φ' of the adversary; layers that it has none of are left out.
    """
    updates = {
        layer: LowRankUpdate(
            update.left, own[layer].remap_rows(maps[layer].unmap_rows(update.right))
        )
        for layer, update in view.updates.items()
        if layer in own
    }
    return RecipientView(view.plan, updates)
