"""What an experiment file may say, and the cells that it stands for.

Every number that shapes a result is in the file; nothing is in code that runs only one of them.
`docs/experiments.md` explains the fields to those who write files.
"""

import itertools
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import Field, ValidationError, model_validator

from collabedit.editing import EditorName
from collabedit.errors import InputError
from collabedit.section import Name, Section
from collabedit.threat_model import MAXIMUM_PARTIES, MINIMUM_PARTIES

Method: TypeAlias = Literal[
    "unedited",
    "simple-average",
    "task-arithmetic",
    "ties",
    "collabedit-parallel",
    "collabedit-sequential",
    "centralised",
]
Policy: TypeAlias = Literal["none", "keep", "majority", "drop", "augment"]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]

PROTOCOL: frozenset[Method] = frozenset({"collabedit-parallel", "collabedit-sequential"})
"""Methods that run the real protocol; the others merge nothing, or in clear."""

REMEMBERING: frozenset[Method] = PROTOCOL | {"centralised"}
"""Methods that can keep the keys of earlier rounds."""

MAXIMUM_FILE_BYTES = 1 << 20


class ModelSource(Section):
    """Which model.

    Attributes:
        name: for people; `smollm2-135m-instruct` is fetched if no directory is given.
        directory: of a checkpoint, relative to the file; `--model` overrides it.
        dtype: of the weights.
        config: values of its `config.json`, for a dry run without the checkpoint.
    """

    name: Name
    directory: str | None = None
    dtype: Literal["float64", "float32", "bfloat16", "float16"] = "float32"
    config: dict[str, Any] | None = None


class DataSource(Section):
    """Which edits.

    Attributes:
        source: `facts` are the project's own 60, `file` those of `path` or `--data`.
        path: of a CounterFact, flat or zsRE file, relative to the experiment file.
        fallback: take the facts if no file is given; refused otherwise.
    """

    source: Literal["facts", "file"] = "facts"
    path: str | None = None
    fallback: bool = False


class CovarianceSource(Section):
    """Text for E[kkᵀ], as `collabedit covariance` takes it."""

    source: str = "self-samples"
    tokens: Annotated[int, Field(ge=1)] = 16_384
    window: Annotated[int, Field(ge=1)] = 128
    seed: Annotated[int, Field(ge=0)] = 1


class EditorSettings(Section):
    """An editor with its hyper-parameters; what is left out is as published.

    Attributes:
        label: in tables and figures; the editor's name if left out.
        editor: which one.
        layers: to edit, ascending.
        covariance_weight, nullspace_threshold, l2, shift: the editor's own, as in a plan.
        target_steps: of the target search.
    """

    label: str | None = None
    editor: EditorName = "memit"
    layers: Annotated[tuple[int, ...], Field(min_length=1, strict=False)] | None = None
    covariance_weight: Annotated[float, Field(gt=0)] | None = None
    nullspace_threshold: Annotated[float, Field(gt=0)] | None = None
    l2: Annotated[float, Field(gt=0)] | None = None
    shift: float | None = None
    target_steps: Annotated[int, Field(ge=1, le=1000)] | None = None

    @property
    def title(self) -> str:
        """What tables call it."""
        return self.label or self.editor


_SOME = Field(min_length=1, strict=False)


class Grid(Section):
    """All combinations of these values, less those in which a value has no meaning.

    Attributes:
        methods: ways to edit.
        parties: how many.
        edits_per_party: in each round.
        rounds: sessions one after the other, each with edits of its own.
        overlap: share of a party's edits that every other party has too.
        conflict: share of a party's edits that a third of the parties contradict.
        policy: what a session does about edits that parties share or contest; `none` does not
            count them.
        memory: what a past edit weighs in later rounds against a new one, 0 for no memory
            (AlphaEdit takes 1, the published code of CollabEdit λ).
        seeds: each draws other records.
    """

    methods: Annotated[tuple[Method, ...], _SOME]
    parties: Annotated[
        tuple[Annotated[int, Field(ge=MINIMUM_PARTIES, le=MAXIMUM_PARTIES)], ...], _SOME
    ]
    edits_per_party: Annotated[tuple[Annotated[int, Field(ge=1, le=100_000)], ...], _SOME]
    rounds: Annotated[tuple[Annotated[int, Field(ge=1, le=1000)], ...], _SOME] = (1,)
    overlap: Annotated[tuple[Share, ...], _SOME] = (0.0,)
    conflict: Annotated[tuple[Share, ...], _SOME] = (0.0,)
    policy: Annotated[tuple[Policy, ...], _SOME] = ("none",)
    memory: Annotated[tuple[Annotated[float, Field(ge=0, le=1e9)], ...], _SOME] = (0.0,)
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], _SOME] = (0,)


class Measures(Section):
    """What is measured beside efficacy, paraphrase, neighbourhood and generation.

    Attributes:
        perplexity: of the project's held-out text.
        fluency_texts: texts of 100 tokens that each edited model writes; 0 leaves fluency out.
    """

    perplexity: bool = True
    fluency_texts: Annotated[int, Field(ge=0, le=10_000)] = 0


class Acceptance(Section):
    """Bounds on the results; a run that misses one ends with exit code 7.

    Attributes:
        first_layer_error: largest relative error of a protocol method's update against the
            centralised one, at the first edited layer.
        layer_error: the same at any layer.
        score_gap: largest difference between the mean Scores of `collabedit-sequential` and of
            `centralised` over cells that differ in nothing else, in points.
    """

    first_layer_error: Annotated[float, Field(gt=0)] | None = None
    layer_error: Annotated[float, Field(gt=0)] | None = None
    score_gap: Annotated[float, Field(gt=0)] | None = None

    def measurable(self, methods: frozenset[Method]) -> "Acceptance":
        """Keep the bounds that cells of these methods can be held against."""
        sessions = bool(PROTOCOL & methods)
        both = {"collabedit-sequential", "centralised"} <= methods
        return Acceptance(
            first_layer_error=self.first_layer_error if sessions else None,
            layer_error=self.layer_error if sessions else None,
            score_gap=self.score_gap if both else None,
        )


