"""Attacks by entry point: ours are all there, others' appear, and what is wrong is named."""

import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest

from collabedit.attacks.attack import Finding, Prior
from collabedit.attacks.registry import Entry, discover, find, installed
from collabedit.attacks.views import AggregatorView
from collabedit.errors import InputError
from collabedit.threat_model import Adversary


@dataclass(frozen=True)
class Guess:
    """Guesses."""

    seed: int = 0
    tries: int = 3
    name: str = "guess"
    adversary: Adversary = Adversary.NETWORK

    def run(self, view: AggregatorView, prior: Prior) -> Finding:
        raise NotImplementedError


def entry(name: str = "guess") -> Entry:
    return Entry(
        name=name,
        asks="?",
        adversary=Adversary.NETWORK,
        view=AggregatorView,
        make=Guess,
        source="none",
        departs="in nothing",
        headline="auc",
    )


def install(directory: Path, package: str, points: dict[str, str], code: str) -> None:
    """Lay a package out as an installer does."""
    info = directory / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = "\n".join(f"{name} = {value}" for name, value in points.items())
    (info / "entry_points.txt").write_text(f"[collabedit.attacks]\n{lines}\n")
    (directory / f"{package.replace('-', '_')}.py").write_text(code)


FOREIGN = """
from tests.unit.attacks.test_registry import entry
ENTRY = entry("{name}")
"""


def test_every_attack_of_the_package_is_there_under_its_own_name() -> None:
    found = installed()
    declared = {point.name for point in metadata.distribution("collabedit").entry_points}
    assert set(found) == {name for name in declared if name != "collabedit"}
    for name, each in found.items():
        attack = each.create({}, seed=1)
        assert (attack.name, attack.adversary) == (name, each.adversary)
        assert each.package == "collabedit"
        assert each.asks.endswith("?")
        assert each.source
        assert each.departs


def test_an_attack_of_another_package_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(
        tmp_path, "guessing", {"wild-guess": "guessing:ENTRY"}, FOREIGN.format(name="wild-guess")
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = installed()["wild-guess"]
    assert (found.package, found.view) == ("guessing", AggregatorView)


@pytest.mark.parametrize(
    ("point", "code", "said"),
    [
        ("broken", "raise RuntimeError('no')", "cannot be loaded: no"),
        ("broken", "ENTRY = 7", "is no `collabedit"),
        ("broken", FOREIGN.format(name="other"), "with the name broken of its entry point"),
        ("sum-span", FOREIGN.format(name="sum-span"), "both have an attack sum-span"),
    ],
)
def test_a_package_at_fault_is_named(
    point: str, code: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"faulty{abs(hash((point, code)))}"
    install(tmp_path, module, {point: f"{module}:ENTRY"}, code)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with pytest.raises(InputError, match=said) as caught:
            installed()
        with pytest.raises(InputError, match=said):
            find(point)
        # Whoever asks for another attack is not held up.
        assert find("leverage").package == "collabedit"
        found, faults = discover()
        assert set(faults) == {point}
        assert point not in found
        assert "leverage" in found
    finally:
        sys.modules.pop(module, None)
    assert module in str(caught.value)


def test_settings_go_before_the_seed_and_unknown_ones_are_refused() -> None:
    made = entry().create({"tries": 5}, seed=7)
    assert made == Guess(seed=7, tries=5)
    assert entry().create({"seed": 9}, seed=7) == Guess(seed=9)
    with pytest.raises(InputError, match="has no setting steps; there are adversary, name, seed"):
        entry().create({"steps": 1}, seed=7)


@pytest.mark.parametrize("name", ["", "Upper", "a b", "-a", "a-", "a--b", "a\n"])
def test_a_name_is_short_and_plain(name: str) -> None:
    with pytest.raises(ValueError, match="no name of an attack"):
        entry(name)
