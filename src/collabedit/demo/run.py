"""The demo from start to end: prepare, run the processes, compare, report, judge."""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from collabedit import __version__
from collabedit.demo import methods as ways
from collabedit.demo.assets import fetch_demo_model
from collabedit.demo.federation import DemoFederation, build_federation
from collabedit.demo.processes import party_threads, run_processes
from collabedit.demo.report import (
    MEASURES,
    DemoReport,
    LayerParity,
    MethodRow,
    Methods,
    acceptance,
    draw_figure,
    format_value,
    labelled_methods,
    write_markdown,
)
from collabedit.editing import EditorName
from collabedit.errors import AcceptanceError, InputError
from collabedit.party.editing.assessment import general_text
from collabedit.party.editing.covariance import Covariance, load_covariance
from collabedit.party.editing.editor import target_settings
from collabedit.party.editing.evaluate import evaluate
from collabedit.party.editing.gathering import SELF_SAMPLES, gather_covariance
from collabedit.party.editing.model import EditableModel, load_model
from collabedit.party.editing.targets import load_targets, settings_digest
from collabedit.party.editing.updates import load_update
from collabedit.party.edits import edits_digest
from collabedit.plan import BackendName, format_digest

Stage: TypeAlias = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]

LAYERS = (4, 5, 6, 7, 8)
COVARIANCE_TOKENS = 16_384
COVARIANCE_WINDOW = 128
COVARIANCE_SEED = 1


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user chooses."""

    out: Path
    cache: Path
    edits: int
    model: Path | None = None
    editor: EditorName = "memit"
    equal_lengths: bool = False
    backend: BackendName = "masked"


@dataclass(slots=True)
class _Clock:
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 2)


def run_demo(settings: Settings, *, terminal: Console, stage: Stage) -> DemoReport:
    """Run the demo and write its report.

    Raises:
        AcceptanceError: a process failed, or a stated bound does not hold.
        ModelError: the model could not be had.
    """
    clock = _Clock()
    out = settings.out
    _clear(out)
    with clock.phase("model"):
        directory = settings.model or fetch_demo_model(settings.cache, terminal.print)
        model = load_model(directory, device="cpu")
    with clock.phase("covariance"):
        covariance_file, covariance = _covariance(settings, model, terminal, stage)
    federation = build_federation(
        out / "federation",
        model,
        covariance,
        model_name=directory.name,
        layers=LAYERS,
        edits=settings.edits,
        editor=settings.editor,
        equal_lengths=settings.equal_lengths,
        backend=settings.backend,
    )
    terminal.print(
        f"plan [bold]{federation.plan.name}[/], {format_digest(federation.plan.digest)}: "
        f"{len(federation.parties)} parties, {settings.edits} facts, layers {list(LAYERS)}"
    )
    with clock.phase("federation"):
        run_processes(
            federation,
            model=directory,
            covariance=covariance_file,
            logs=out / "logs",
            report=terminal.print,
        )
    terminal.print("session finished; comparing with the alternatives")
    with clock.phase("comparison"):
        layers, methods = _compare(federation, model, covariance, stage)
    report = _report(federation, covariance=covariance, layers=layers, methods=methods, clock=clock)
    (out / "report.json").write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    write_markdown(report, out / "report.md")
    draw_figure(report, out / "report.png")
    _print(report, terminal, out)
    if not report.passed:
        failed = ", ".join(check.name for check in report.checks if not check.holds)
        raise AcceptanceError(f"the demo's bounds do not hold: {failed}; see {out / 'report.md'}")
    return report


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _clear(out: Path) -> None:
    if out.exists():
        if any(out.iterdir()) and not (out / "federation").exists():
            raise InputError(f"{out}: holds other things than a demo; choose another --out")
        shutil.rmtree(out)
    out.mkdir(parents=True)


def _covariance(
    settings: Settings, model: EditableModel, terminal: Console, stage: Stage
) -> tuple[Path, Covariance]:
    # Everything that determines it is in the name: another model gets another file.
    name = (
        f"covariance-{model.weights_digest()[:16]}-{SELF_SAMPLES}-{COVARIANCE_TOKENS}"
        f"-{COVARIANCE_WINDOW}-{COVARIANCE_SEED}.safetensors"
    )
    path = settings.cache / name
    if path.exists():
        terminal.print(f"using the covariance in {path}", markup=False, soft_wrap=True)
        return path, load_covariance(path)
    settings.cache.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        covariance = gather_covariance(
            model,
            LAYERS,
            source=SELF_SAMPLES,
            tokens=COVARIANCE_TOKENS,
            window=COVARIANCE_WINDOW,
            seed=COVARIANCE_SEED,
            stage=lambda title: stack.enter_context(stage(title)),
        )
    covariance.save(path)
    return path, covariance


def _shares(federation: DemoFederation, model: EditableModel) -> list[ways.Share]:
    """Read the targets that the party processes computed; the demo owns all folders."""
    editing = federation.plan.editing
    settings = settings_digest(
        model,
        layer=editing.layers[-1].index,
        templates=editing.context_templates,
        settings=target_settings(editing),
    )
    return [
        ways.Share(
            edits,
            load_targets(
                party.work / "targets.safetensors",
                edits_digest=edits_digest(edits),
                settings_digest=settings,
            ),
        )
        for party, edits in zip(federation.parties, federation.edits, strict=True)
    ]


def _compare(
    federation: DemoFederation, model: EditableModel, covariance: Covariance, stage: Stage
) -> tuple[list[LayerParity], Methods]:
    plan = federation.plan
    shares = _shares(federation, model)
    # As many threads as each party had: float32 kernels split sums by their number of threads.
    with stage("updates of the alternatives") as advance, _threads(party_threads(federation)):
        alone = []
        for done, share in enumerate(shares, 1):
            alone.append(ways.edit_alone(plan, model, covariance, [share]))
            advance(done, len(shares) + 1)
        centralised = ways.edit_alone(plan, model, covariance, shares)
        advance(len(shares) + 1, len(shares) + 1)
    merged = [
        {
            int(layer): update.dense()
            for layer, update in load_update(
                party.work / "update.safetensors", weights=plan.model.weights
            ).updates.items()
        }
        for party in federation.parties
    ]
    # The worst party counts; all should hold the same update.
    errors = [ways.relative_errors(updates, centralised) for updates in merged]
    layers = [
        LayerParity(
            layer=layer, relative_error_vs_centralised=max(error[layer] for error in errors)
        )
        for layer in centralised
    ]
    candidates: list[ways.Updates] = [
        {},
        *alone,
        *(ways.merge_layers(alone, way) for way in ("simple_average", "task_arithmetic", "ties")),
        merged[0],
        centralised,
    ]
    text = general_text()
    rows = []
    with stage("evaluating all methods") as advance:
        for done, updates in enumerate(candidates, 1):
            error = max(ways.relative_errors(updates, centralised).values()) if updates else None
            with ways.edited(model, updates):
                rows.append(_row(federation, model, text, error))
            advance(done, len(candidates))
    parties = len(federation.parties)
    rest = rows[1 + parties :]
    return layers, Methods(
        unedited=rows[0],
        alone=rows[1 : 1 + parties],
        simple_average=rest[0],
        task_arithmetic=rest[1],
        ties=rest[2],
        collabedit=rest[3],
        centralised=rest[4],
    )


def _row(
    federation: DemoFederation, model: EditableModel, text: str, error: float | None
) -> MethodRow:
    evaluation = evaluate(model, federation.all_edits, text=text)
    by_owner = {}
    start = 0
    for party, edits in zip(federation.parties, federation.edits, strict=True):
        own = evaluation.outcomes[start : start + len(edits)]
        start += len(edits)
        by_owner[party.name] = 100.0 * sum(outcome.generated for outcome in own) / len(own)
    return MethodRow(
        **evaluation.metrics.to_dict(), generation_by_owner=by_owner, update_error=error
    )


def _report(
    federation: DemoFederation,
    *,
    covariance: Covariance,
    layers: Sequence[LayerParity],
    methods: Methods,
    clock: _Clock,
) -> DemoReport:
    sent = {}
    for party in federation.parties:
        own = json.loads((party.work / "report.json").read_text(encoding="utf-8"))
        sent[party.name] = own["bytes_sent"]
        for phase in ("targets", "session"):
            label = f"slowest party: {phase}"
            clock.seconds[label] = max(clock.seconds.get(label, 0.0), own["seconds"][phase])
    dense = sum(
        8 * (layer.mapped * (layer.mapped + 1) // 2 + layer.outputs * layer.mapped)
        for layer in federation.plan.editing.layers
    )
    editor = federation.plan.editing.editor
    checks = acceptance(list(layers), methods, editor=editor)
    return DemoReport(
        version=__version__,
        plan_digest=format_digest(federation.plan.digest),
        model=federation.plan.model.name,
        editor=editor,
        edits=len(federation.all_edits),
        parties=[party.name for party in federation.parties],
        covariance_source=f"{covariance.provenance['source']}, {covariance.tokens} tokens",
        layers=list(layers),
        methods=methods,
        bytes_sent_per_party=sent,
        dense_bytes_per_party=dense,
        seconds=clock.seconds,
        checks=checks,
        passed=all(check.holds for check in checks),
    )


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    return table


def _print(report: DemoReport, terminal: Console, out: Path) -> None:
    rows = [
        (f"[bold]{name}[/]" if name == "CollabEdit" else name, row)
        for name, row in labelled_methods(report)
    ]
    # Two narrow tables: together they would not fit a terminal of 80 columns.
    table = _table(f"{report.edits} facts of {len(report.parties)} parties, editor {report.editor}")
    for label, _ in MEASURES:
        table.add_column(label.replace(" ", "\n").replace("perplexity", "perpl."), justify="right")
    for name, row in rows:
        table.add_row(name, *(format_value(row, field) for _, field in MEASURES))
    terminal.print(table)
    owners = _table("whose facts each model writes by itself, percent")
    for party in report.parties:
        owners.add_column(party, justify="right")
    for name, row in rows:
        owners.add_row(name, *(f"{row.generation_by_owner[party]:.0f}" for party in report.parties))
    terminal.print(owners)
    errors = ", ".join(
        f"{entry.layer}: {entry.relative_error_vs_centralised:.1e}" for entry in report.layers
    )
    terminal.print(f"relative error against the centralised update by layer: {errors}")
    for check in report.checks:
        mark = "[green]holds[/]" if check.holds else "[bold red]FAILS[/]"
        terminal.print(f"  {mark}  {check.name} {check.bound:g}: {check.value:.3g}")
    files = ", ".join(str(out / f"report.{kind}") for kind in ("md", "json", "png"))
    terminal.print(f"report: {files}", markup=False, soft_wrap=True)
