"""Edited checkpoints in the files of their model, and the way back."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer

from collabedit.errors import AcceptanceError, InputError, ModelError
from collabedit.party.editing.checkpoints import (
    BASE_CARD,
    CARD,
    ORIGINALS,
    RECORD,
    find_layout,
    write_checkpoint,
)
from collabedit.party.editing.model import load_model
from collabedit.party.editing.restoring import restore
from collabedit.party.editing.updates import apply_saved, save_updates
from collabedit.plan import Plan
from collabedit.sketch import LowRankUpdate
from tests.support.federations import build_federation
from tests.support.saved_models import LAYERS, LEFT_BEHIND, RANKS, World, build, report
from tests.support.tiny_models import D_IN, D_MODEL


@pytest.fixture(params=["gpt2", "llama", "gpt2-bfloat16", "llama-float16", "gemma3", "llama-3"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    checkpoint, _, dtype = request.param.partition("-")
    if dtype not in {"bfloat16", "float16"}:
        checkpoint, dtype = request.param, "float32"
    return build(tmp_path, checkpoint, dtype)


def headers(directory: Path) -> dict[str, bytes]:
    """The head of each safetensors file: names, order, dtypes, shapes, places."""
    found = {}
    for path in sorted(directory.glob("*.safetensors")):
        data = path.read_bytes()
        found[path.name] = data[: 8 + int.from_bytes(data[:8], "little")]
    return found


def stored(directory: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in directory.glob("*.safetensors"):
        tensors |= load_file(path)
    return tensors


def files(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_shards_are_the_model_s_and_only_edited_tensors_differ(
    world: World, tmp_path: Path
) -> None:
    before = files(world.source)
    model = world.apply(tmp_path / "edited")
    assert files(world.source) == before
    assert headers(tmp_path / "edited") == headers(world.source)
    assert len(headers(world.source)) == 3
    old, new = stored(world.source), stored(tmp_path / "edited")
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert len(changed) == len(RANKS)
    assert {int(next(p for p in name.split(".") if p.isdigit())) for name in changed} == set(RANKS)
    for layer in RANKS:
        assert sum(torch.equal(new[name], model.weight(layer).cpu()) for name in changed) == 1
    loaded = load_model(tmp_path / "edited", dtype=world.plan.model.dtype)
    assert loaded.weights_digest() == model.weights_digest()
    index = "model.safetensors.index.json"
    assert (tmp_path / "edited" / index).read_bytes() == before[index]


def test_everything_but_weights_is_copied_and_stale_weights_are_not(tmp_path: Path) -> None:
    world = build(tmp_path, "llama", "float32")
    world.apply(tmp_path / "edited")
    old, new = files(world.source), files(tmp_path / "edited")
    assert set(new) - set(old) == {RECORD, ORIGINALS, BASE_CARD}
    assert set(old) - set(new) == set(LEFT_BEHIND)
    assert new[BASE_CARD] == old[CARD]
    assert new[CARD] == b"# Edited"
    same = set(old) & set(new) - {CARD}
    assert {name for name in same if old[name] != new[name]} == {
        name for name in same if name.endswith(".safetensors") and name in holders(tmp_path)
    }
    assert AutoTokenizer.from_pretrained(tmp_path / "edited")("Paris")


def holders(directory: Path) -> set[str]:
    """Files that hold an edited tensor, as the record names them."""
    record = json.loads((directory / "edited" / RECORD).read_text())
    return {each["file"] for each in record["tensors"]}


def test_one_file_stays_one_file(tmp_path: Path) -> None:
    world = build(tmp_path, "gpt2", "float32", sharded=False)
    model = world.apply(tmp_path / "edited")
    assert list(headers(tmp_path / "edited")) == ["model.safetensors"]
    assert load_model(tmp_path / "edited").weights_digest() == model.weights_digest()


def test_names_without_the_model_s_prefix_are_found(tmp_path: Path) -> None:
    # GPT-2 as it is on the hub: tensors of the base model alone.
    world = build(tmp_path, "gpt2", "float32", sharded=False)
    path = world.source / "model.safetensors"
    bare = {name.removeprefix("transformer."): value for name, value in load_file(path).items()}
    assert "h.1.mlp.c_proj.weight" in bare
    save_file(bare, path, metadata={"format": "pt"})
    model = world.apply(tmp_path / "edited")
    assert load_model(tmp_path / "edited").weights_digest() == model.weights_digest()
    assert set(load_file(tmp_path / "edited" / "model.safetensors")) == set(bare)


def test_a_wider_plan_is_rounded_to_the_files_and_the_loss_is_told(tmp_path: Path) -> None:
    world = build(tmp_path, "llama", "float32", stored="bfloat16")
    model = world.load()
    layout = find_layout(model, world.source, LAYERS)
    assert layout is not None
    originals = {layer: model.weight(layer).clone() for layer in LAYERS}
    apply_saved(model, world.saved)
    lost = write_checkpoint(
        layout,
        {layer: model.weight(layer) for layer in LAYERS},
        tmp_path / "edited",
        texts={},
        keep_originals=False,
        record={},
    )
    found = stored(tmp_path / "edited")
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    for layer in LAYERS:
        kept = found[f"model.layers.{layer}.mlp.down_proj.weight"]
        edited = model.weight(layer)
        assert torch.equal(kept, edited.to(torch.bfloat16))
        change = torch.linalg.norm((edited - originals[layer]).double())
        missed = torch.linalg.norm(kept.double() - edited.double())
        assert lost[layer] == pytest.approx(float(missed / change))
        assert 1e-4 < lost[layer] < 1


def test_a_directory_without_safetensors_has_no_layout(tmp_path: Path) -> None:
    world = build(tmp_path, "llama", "float32", sharded=False)
    model = world.load()
    (world.source / "model.safetensors").rename(world.source / "elsewhere")
    assert find_layout(model, world.source, LAYERS) is None


def test_a_weight_of_other_values_is_not_taken_for_it(tmp_path: Path) -> None:
    world = build(tmp_path, "llama", "float32", sharded=False)
    model = world.load()
    with torch.no_grad():
        model.weight(3)[0, 0] += 1
    with pytest.raises(ModelError, match="no file holds the weight of layer 3"):
        find_layout(model, world.source, LAYERS)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "", ".."])
def test_an_index_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    world = build(tmp_path, "llama", "float32")
    model = world.load()
    index = world.source / "model.safetensors.index.json"
    text = json.loads(index.read_text())
    text["weight_map"]["lm_head.weight"] = name
    index.write_text(json.dumps(text))
    with pytest.raises(ModelError, match="names a file that is not beside it"):
        find_layout(model, world.source, LAYERS)


FULL_DISK = """
import resource, sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
from tests.support.saved_models import World
from collabedit.plan import load_plan
source, plan, update, output, limit = sys.argv[3:]
world = World(Path(source), load_plan(Path(plan)), Path(update))
model = world.load()
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    world.apply(Path(output))
except Exception as error:
    print(type(error).__name__)
