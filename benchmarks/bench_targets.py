"""Search of the targets z*: batched with a cached prefix, against one full forward pass per step.

    python benchmarks/bench_targets.py [--model DIRECTORY] [--layer L] [--edits N] [--threads N]

The peer is MEMIT's `compute_z` as published (kmeng01/memit, `memit/compute_z.py`): one edit at a
time, all its rows in one batch, the whole model from the embeddings at every step, and logits at
every position. Both make the same number of steps, because no edit may stop early. Without a
model, the demo's if nothing is said (`make demo` fetches it), a random Llama of eight blocks
stands in: its times say nothing about a real model, the ratio says something about the two ways.
Both have all threads that torch takes, or `--threads`; processor time is in the record, too, which
threads that wait for each other on a busy machine swell. The largest difference of a z* in units of
its δ is reported, and so is what would be left with perfect products: the floating point operations
of the blocks above the layer and of the logits, forward and backward, at the rate that float32
products of these shapes reach in the same run.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from models import DEMO_MODEL
from timing import milliseconds, time_in_turn, write_record
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from collabedit.party.editing.hooks import adding_to_output, capturing_output
from collabedit.party.editing.means import Means
from collabedit.party.editing.model import EditableModel, load_model, without_progress_bars
from collabedit.party.editing.proposal import CONTEXT_TEMPLATES
from collabedit.party.editing.target_search import pose
from collabedit.party.editing.targets import TargetSettings, compute_targets
from collabedit.party.editing.token_tree import grow_tree
from collabedit.party.editing.tokens import pad_rows, place_subject, subject_row, target_ids
from collabedit.party.edits import Edit

SETTINGS = TargetSettings(
    learning_rate=0.1, steps=8, clamp_factor=4.0, weight_decay=1e-3, stop_loss=0.0
)
FACTS = (
    ("The capital of {} is", "France", "Rome"),
    ("{} was written by", "Hamlet", "Goethe"),
    ("In {} people speak", "Brazil", "Dutch"),
    ("{} plays the", "Miles Davis", "piano"),
    ("The mother tongue of {} is", "Danielle Darrieux", "English"),
    ("{} was born in the city of", "Marie Curie", "Lisbon"),
    ("The headquarters of {} are in", "Toyota", "Paris"),
    ("{} is a citizen of", "Albert Einstein", "Norway"),
)


def build_model(directory: Path) -> Path:
    """Save a random Llama with a tokenizer of bytes."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {name: number for number, name in enumerate(["<s>", *symbols])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    start = {"bos_token": "<s>", "eos_token": "<s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **start).save_pretrained(directory)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8192,
            hidden_size=256,
            intermediate_size=768,
            num_hidden_layers=8,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            pad_token_id=None,
        )
    )
    with without_progress_bars():
        model.save_pretrained(directory)
    return directory


def search_one(model: EditableModel, edit: Edit, layer: int) -> tuple[Tensor, Tensor]:
    """Search one z* as MEMIT does, and return it and its δ: [d_model] each."""
    settings = SETTINGS
    target = target_ids(model, edit.target_new)
    prompts = [subject_row(model, edit, template=template) for template in CONTEXT_TEMPLATES]
    before, after = settings.kl_prompt.split("{}")
    essence = place_subject(model, before, edit.subject, after, case_id=edit.case_id)
    rows = [(*prompt.ids, *target[:-1]) for prompt in prompts] + [essence.ids]
    ids = pad_rows(model, rows)
    places = torch.tensor([*(prompt.subject_last for prompt in prompts), essence.subject_last])
    block = model.block(layer)
    with torch.no_grad(), capturing_output(block, places) as captured:
        model.hf(input_ids=ids, use_cache=False)
    start = captured.values[0].float()
    delta = torch.zeros_like(start).requires_grad_()
    optimiser = torch.optim.Adam([delta], lr=settings.learning_rate)
    reference: Tensor | None = None
    for _ in range(settings.steps - 1):
        optimiser.zero_grad()
        with torch.enable_grad(), adding_to_output(block, places, delta.expand(len(rows), -1)):
            logits = model.hf(input_ids=ids, use_cache=False).logits.float()
            log_p = logits.log_softmax(dim=-1)
            nll = [
                -log_p[row, len(rows[row]) - len(target) + offset, token]
                for row in range(len(prompts))
                for offset, token in enumerate(target)
            ]
            essence_log_p = log_p[-1, essence.subject_last]
            if reference is None:
                reference = essence_log_p.detach()
            divergence = (reference.exp() * (reference - essence_log_p)).sum()
            loss = (
                torch.stack(nll).mean()
                + settings.kl_weight * divergence
                + settings.weight_decay * delta.norm() / start.norm() ** 2
            )
        loss.backward()
        optimiser.step()
        limit = settings.clamp_factor * start.norm()
        with torch.no_grad():
            if delta.norm() > limit:
                delta.mul_(limit / delta.norm())
    return (start + delta).detach(), delta.detach()