class FigureRequest(Section):
    """A figure: which kind, of which metric.

    Attributes:
        kind: `curve` against the number of edits, `forgetting` of each round's edits over the
            rounds, `overlap` against its rate, `conflict` by policy, `bars` by method or editor.
        metric: name of a row's metric; by default what the kind is usually about.
    """

    kind: Literal["curve", "forgetting", "overlap", "conflict", "bars"]
    metric: str | None = None


class Cell(Section):
    """One point of the grid."""

    method: Method
    editor: EditorSettings
    parties: int
    edits_per_party: int
    rounds: int
    overlap: float
    conflict: float
    policy: Policy
    memory: float
    seed: int

    @property
    def schedule(self) -> Literal["sequential", "parallel"]:
        """Of the method's session, or of its closed form."""
        return "parallel" if self.method == "collabedit-parallel" else "sequential"

    @property
    def label(self) -> str:
        """For people, short."""
        parts = [self.method, self.editor.title, f"{self.parties}x{self.edits_per_party}"]
        if self.rounds > 1:
            parts.append(
                f"{self.rounds} rounds{f' with memory {self.memory:g}' if self.memory else ''}"
            )
        if self.overlap:
            parts.append(f"overlap {self.overlap:.0%}")
        if self.conflict:
            parts.append(f"conflict {self.conflict:.0%}")
        if self.overlap or self.conflict:
            parts.append(self.policy)
        return ", ".join([*parts, f"seed {self.seed}"])


class Experiment(Section):
    """A validated experiment file.

    Attributes:
        title: of tables and figures.
        grids: their cells together, each once.
    """

    version: Literal[1]
    name: Name
    title: str
    model: ModelSource
    data: DataSource = DataSource()
    covariance: CovarianceSource | None = CovarianceSource()
    editors: Annotated[tuple[EditorSettings, ...], _SOME]
    grids: Annotated[tuple[Grid, ...], _SOME]
    measures: Measures = Measures()
    acceptance: Acceptance = Acceptance()
    figures: Annotated[tuple[FigureRequest, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _check(self) -> "Experiment":
        methods = frozenset(method for grid in self.grids for method in grid.methods)
        if self.acceptance != self.acceptance.measurable(methods):
            raise ValueError("acceptance has a bound that no cell of these methods measures")
        titles = [editor.title for editor in self.editors]
        if len(set(titles)) != len(titles):
            raise ValueError("two editors have the same label")
        for editor in self.editors:
            if editor.editor != "ridge" and self.covariance is None:
                raise ValueError(f"editor {editor.title} needs a covariance")
        for grid in self.grids:
            for edits, overlap, conflict in itertools.product(
                grid.edits_per_party, grid.overlap, grid.conflict
            ):
                shared, contested = round(edits * overlap), round(edits * conflict)
                if shared + contested > edits:
                    raise ValueError(
                        f"overlap {overlap:g} and conflict {conflict:g} take more than the "
                        f"{edits} edits of a party"
                    )
                if (overlap and not shared) or (conflict and not contested):
                    raise ValueError(
                        f"overlap {overlap:g} or conflict {conflict:g} of {edits} edits is none"
                    )
        return self

    def cells(self, *, only: frozenset[Method] | None = None) -> tuple[Cell, ...]:
        """Expand the grids, in order.

        Args:
            only: leave out other methods.
        """
        found: dict[Cell, None] = {}
        for grid in self.grids:
            for (
                seed,
                editor,
                parties,
                edits,
                rounds,
                overlap,
                conflict,
                method,
            ) in itertools.product(
                grid.seeds,
                self.editors,
                grid.parties,
                grid.edits_per_party,
                grid.rounds,
                grid.overlap,
                grid.conflict,
                grid.methods,
            ):
                if only is not None and method not in only:
                    continue
                treats = method in PROTOCOL and bool(overlap or conflict)
                remembers = method in REMEMBERING and rounds > 1
                for policy, memory in itertools.product(
                    grid.policy if treats else ("none",), grid.memory if remembers else (0.0,)
                ):
                    cell = Cell(
                        method=method,
                        editor=self.editors[0] if method == "unedited" else editor,
                        parties=parties,
                        edits_per_party=edits,
                        rounds=rounds,
                        overlap=overlap,
                        conflict=conflict,
                        policy=policy,
                        memory=memory,
                        seed=seed,
                    )
                    found.setdefault(cell)
        return tuple(found)


def load_experiment(path: Path) -> Experiment:
    """Read an experiment file.

    Raises:
        InputError: missing, too large, not UTF-8, not TOML or not a valid experiment; one line
            that names the first field at fault.
    """
    try:
        if path.stat().st_size > MAXIMUM_FILE_BYTES:
            raise InputError(f"{path}: larger than {MAXIMUM_FILE_BYTES} bytes, not an experiment")
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot read the experiment: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not TOML: {error}") from error
    try:
        return Experiment.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{path}: {name + ': ' if name else ''}{reason}") from None


def parse_methods(names: list[str]) -> frozenset[Method]:
    """Read names of methods.

    Raises:
        InputError: no such method.
    """
    known: tuple[Method, ...] = get_args(Method)
    for name in names:
        if name not in known:
            raise InputError(f"--only {name}: no such method; there are {', '.join(known)}")
    return frozenset(method for method in known if method in names)
