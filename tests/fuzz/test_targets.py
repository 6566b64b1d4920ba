"""Every entrance keeps its promises on its corpus and on seeded mutations of it."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from tests.fuzz.make_corpus import CORPUS, write_corpus
from tests.fuzz.mutate import mutations
from tests.fuzz.targets import TARGETS

SEED = 1


def module(name: str) -> ModuleType:
    return importlib.import_module(f"tests.fuzz.targets.{name}")


def corpus(name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((CORPUS / name).iterdir())}


def test_the_committed_seeds_are_the_generators(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    for name in TARGETS:
        files = corpus(name)
        kept = {file: data for file, data in files.items() if not file.startswith("regression-")}
        fresh = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        assert kept == fresh, f"run: python -m tests.fuzz.make_corpus ({name} changed)"


def test_every_module_of_targets_is_run() -> None:
    files = {path.stem for path in (Path(__file__).parent / "targets").glob("*.py")}
    assert files - {"__init__"} == set(TARGETS)
    assert sum(target.share for target in TARGETS.values()) == 1000


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_breaks_no_promise(name: str) -> None:
    run = module(name).run
    for data in corpus(name).values():
        run(data)


@pytest.mark.parametrize("name", TARGETS)
def test_seeded_mutations_break_no_promise(name: str) -> None:
    target, run = TARGETS[name], module(name).run
    seeds = list(corpus(name).values())
    for data in mutations(seeds, count=target.quick, seed=SEED, longest=target.longest):
        try:
            run(data)
        except Exception as error:
            error.add_note(f"input of target {name}: {data.hex()}")
            raise
