"""Tiny checkpoints, a plan that names them, and an update as a session stores it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file

from collabedit.ids import LayerIndex, TaskIndex
from collabedit.party.editing.checkpoints import CARD, find_layout, write_checkpoint
from collabedit.party.editing.model import EditableModel, load_model
from collabedit.party.editing.updates import SavedUpdate, apply_saved, load_update, save_updates
from collabedit.party.member import SessionReport, TaskReport
from collabedit.plan import Plan, format_digest
from collabedit.proto.envelope import session_digest
from collabedit.sketch import LowRankUpdate
from tests.support.federations import build_federation
from tests.support.tiny_models import D_IN, D_MODEL, build_tiny_model

RANKS = {1: 2, 3: 5}
LAYERS = [LayerIndex(layer) for layer in RANKS]
COMPANIONS = {
    "LICENSE": "Do what you like.",
    "README.md": "# The base model",
    "generation_config.json": '{"bos_token_id": 0}',
    "code/notes.txt": "kept",
}
LEFT_BEHIND = ("pytorch_model.bin", "pytorch_model.bin.index.json", ".git/config", "old.gguf")


def shard(directory: Path) -> None:
    """Split a checkpoint's weights over three files, with an index, as large ones are."""
    single = directory / "model.safetensors"
    tensors = load_file(single)
    single.unlink()
    names = sorted(tensors)
    files: dict[str, list[str]] = {}
    for place, name in enumerate(names):
        files.setdefault(f"model-{place % 3 + 1:05}-of-00003.safetensors", []).append(name)
    for file, held in files.items():
        save_file({name: tensors[name] for name in held}, directory / file, {"format": "pt"})
    index: dict[str, Any] = {
        "metadata": {"total_size": sum(t.nbytes for t in tensors.values())},
        "weight_map": {name: file for file, held in files.items() for name in held},
    }
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def report(plan: Plan, number: int) -> SessionReport:
    """A finished session of two tasks."""
    released = [bytes([number, task]) * 16 for task in range(2)]
    identity = bytes([number]) * 32
    return SessionReport(
        identity.hex(),
        tuple(
            TaskReport(TaskIndex(task), (task,), (), "", format_digest(digest), 0.0, 0.0)
            for task, digest in enumerate(released)
        ),
        format_digest(session_digest(plan.digest, identity, released)),
    )


@dataclass
class World:
    """A model on disk, a plan that names it, and a stored update."""

    source: Path
    plan: Plan
    update: Path

    @property
    def saved(self) -> SavedUpdate:
        return load_update(self.update, weights=self.plan.model.weights)

    def load(self) -> EditableModel:
        return load_model(self.source, dtype=self.plan.model.dtype, device="cpu")

    def apply(self, output: Path, *, keep_originals: bool = True) -> EditableModel:
        model = self.load()
        layout = find_layout(model, self.source, LAYERS)
        assert layout is not None
        apply_saved(model, self.saved)
        write_checkpoint(
            layout,
            {layer: model.weight(layer) for layer in LAYERS},
            output,
            texts={CARD: "# Edited"},
            keep_originals=keep_originals,
            record={
                "plan": format_digest(self.plan.digest),
                "weights": self.plan.model.weights,
                "sessions": [self.saved.session],
            },
        )
        return model


def build(
    directory: Path, checkpoint: str, dtype: str, *, stored: str | None = None, sharded: bool = True
) -> World:
    source = build_tiny_model(checkpoint, directory / "model", stored or dtype)
    if sharded:
        shard(source)
    for name, text in COMPANIONS.items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(text)
    for name in LEFT_BEHIND:
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(b"weights of before")
    model = load_model(source, dtype=dtype)
    values: dict[str, Any] = build_federation(3).plan.model_dump(mode="json", exclude_none=True)
    values["model"] |= {
        "architecture": model.architecture.model_type,
        "dtype": dtype,
        "weights": f"sha256:{model.weights_digest()}",
    }
    plan = Plan.model_validate(values)
    rng = np.random.default_rng(5)
    updates = {
        LayerIndex(layer): LowRankUpdate(
            rng.normal(size=(D_MODEL, rank)), rng.normal(size=(rank, D_IN)) * 0.02
        )
        for layer, rank in RANKS.items()
    }
    update = directory / "update.safetensors"
    save_updates(update, updates, plan=plan, session=report(plan, 1))
    return World(source, plan, update)


def store_update(plan: Plan, path: Path, *, rank: int = 3, scale: float = 1.0) -> Path:
    """Write a random update of every layer of a plan as `party join` does."""
    rng = np.random.default_rng(3)
    updates = {
        LayerIndex(layer.index): LowRankUpdate(
            rng.normal(size=(layer.outputs, rank)), rng.normal(size=(rank, layer.inputs)) * scale
        )
        for layer in plan.editing.layers
    }
    save_updates(path, updates, plan=plan, session=report(plan, 1))
    return path
