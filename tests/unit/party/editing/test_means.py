import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from collabedit.errors import InputError, ModelError
from collabedit.party.editing import targets as targets_module
from collabedit.party.editing.activation_memory import PeakMemory
from collabedit.party.editing.means import MIB, Means, parse_means
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.targets import Targets, TargetSettings, compute_targets, load_targets
from collabedit.party.editing.tokens import batches_by_length
from collabedit.party.edits import Edit, edits_digest
from tests.support.tiny_models import MODEL_TYPES
from tests.unit.party.editing.conftest import LoadTiny

SETTINGS = TargetSettings(
    learning_rate=0.3, steps=5, clamp_factor=30.0, weight_decay=1e-3, stop_loss=0.0
)
SUBJECTS = ("France", "Ann Other", "Tokyo", "Rome the eternal", "Paul", "Bob")
EDITS = tuple(
    Edit(case_id=f"{number}-{subject}", prompt=prompt, subject=subject, target_new="Rome of all")
    for number, prompt in enumerate(("{} plays the", "Who was born in {}, of all?"))
    for subject in SUBJECTS
)


def compute(model: EditableModel, means: Means, edits: tuple[Edit, ...] = EDITS) -> Targets:
    return compute_targets(
        model, edits, layer=3, templates=("{}", "So it is. {}"), settings=SETTINGS, means=means
    )


def peak(model: EditableModel, means: Means) -> tuple[Tensor, int]:
    with PeakMemory() as counted:
        values = compute(model, means).values
    return values, counted.peak


def test_every_tensor_is_counted_once_while_it_lives() -> None:
    outside = torch.randn(100, 50)
    with PeakMemory() as counted:
        product = outside @ torch.ones(50, 10)
        assert (counted.current, counted.peak) == (4_000, 4_000 + 2_000)
        view = product.view(-1)[:7]
        outside.t().mul_(1)
        assert counted.current == 4_000
        del product
        assert counted.current == 4_000
        del view
        leaf = torch.zeros(1_000, requires_grad=True)
        torch.autograd.backward(leaf.exp().square().sum())
        # The leaf and its gradient are left; exp's result was there beside both for the backward.
        assert counted.current == 8_000
        assert counted.peak >= 12_000
    assert outside.numel() == 5_000


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_bound_of_memory_holds_and_changes_no_target(
    model_type: str, load_tiny: LoadTiny
) -> None:
    model = load_tiny(model_type)
    together, wanted = peak(model, Means(batch_size=len(EDITS)))
    one = peak(model, Means(batch_size=1))[1]
    assert wanted > 3 * one
    # Half the difference is room for several edits, but not for all.
    bound = (one + wanted) // 2
    values, used = peak(model, Means(batch_size=len(EDITS), memory=bound))
    assert one < used <= bound
    torch.testing.assert_close(values, together, rtol=1e-4, atol=1e-4)


def test_the_batch_follows_from_the_bound(
    model: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def noted(lengths: list[int], size: int) -> object:
        sizes.append(size)
        return batches_by_length(lengths, size)

    monkeypatch.setattr(targets_module, "batches_by_length", noted)
    one = peak(model, Means(batch_size=1))[1]
    for factor in (1.05, 3, 6, 1_000):
        compute(model, Means(batch_size=10, memory=int(factor * one)))
    assert sizes[0] == sizes[1] == 1
    assert 1 < sizes[2] < sizes[3] < sizes[4] == 10


def test_a_bound_that_one_edit_exceeds_is_refused(model: EditableModel) -> None:
    with pytest.raises(InputError, match=r"one edit's search takes \d+ MiB beside the model"):
        compute(model, Means(memory=1000))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_autocast_searches_the_same_targets_less_precisely(
    model_type: str, load_tiny: LoadTiny
) -> None:
    model = load_tiny(model_type, dtype="float32")
    plain, cast = compute(model, Means()), compute(model, Means(autocast="bfloat16"))
    start = compute_targets(
        model,
        EDITS,
        layer=3,
        templates=("{}", "So it is. {}"),
        settings=dataclasses.replace(SETTINGS, steps=1),
        means=Means(autocast="bfloat16"),
    ).values
    assert cast.values.dtype == torch.float32
    assert (plain.autocast, cast.autocast) == ("off", "bfloat16")
    assert plain.settings_digest == cast.settings_digest
    change, error = plain.values - start, cast.values - plain.values
    assert 0 < error.norm() < 0.15 * change.norm()
    # Steps are less precise, the start is not.
    torch.testing.assert_close(start, compute_start(model), rtol=0, atol=0)


def compute_start(model: EditableModel) -> Tensor:
    return compute_targets(
        model,
        EDITS,
        layer=3,
        templates=("{}", "So it is. {}"),
        settings=dataclasses.replace(SETTINGS, steps=1),
    ).values


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_autocast_is_refused_where_weights_are_not_float32(dtype: str, load_tiny: LoadTiny) -> None:
    with pytest.raises(ModelError, match=f"this one is in {dtype}"):
        compute(load_tiny("llama", dtype=dtype), Means(autocast="bfloat16"))


def test_files_say_how_targets_were_searched(load_tiny: LoadTiny, tmp_path: Path) -> None:
    made = compute(load_tiny("gpt2", dtype="float32"), Means(autocast="bfloat16"), EDITS[:2])
    path = tmp_path / "targets"
    made.save(path)
    loaded = load_targets(
        path, edits_digest=edits_digest(EDITS[:2]), settings_digest=made.settings_digest
    )
    assert loaded.autocast == "bfloat16"


def test_means_of_a_command_line() -> None:
    assert parse_means("off", None) == Means()
    assert parse_means("bfloat16", 3) == Means(memory=3 * MIB, autocast="bfloat16")
    with pytest.raises(InputError, match="--autocast float8: is not one of off, bfloat16"):
        parse_means("float8", None)
