import dataclasses
import stat
from pathlib import Path

import pytest
import torch
from torch import Tensor

from collabedit.errors import InputError, ModelError
from collabedit.party.editing.covariance import second_moments
from collabedit.party.editing.hooks import adding_to_output, capturing_output
from collabedit.party.editing.means import Means
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.targets import (
    Targets,
    TargetSettings,
    compute_targets,
    load_targets,
    settings_digest,
)
from collabedit.party.editing.tokens import subject_row, target_ids
from collabedit.party.editing.upper import UpperBlocks
from collabedit.party.edits import Edit, edits_digest

TEMPLATES = ("{}", "It is so. {}")
SETTINGS = TargetSettings(
    learning_rate=3.0, steps=12, clamp_factor=30.0, weight_decay=1e-3, stop_loss=2.45
)
LAYER = 3
TOLERANCE = {"gpt2": 1e-8, "llama": 1e-5}
"""Llama's norms round to float32 in a float64 model, too: a last bit that comes out otherwise, by
another order of sums, is one of float32 there, and Adam amplifies it."""
Edits = tuple[Edit, ...]


def naive_target(
    model: EditableModel, edit: Edit, settings: TargetSettings, least_updates: int = 0
) -> tuple[Tensor, list[float]]:
    """MEMIT's compute_z for one edit: every row by itself, whole forward passes, plain Adam."""
    target = target_ids(model, edit.target_new)
    essence = subject_row(model, dataclasses.replace(edit, prompt=settings.kl_prompt))
    prompts = [subject_row(model, edit, template=template) for template in TEMPLATES]
    block = model.block(LAYER)
    with torch.no_grad(), capturing_output(block) as captured:
        model.forward(torch.tensor([prompts[0].ids]))
    start = captured.values[0, prompts[0].subject_last]
    delta = torch.zeros_like(start, requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=settings.learning_rate)
    reference: Tensor | None = None
    losses: list[float] = []
    for step in range(settings.steps):
        optimiser.zero_grad()
        terms = []
        for prompt in prompts:
            ids = torch.tensor([[*prompt.ids, *target]])
            with adding_to_output(block, torch.tensor([prompt.subject_last]), delta[None]):
                log_p = model.hf(ids).logits[0].log_softmax(dim=-1)
            first = len(prompt.ids) - 1
            chosen = [log_p[first + offset, token] for offset, token in enumerate(target)]
            terms.append(-torch.stack(chosen).mean())
        with adding_to_output(block, torch.tensor([essence.subject_last]), delta[None]):
            logits = model.hf(torch.tensor([essence.ids])).logits[0, essence.subject_last]
        log_p = logits.log_softmax(dim=-1)
        if reference is None:
            reference = log_p.detach()
        divergence = (reference.exp() * (reference - log_p)).sum()
        loss = (
            torch.stack(terms).mean()
            + settings.kl_weight * divergence
            + settings.weight_decay * delta.norm() / start.norm() ** 2
        )
        losses.append(float(loss.detach()))
        if step == settings.steps - 1 or (step >= least_updates and loss < settings.stop_loss):
            break
        loss.backward()
        optimiser.step()
        limit = settings.clamp_factor * start.norm()
        if delta.norm() > limit:
            with torch.no_grad():
                delta.mul_(limit / delta.norm())
    return (start + delta).detach(), losses


def compute(
    model: EditableModel, edits: Edits, settings: TargetSettings = SETTINGS, batch_size: int = 8
) -> Tensor:
    return compute_targets(
        model,
        edits,
        layer=LAYER,
        templates=TEMPLATES,
        settings=settings,
        means=Means(batch_size=batch_size),
    ).values


def assert_same(model: EditableModel, found: Tensor, expected: Tensor) -> None:
    tolerance = TOLERANCE[model.architecture.model_type]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        dataclasses.replace(SETTINGS, clamp_factor=0.2),
        dataclasses.replace(SETTINGS, kl_weight=2.0, weight_decay=5.0, learning_rate=0.1),
        dataclasses.replace(SETTINGS, kl_prompt="Who is {}?", steps=3),
    ],
    ids=["usual", "clamped", "regularised", "other-prompt"],
)
def test_batched_search_equals_one_edit_at_a_time(
    model: EditableModel, edits: Edits, settings: TargetSettings
) -> None:
    naive = [naive_target(model, edit, settings) for edit in edits]
    expected = torch.stack([target for target, _ in naive], dim=1)
    assert_same(model, compute(model, edits, settings), expected)


@pytest.mark.parametrize("least_updates", [1, 3, 99])
def test_a_low_loss_ends_no_search_before_its_least_updates(
    model: EditableModel, edits: Edits, least_updates: int
) -> None:
    at_once = dataclasses.replace(SETTINGS, stop_loss=1e9)
    naive = [naive_target(model, edit, at_once, least_updates) for edit in edits]
    assert {len(losses) for _, losses in naive} == {min(least_updates + 1, SETTINGS.steps)}
    expected = torch.stack([target for target, _ in naive], dim=1)
    found = compute_targets(
        model,
        edits,
        layer=LAYER,
        templates=TEMPLATES,
        settings=at_once,
        least_updates=least_updates,
    )
    assert_same(model, found.values, expected)
    assert not torch.allclose(found.values, compute(model, edits, at_once))