"""


def test_a_disk_that_refuses_leaves_nothing(tmp_path: Path) -> None:
    world = build(tmp_path, "llama", "float32")
    plan = tmp_path / "plan.toml"
    plan.write_text(world.plan.to_toml())
    root = Path(__file__).parents[4]
    output = tmp_path / "out" / "edited"
    largest = max(path.stat().st_size for path in world.source.glob("*.safetensors"))
    done = subprocess.run(
        [
            *(sys.executable, "-c", FULL_DISK, root, root / "src"),
            *(world.source, plan, world.update, output, str(largest - 100)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout.strip() == "StorageError", done.stderr
    assert list(output.parent.iterdir()) == []


# The way back.


def test_kept_originals_restore_every_file(world: World, tmp_path: Path) -> None:
    world.apply(tmp_path / "edited")
    restored = restore(world.plan, tmp_path / "edited", tmp_path / "back")
    assert (restored.exact, restored.by_originals, restored.within) == (True, True, 0.0)
    old, new = files(world.source), files(tmp_path / "back")
    assert new == {name: data for name, data in old.items() if name not in LEFT_BEHIND}


def test_subtracting_misses_last_bits_and_says_so(world: World, tmp_path: Path) -> None:
    world.apply(tmp_path / "edited", keep_originals=False)
    assert not (tmp_path / "edited" / ORIGINALS).exists()
    given = [world.update]
    with pytest.raises(AcceptanceError, match=r"subtracting rounds.*Nothing is written"):
        restore(world.plan, tmp_path / "edited", tmp_path / "back", updates=given)
    assert not (tmp_path / "back").exists()
    restored = restore(
        world.plan, tmp_path / "edited", tmp_path / "back", updates=given, accept_rounding=True
    )
    assert (restored.exact, restored.by_originals) == (False, False)
    old, new = stored(world.source), stored(tmp_path / "back")
    worst = max(float((new[name].double() - old[name].double()).abs().max()) for name in old)
    assert 0 < worst <= restored.within
    different = {name for name in old if not torch.equal(old[name], new[name])}
    assert len(different) <= len(RANKS)


def test_subtracting_is_exact_where_nothing_rounds(tmp_path: Path) -> None:
    # Small integers: sums and differences are exact in float32.
    world = build(tmp_path, "llama", "float32", sharded=False)
    path = world.source / "model.safetensors"
    tensors = load_file(path)
    for layer in RANKS:
        name = f"model.layers.{layer}.mlp.down_proj.weight"
        # A zero is made positive: subtracting would not bring its sign back.
        tensors[name] = (tensors[name] * 16).round() / 16 + 0.0
    save_file(tensors, path, metadata={"format": "pt"})
    values = world.plan.model_dump(mode="json", exclude_none=True)
    values["model"]["weights"] = f"sha256:{load_model(world.source).weights_digest()}"
    world.plan = Plan.model_validate(values)
    rng = np.random.default_rng(1)
    updates = {
        layer: LowRankUpdate(
            rng.integers(-4, 5, (D_MODEL, 2)).astype(float), rng.integers(-4, 5, (2, D_IN)) / 16.0
        )
        for layer in LAYERS
    }
    save_updates(world.update, updates, plan=world.plan, session=report(world.plan, 1))
    world.apply(tmp_path / "edited", keep_originals=False)
    restored = restore(world.plan, tmp_path / "edited", tmp_path / "back", updates=[world.update])
    assert (restored.exact, restored.by_originals) == (True, False)


def other_update(world: World, number: int) -> Path:
    path = world.update.with_name("other.safetensors")
    save_updates(path, world.saved.updates, plan=world.plan, session=report(world.plan, number))
    return path


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


def test_what_cannot_be_undone_is_refused(tmp_path: Path) -> None:
    world = build(tmp_path, "llama", "float32")
    edited, back = tmp_path / "edited", tmp_path / "back"
    world.apply(edited, keep_originals=False)
    with pytest.raises(InputError, match="has not kept its originals"):
        restore(world.plan, edited, back)
    with pytest.raises(InputError, match="name theirs, oldest first"):
        restore(world.plan, edited, back, updates=[other_update(world, 2)])
    with pytest.raises(InputError, match="it was not written by this program"):
        restore(world.plan, world.source, back)
    with pytest.raises(InputError, match="was made from weights"):
        restore(build_federation(3).plan, edited, back)
    (edited / RECORD).write_text("{}")
    with pytest.raises(InputError, match="is no complete record"):
        restore(world.plan, edited, back)
    assert not back.exists()


def test_damage_is_told_from_rounding(tmp_path: Path) -> None:
    world = build(tmp_path, "llama", "float32")
    edited, back = tmp_path / "edited", tmp_path / "back"
    world.apply(edited)
    flip(edited / ORIGINALS, -1)
    with pytest.raises(InputError, match="is damaged"):
        restore(world.plan, edited, back)
    flip(edited / ORIGINALS, -1)
    untouched = next(
        path
        for path in sorted(edited.glob("model-*.safetensors"))
        if "lm_head.weight" in load_file(path)
    )
    with safe_open(untouched, framework="pt") as stream:
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, untouched, metadata={"format": "pt"})
    with pytest.raises(AcceptanceError, match="that were not edited have changed since"):
        restore(world.plan, edited, back)
    assert not back.exists()