def floor_operations(model: EditableModel, edits: list[Edit], layer: int) -> tuple[float, int]:
    """Count floating point operations that no way of doing it can leave out, for all steps.

    Products with weights alone: of upper blocks on each edit's own tokens and of the output
    embedding where losses are read, forward and back to the input, and one pass for what stays.

    Returns:
        The count, and how many own tokens there are.
    """
    problems = [pose(model, edit, CONTEXT_TEMPLATES, SETTINGS) for edit in edits]
    tree = grow_tree([list(zip(each.rows, each.subject_last, strict=True)) for each in problems])
    sizes = [sum(p.numel() for p in model.block(i).parameters()) for i in range(model.n_layers)]
    own, upper = len(tree.owners), sum(sizes[layer + 1 :])
    places = sum(1 + len(each.target) * len(CONTEXT_TEMPLATES) for each in problems)
    head = model.d_model * model.hf.get_input_embeddings().num_embeddings
    once = 2 * (len(tree.tokens) * sum(sizes[: layer + 1]) + tree.shared * upper)
    return once + 4.0 * (SETTINGS.steps - 1) * (own * upper + places * head), own


def product_rate(model: EditableModel, rows: int) -> float:
    """Measure operations per second of float32 products [rows, d_model] with an MLP's weight."""
    weight = torch.randn(model.d_in(0), model.d_model)
    values = torch.randn(rows, model.d_model)
    best = 1e9
    with torch.inference_mode():
        for _ in range(50):
            started = time.perf_counter()
            torch.nn.functional.linear(values, weight)
            best = min(best, time.perf_counter() - started)
    return 2.0 * rows * weight.numel() / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", type=Path, default=DEMO_MODEL, help="model directory; a random one if missing"
    )
    parser.add_argument("--layer", type=int, help="last edited layer: 8, of the random model 5")
    parser.add_argument("--edits", type=int, default=len(FACTS), choices=range(1, len(FACTS) + 1))
    parser.add_argument("--threads", type=int, help="of torch, for both; default: torch's own")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    is_real = arguments.model.exists()
    layer = arguments.layer or (8 if is_real else 5)
    edits = [
        Edit(case_id=str(number), prompt=prompt, subject=subject, target_new=target)
        for number, (prompt, subject, target) in enumerate(FACTS[: arguments.edits])
    ]
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as directory:
        model = load_model(
            arguments.model if is_real else build_model(Path(directory)), device="cpu"
        )
    found: dict[str, Tensor] = {}

    def batched(batch_size: int) -> None:
        found[f"{batch_size} in a batch"] = compute_targets(
            model,
            edits,
            layer=layer,
            templates=CONTEXT_TEMPLATES,
            settings=SETTINGS,
            means=Means(batch_size=batch_size),
        ).values

    def one_by_one() -> None:
        pairs = [search_one(model, edit, layer) for edit in edits]
        found["peer"] = torch.stack([target for target, _ in pairs], dim=1)
        found["delta"] = torch.stack([delta for _, delta in pairs], dim=1)

    peer = "peer: MEMIT's compute_z, edit by edit"
    times = time_in_turn(
        {
            peer: one_by_one,
            "1 in a batch": lambda: batched(1),
            f"{len(edits)} in a batch": lambda: batched(len(edits)),
        },
        runs=arguments.runs,
    )
    deltas = found.pop("delta").norm(dim=0)
    gaps = {
        peer if what == "peer" else what: (values - found["peer"]).norm(dim=0) / deltas
        for what, values in found.items()
    }
    rows: list[dict[str, object]] = [
        {
            "what": what,
            **milliseconds(timed),
            "ms_per_edit": round(1e3 * timed.wall / len(edits), 1),
            "ratio_to_peer": round(timed.wall / times[peer].wall, 3),
            "difference_over_delta": float(f"{float(gaps[what].max()):.1e}"),
        }
        for what, timed in times.items()
    ]
    floor, own = floor_operations(model, edits, layer)
    rate = product_rate(model, own)
    rows.append(
        {
            "what": "products alone, at the rate measured",
            "wall_ms": round(1e3 * floor / rate, 1),
            "ms_per_edit": round(1e3 * floor / rate / len(edits), 1),
            "ratio_to_peer": round(floor / rate / times[peer].wall, 3),
            "gigaflop": round(floor / 1e9, 1),
            "gigaflop_per_second": round(rate / 1e9, 1),
        }
    )
    write_record(
        "targets",
        rows,
        model=arguments.model.name if is_real else "random Llama, 8 blocks",
        layer=layer,
        blocks=model.n_layers,
        edits=len(edits),
        rows_each=len(CONTEXT_TEMPLATES) + 1,
        steps=SETTINGS.steps,
        threads=torch.get_num_threads(),
    )


if __name__ == "__main__":
    main()