def test_the_case_covers_early_and_late_stops(model: EditableModel, edits: Edits) -> None:
    losses = [naive_target(model, edit, SETTINGS)[1] for edit in edits]
    steps = {len(each) for each in losses}
    assert min(steps) < SETTINGS.steps
    assert len(steps) > 1
    assert all(min(each) < each[0] for each in losses)


def test_batch_size_and_company_do_not_matter(model: EditableModel, edits: Edits) -> None:
    reference = compute(model, edits)
    assert_same(model, compute(model, edits, batch_size=3), reference)
    for index, edit in enumerate(edits):
        alone = compute(model, (edit,))
        assert_same(model, alone[:, 0], reference[:, index])


def test_cached_prefix_equals_full_passes(
    model: EditableModel, edits: Edits, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = compute(model, edits)
    monkeypatch.setattr(UpperBlocks, "is_faithful", lambda *_: False)
    assert_same(model, compute(model, edits), cached)


def test_clamp_holds(model: EditableModel, edits: Edits) -> None:
    settings = dataclasses.replace(SETTINGS, clamp_factor=0.1, stop_loss=0.0)
    start = compute(model, edits, dataclasses.replace(SETTINGS, steps=1))
    moved = (compute(model, edits, settings) - start).norm(dim=0)
    torch.testing.assert_close(moved, 0.1 * start.norm(dim=0))


def test_the_model_then_says_the_target(model: EditableModel, edits: Edits) -> None:
    settings = dataclasses.replace(SETTINGS, steps=30, stop_loss=0.05)
    edit = edits[3]
    row, target = subject_row(model, edit), target_ids(model, edit.target_new)
    delta = compute(model, (edit,), settings) - compute(
        model, (edit,), dataclasses.replace(SETTINGS, steps=1)
    )
    ids = torch.tensor([[*row.ids, *target[:-1]]])
    position = torch.tensor([row.subject_last])
    with torch.no_grad(), adding_to_output(model.block(LAYER), position, delta.T):
        best = model.hf(ids).logits[0, len(row.ids) - 1 :].argmax(dim=-1)
    assert tuple(best.tolist()) == target


def test_nothing_is_left_behind(model: EditableModel, edits: Edits) -> None:
    before = model.weights_digest()
    compute(model, edits)
    assert model.weights_digest() == before
    assert all(parameter.grad is None for parameter in model.hf.parameters())
    with torch.no_grad():
        compute(model, edits[:1])  # an outer no_grad does not stop the search's own gradients


def test_progress_counts_edits(model: EditableModel, edits: Edits) -> None:
    seen: list[tuple[int, int]] = []
    compute_targets(
        model,
        edits,
        layer=LAYER,
        templates=TEMPLATES,
        settings=SETTINGS,
        means=Means(batch_size=2),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(done, len(edits)) for done in range(1, len(edits) + 1)]


def test_no_block_above_is_refused(model: EditableModel, edits: Edits) -> None:
    with pytest.raises(ModelError, match="no block above"):
        compute_targets(
            model, edits, layer=model.n_layers - 1, templates=TEMPLATES, settings=SETTINGS
        )


def digest(model: EditableModel, settings: TargetSettings = SETTINGS) -> str:
    return settings_digest(model, layer=LAYER, templates=TEMPLATES, settings=settings)


def test_saved_targets_are_private_and_come_back(
    model: EditableModel, edits: Edits, tmp_path: Path
) -> None:
    made = compute_targets(model, edits, layer=LAYER, templates=TEMPLATES, settings=SETTINGS)
    path = tmp_path / "targets.safetensors"
    made.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    loaded = load_targets(path, edits_digest=edits_digest(edits), settings_digest=digest(model))
    torch.testing.assert_close(loaded.values, made.values, rtol=0, atol=0)
    assert loaded.values.dtype == torch.float64
    assert "values" not in repr(made)


def test_targets_of_other_edits_or_settings_are_refused(
    model: EditableModel, edits: Edits, tmp_path: Path
) -> None:
    path = tmp_path / "targets.safetensors"
    values = torch.zeros(model.d_model, len(edits))
    Targets(values, edits_digest(edits), digest(model)).save(path)
    with pytest.raises(InputError, match="other edits"):
        load_targets(path, edits_digest=edits_digest(edits[:1]), settings_digest=digest(model))
    other = digest(model, dataclasses.replace(SETTINGS, steps=13))
    with pytest.raises(InputError, match="another model, layer, templates or settings"):
        load_targets(path, edits_digest=edits_digest(edits), settings_digest=other)


def test_other_files_are_refused(model: EditableModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_targets(tmp_path / "none", edits_digest="", settings_digest="")
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        load_targets(tmp_path / "junk", edits_digest="", settings_digest="")
    windows = torch.arange(20).view(2, 10)
    second_moments(model, windows, (1,), provenance={}).save(tmp_path / "covariance")
    with pytest.raises(InputError, match="is no targets file"):
        load_targets(tmp_path / "covariance", edits_digest="", settings_digest="")
