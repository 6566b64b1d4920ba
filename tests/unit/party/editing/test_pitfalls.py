"""What other editors got wrong, by name.

| pitfall | where it happened | test |
|---|---|---|
| a BOS token inside the target | EasyEdit#247 | test_no_bos_token_is_in_a_target |
| a slow tokenizer drops the leading blank | EasyEdit#390 | test_a_slow_tokenizer_is_refused, \
test_target_under_a_tokenizer_that_marks_word_starts |
| subject's place by counting tokens of pieces | rome/repr_tools.py | \
test_subject_ends_where_it_ends, test_a_token_that_goes_on_behind_the_subject_counts |
| padding on a side that positions don't expect | EasyEdit editor.py | \
test_a_checkpoint_that_pads_left_is_read_padding_right, test_right_padding_changes_nothing |
| blocks that return a tuple, or none | EasyEdit#637 | test_tuple_outputs_keep_their_rest, \
test_captured_outputs_are_hidden_states |
| ΔW rounded to half precision before it is added | EasyEdit memit_main.py | \
test_half_precision_gets_the_rounded_exact_sum, test_a_small_update_is_not_rounded_away_first |
| tied embeddings: head changed or saved apart | | test_tied_embeddings_stay_tied_and_untouched |
| context length of 131,072 for the covariance | EasyEdit layer_stats.py | \
test_the_context_length_is_capped |
| names of GPT-2's configuration elsewhere | EasyEdit compute_z | \
test_sizes_come_from_every_kind_of_configuration |
| singular or ill-conditioned C | kmeng01/memit#12 | \
test_a_singular_covariance_gets_the_smallest_ridge_and_says_so, test_no_covariance_is_refused, \
test_a_model_with_dead_keys_is_still_edited |
| float16 statistics | EasyEdit#291, #436 | test_half_precision_statistics_are_refused, \
test_keys_of_a_half_precision_model_are_summed_in_float64 |
| float32 accumulation | chrishayuk/larql#339 | test_float32_keys_are_accumulated_in_float64 |
| a sum taken for an average | AlphaEdit#12 | test_twice_the_same_text_is_the_same_second_moment, \
test_second_moments_equal_one_token_at_a_time |
| C of another checkpoint | EasyEdit#403, AlphaEdit#28 | \
test_a_covariance_of_another_checkpoint_is_refused, \
test_no_plan_is_made_from_the_covariance_of_other_weights |
| averaged and single keys in one formula | kmeng01/rome#44 | test_keys_equal_one_prompt_at_a_time |
| templates sampled apart by each party | CollabEdit | \
test_targets_of_other_edits_or_settings_are_refused |
| divided by L - i without editing in between | CollabEdit | \
test_residuals_share_out_what_is_missing |
"""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from collabedit.errors import InputError, ModelError
from collabedit.party.editing.apply import applied, apply_update
from collabedit.party.editing.artefacts import save_tensors
from collabedit.party.editing.covariance import Covariance, load_covariance, second_moments
from collabedit.party.editing.gathering import gather_covariance
from collabedit.party.editing.key_map import KeyMap
from collabedit.party.editing.keys import compute_keys
from collabedit.party.editing.model import EditableModel, load_model, save_checkpoint
from collabedit.party.editing.tokens import target_ids
from collabedit.party.edits import Edit
from collabedit.sketch import LowRankUpdate
from tests.support.tiny_models import BLOCKS, CHECKPOINTS, CONTEXT, D_IN, D_MODEL, MODEL_TYPES
from tests.unit.party.editing.conftest import LoadTiny

TESTS = Path(__file__).parent


def windows(count: int = 30) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(2, 290, (count, 12), generator=generator)


def rewrite_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def copied(tiny_directory: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_directory("llama"), tmp_path / "copy"))


def test_the_table_above_names_tests_that_exist() -> None:
    named = set(re.findall(r"\btest_\w+", __doc__ or ""))
    defined = {
        name
        for path in TESTS.glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), flags=re.MULTILINE)
    }
    assert len(named) > 20
    assert named <= defined


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_no_bos_token_is_in_a_target(model_type: str, load_tiny: LoadTiny) -> None:
    model = load_tiny(model_type)
    for target in ("Paris", "the piano of Zed", "Łódź"):
        ids = target_ids(model, target)
        assert not set(ids) & set(model.tokenizer.all_special_ids)
        assert model.tokenizer.decode(ids) == f" {target}"


def test_a_slow_tokenizer_is_refused(copied: Path) -> None:
    for path in copied.glob("tokenizer*"):
        path.unlink()
    # A class that transformers has in Python only.
    (copied / "tokenizer_config.json").write_text('{"tokenizer_class": "CanineTokenizer"}')
    with pytest.raises(ModelError, match=r"tokenizer: only a slow one"):
        load_model(copied)


