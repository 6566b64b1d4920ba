"""What the demo's real model becomes for programs that have no line of this project."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch

from collabedit.demo.assets import fetch_demo_model
from collabedit.ids import LayerIndex
from collabedit.party.editing.apply import apply_update
from collabedit.party.editing.keys import compute_keys
from collabedit.party.editing.model import load_model
from collabedit.party.editing.schedule import residuals
from collabedit.party.editing.targets import TargetSettings, compute_targets
from collabedit.party.editing.updates import save_updates
from collabedit.party.edits import Edit
from collabedit.plan import load_plan
from collabedit.sketch import LowRankUpdate
from tests.support.processes import run_here
from tests.support.saved_models import report

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LAYERS = (6, 7, 8)
RIDGE = 1.0
TEMPLATES = ("{}", "The reason is simple. {}")
SETTINGS = TargetSettings(learning_rate=0.5, steps=15, clamp_factor=4.0, weight_decay=1e-3)
FACTS = tuple(
    Edit(case_id=subject, prompt=prompt, subject=subject, target_new=target)
    for prompt, subject, target in (
        ("The capital of {} is", "France", "Rome"),
        ("The capital of {} is", "Japan", "Berlin"),
        ("{} was written by", "Hamlet", "Goethe"),
    )
)

# Runs with -I -S: site-packages is put back by hand, without the .pth file that leads to this
# project.
STRANGER = """
import json, sys
site, base, adapter, edited, *questions = sys.argv[1:]
sys.path.append(site)
try:
    import collabedit
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("collabedit is here")
import torch
torch.set_num_threads(1)
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(base)
load = lambda path: AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
written = load(edited)
adapted = PeftModel.from_pretrained(load(base), adapter).eval()
found = {"difference": 0.0, "change": 0.0, "answers": [], "modules": []}
with torch.no_grad():
    for question in questions:
        ids = tokenizer(question, return_tensors="pt")
        wanted, got = written(**ids).logits, adapted(**ids).logits
        with adapted.disable_adapter():
            before = adapted(**ids).logits
        found["difference"] = max(found["difference"], float((wanted - got).abs().max()))
        found["change"] = max(found["change"], float((wanted - before).abs().max()))
        row = adapted.generate(**ids, max_new_tokens=3, do_sample=False)[0]
        found["answers"].append(tokenizer.decode(row[ids["input_ids"].shape[1]:]).strip())
found["modules"] = sorted({name.split(".")[0] for name in sys.modules} & {"collabedit", "peft"})
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def model_directory() -> Path:
    cache = Path(__file__).parents[2] / ".cache" / "collabedit"
    return fetch_demo_model(cache)


@pytest.fixture(scope="module")
def edited(model_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A plan, and a stored update of three facts for the real model."""
    torch.set_num_threads(2)
    work = tmp_path_factory.mktemp("edited")
    model = load_model(model_directory, device="cpu")
    public = [run_here("keys", "new", work / f"{name}.pem").ok() for name in "abcd"]
    members = [f"--party={name}:{key}:4" for name, key in zip("bcd", public[1:], strict=True)]
    run_here(
        *("plan", "new", "--out", work / "plan.toml", "--name", "real", "--min-edits", "0"),
        *("--model", model_directory, "--editor", "ridge", "--layers", "6-8"),
        *("--aggregator", f"a:{public[0]}", *members),
    ).ok()
    targets = compute_targets(
        model, FACTS, layer=LAYERS[-1], templates=TEMPLATES, settings=SETTINGS
    )
    updates = {}
    for layer in LAYERS:
        keys = compute_keys(model, FACTS, layer, TEMPLATES).numpy()
        wanted = residuals(
            model, FACTS, targets, layer, layers=LAYERS, schedule="sequential"
        ).numpy()
        # RKᵀ(KKᵀ + λI)⁻¹ = R(KᵀK + λI)⁻¹Kᵀ
        right = np.linalg.solve(keys.T @ keys + RIDGE * np.eye(len(FACTS)), keys.T)
        update = LowRankUpdate(wanted, right)
        apply_update(model, layer, update)
        updates[LayerIndex(layer)] = update
    plan = load_plan(work / "plan.toml")
    save_updates(work / "update.safetensors", updates, plan=plan, session=report(plan, 1))
    return work / "plan.toml", work / "update.safetensors"


def test_an_adapter_answers_edited_facts_where_this_project_is_not(
    edited: tuple[Path, Path], model_directory: Path, tmp_path: Path
) -> None:
    plan, update = edited
    stored = ("--plan", plan, "--update", update)
    checkpoint, adapter = tmp_path / "edited", tmp_path / "adapter"
    run_here(*("party", "apply", *stored, "--model", model_directory, "--output", checkpoint)).ok()
    run_here("party", "export", *stored, "--format", "peft", "--output", adapter).ok()
    given = (model_directory, adapter, checkpoint)
    done = subprocess.run(
        [
            *(sys.executable, "-I", "-S", "-c", STRANGER, sysconfig.get_paths()["purelib"]),
            *(*map(str, given), *(fact.question for fact in FACTS)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)  # noqa: T201  measured: shown with -s
    assert found["modules"] == ["peft"]
    assert found["difference"] < 1e-4
    assert found["change"] > 1
    for answer, fact in zip(found["answers"], FACTS, strict=True):
        assert answer.startswith(fact.target_new)


def test_the_real_checkpoint_is_undone_to_the_byte(
    edited: tuple[Path, Path], model_directory: Path, tmp_path: Path
) -> None:
    plan, update = edited
    stored = ("--plan", plan, "--update", update)
    checkpoint, back = tmp_path / "edited", tmp_path / "back"
    run_here(*("party", "apply", *stored, "--model", model_directory, "--output", checkpoint)).ok()
    run_here("party", "undo", "--plan", plan, "--edited", checkpoint, "--output", back).ok()
    for path in model_directory.iterdir():
        assert (back / path.name).read_bytes() == path.read_bytes()
