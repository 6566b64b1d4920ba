"""What the text behind the covariance costs: one set of edits under several sources of text.

    python benchmarks/bench_covariance.py --text wikitext2_valid.txt

The demo needs a covariance without a download and lets the model write the text itself. This runs
the demo's edits centrally under that source, under Python's own documentation, under a scaled
identity, and under any text files given, and prints efficacy, paraphrase, neighbourhood and
perplexity of each beside the unedited model. It needs the demo's model (`make demo` fetches it);
without one it says that it did not run.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from models import DEMO_MODEL

from collabedit.demo.federation import COVARIANCE_WEIGHT, TARGET_STEPS, own_facts
from collabedit.demo.run import COVARIANCE_SEED, COVARIANCE_TOKENS, COVARIANCE_WINDOW, LAYERS
from collabedit.party.editing.apply import apply_update
from collabedit.party.editing.architectures import UNPUBLISHED
from collabedit.party.editing.assessment import general_text
from collabedit.party.editing.baselines import centralised_update
from collabedit.party.editing.corpus import PYTHON_DOCS
from collabedit.party.editing.covariance import Covariance
from collabedit.party.editing.evaluate import evaluate
from collabedit.party.editing.gathering import SELF_SAMPLES, gather_covariance
from collabedit.party.editing.keys import compute_keys
from collabedit.party.editing.model import EditableModel, load_model
from collabedit.party.editing.proposal import CONTEXT_TEMPLATES
from collabedit.party.editing.schedule import residuals
from collabedit.party.editing.targets import Targets, TargetSettings, compute_targets
from collabedit.party.edits import Edit, load_edits
from collabedit.sketch import LowRankUpdate

OUT = Path("out/bench/covariance.json")
EDITS = 12


def measure(
    model: EditableModel,
    edits: tuple[Edit, ...],
    targets: Targets,
    covariance: dict[int, np.ndarray] | None,
) -> dict[str, float | None]:
    """Edit sequentially with λ = the demo's, evaluate, take everything back."""
    undos = []
    for layer, second_moment in (covariance or {}).items():
        keys = compute_keys(model, edits, layer, CONTEXT_TEMPLATES).numpy()
        wanted = residuals(
            model, edits, targets, layer, layers=LAYERS, schedule="sequential"
        ).numpy()
        update = centralised_update(keys, wanted, COVARIANCE_WEIGHT * second_moment)
        undos.append(apply_update(model, layer, LowRankUpdate(np.eye(len(update)), update)))
    row = evaluate(model, edits, text=general_text()).metrics.to_dict()
    for undo in reversed(undos):
        undo.restore()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=DEMO_MODEL)
    parser.add_argument("--text", type=Path, action="append", default=[])
    parser.add_argument("--tokens", type=int, default=COVARIANCE_TOKENS)
    arguments = parser.parse_args()
    OUT.parent.mkdir(parents=True, exist_ok=True)
    if not arguments.model.exists():
        OUT.write_text(json.dumps({"ran": False, "why": f"no model in {arguments.model}"}) + "\n")
        print(f"did not run: no model in {arguments.model}; `make demo` fetches it")
        return
    model = load_model(arguments.model)
    facts = OUT.parent / "facts.json"
    facts.write_text(json.dumps(own_facts(EDITS)))
    edits = load_edits(facts)
    defaults = model.architecture.defaults or UNPUBLISHED
    targets = compute_targets(
        model,
        edits,
        layer=LAYERS[-1],
        templates=CONTEXT_TEMPLATES,
        settings=TargetSettings(
            learning_rate=defaults.learning_rate,
            steps=TARGET_STEPS,
            clamp_factor=defaults.clamp_factor,
            weight_decay=defaults.weight_decay,
        ),
    )

    def gather(source: str) -> Covariance:
        return gather_covariance(
            model,
            LAYERS,
            source=source,
            tokens=arguments.tokens,
            window=COVARIANCE_WINDOW,
            seed=COVARIANCE_SEED,
            stage=lambda _title: lambda _done, _total: None,
        )

    sources = {
        name: dict(gather(name).matrices)
        for name in (SELF_SAMPLES, PYTHON_DOCS, *map(str, arguments.text))
    }
    sources["scaled identity"] = {
        layer: np.eye(len(matrix)) * np.trace(matrix) / len(matrix)
        for layer, matrix in sources[SELF_SAMPLES].items()
    }
    rows = {"unedited": measure(model, edits, targets, None)}
    rows |= {
        Path(name).name: measure(model, edits, targets, matrices)
        for name, matrices in sources.items()
    }
    report = {"ran": True, "tokens": arguments.tokens, "edits": EDITS, "sources": rows}
    OUT.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