def test_a_checkpoint_that_pads_left_is_read_padding_right(
    copied: Path, load_tiny: LoadTiny, edits: tuple[Edit, ...]
) -> None:
    rewrite_json(copied / "tokenizer_config.json", padding_side="left", pad_token="</s>")
    model = load_model(copied, dtype="float64")
    assert model.tokenizer.padding_side == "right"
    keys = compute_keys(model, edits, 2, ("{}",))
    torch.testing.assert_close(
        keys, compute_keys(load_tiny("llama"), edits, 2, ("{}",)), rtol=0, atol=0
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_small_update_is_not_rounded_away_first(dtype: str, load_tiny: LoadTiny) -> None:
    # Half a unit in the last place and a little more: rounded to half precision on its own the
    # change is exactly half a unit, and ties go to the even neighbour, back to where it was.
    model = load_tiny("llama", dtype)
    half = torch.finfo(model.dtype).eps / 2
    with torch.no_grad():
        model.weight(2).fill_(1.0)
    change = half * (1 + torch.finfo(model.dtype).eps / 4)
    assert 1.0 + torch.tensor(change, dtype=model.dtype) == 1.0
    left = np.full((D_MODEL, 1), change)
    apply_update(model, 2, LowRankUpdate(left, np.ones((1, D_IN))))
    assert model.weight(2).eq(1.0 + 2 * half).all()


@pytest.mark.parametrize("checkpoint", ["gpt2", "gemma", "llama-3", "qwen2.5"])
def test_tied_embeddings_stay_tied_and_untouched(
    checkpoint: str, load_tiny: LoadTiny, tmp_path: Path
) -> None:
    model = load_tiny(checkpoint)
    head = model.hf.get_output_embeddings().weight
    assert head is model.hf.get_input_embeddings().weight
    before = head.detach().clone()
    generator = np.random.default_rng(1)
    update = LowRankUpdate(generator.normal(size=(D_MODEL, 2)), generator.normal(size=(2, D_IN)))
    with applied(model, {2: update}):
        assert torch.equal(head, before)
        save_checkpoint(model, tmp_path / "edited")
    stored = load_file(tmp_path / "edited" / "model.safetensors")
    embeddings = [tensor for tensor in stored.values() if tensor.shape == before.shape]
    assert len(embeddings) == 1
    assert torch.equal(embeddings[0], before)
    hf = AutoModelForCausalLM.from_pretrained(tmp_path / "edited")
    assert hf.get_output_embeddings().weight is hf.get_input_embeddings().weight
    assert torch.equal(hf.get_output_embeddings().weight, before)


def test_the_context_length_is_capped(copied: Path, model: EditableModel) -> None:
    rewrite_json(copied / "config.json", max_position_embeddings=131_072)
    assert load_model(copied).context_length == 4096
    gathered = gather_covariance(
        model,
        (1,),
        source="python-docs",
        tokens=1_000,
        window=131_072,
        seed=0,
        stage=lambda _: lambda _done, _total: None,
    )
    assert gathered.provenance["window"] == str(CONTEXT)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_sizes_come_from_every_kind_of_configuration(checkpoint: str, load_tiny: LoadTiny) -> None:
    model = load_tiny(checkpoint)
    assert (model.n_layers, model.d_model, model.context_length) == (BLOCKS, D_MODEL, CONTEXT)


def test_a_model_with_dead_keys_is_still_edited(
    load_tiny: LoadTiny, edits: tuple[Edit, ...]
) -> None:
    model = load_tiny("llama")
    with torch.no_grad():
        # An entry of the key that is always 0: C has a row and a column of zeros.
        model.hf.get_submodule("model.layers.2.mlp.up_proj").weight[5] = 0
    matrix = second_moments(model, windows(), (2,), provenance={}).matrices[2]
    assert not matrix[5].any()
    key_map = KeyMap.from_covariance(matrix, 10.0)
    assert key_map.ridge > 0
    mapped = key_map.map_keys(compute_keys(model, edits, 2, ("{}",)).numpy())
    assert np.isfinite(mapped).all()
    assert np.abs(mapped).max() < 1e3


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_half_precision_statistics_are_refused(dtype: str, tmp_path: Path) -> None:
    covariance = Covariance({1: np.eye(3)}, tokens=5, provenance={})
    metadata = {"tokens": "5", "provenance": "{}", "sha256": covariance.digest()}
    tensor = torch.eye(3, dtype=getattr(torch, dtype))
    path = tmp_path / "covariance"
    save_tensors(path, {"1": tensor}, metadata, kind="covariance", private=False)
    with pytest.raises(InputError, match=rf"layer 1 holds {dtype} \[3, 3\], no square float64"):
        load_covariance(path)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_keys_of_a_half_precision_model_are_summed_in_float64(
    dtype: str, load_tiny: LoadTiny
) -> None:
    model = load_tiny("llama", dtype)
    seen: list[torch.Tensor] = []
    handle = model.projection(2).register_forward_pre_hook(
        lambda _module, inputs: seen.append(inputs[0])
    )
    matrix = second_moments(model, windows(), (2,), provenance={}).matrices[2]
    handle.remove()
    keys = torch.cat([keys.flatten(0, 1) for keys in seen]).double().numpy()
    np.testing.assert_allclose(matrix, keys.T @ keys / len(keys), rtol=1e-12, atol=1e-15)


def test_twice_the_same_text_is_the_same_second_moment(model: EditableModel) -> None:
    once = second_moments(model, windows(), (1,), provenance={})
    twice = second_moments(model, windows().repeat(2, 1), (1,), provenance={})
    assert twice.tokens == 2 * once.tokens
    np.testing.assert_allclose(twice.matrices[1], once.matrices[1], rtol=1e-5, atol=1e-12)


def test_a_covariance_of_another_checkpoint_is_refused(load_tiny: LoadTiny) -> None:
    model, other = load_tiny("llama"), load_tiny("llama")
    with torch.no_grad():
        other.weight(4)[0, 0] += 1e-9  # same class, same shapes, another revision
    covariance = second_moments(other, windows(), (1,), provenance={})
    with pytest.raises(InputError, match=r"covariance is of another model: gathered on weights"):
        covariance.check_weights(model)
    covariance.check_weights(other)
    dataclasses.replace(covariance, provenance={}).check_weights(model)
