"""The table of closed sums says what its rows show; small, on random keys."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from collabedit.attacks.attack import Prior
from collabedit.attacks.span import range_basis
from collabedit.attacks.views import AggregatorView, statistics_of
from collabedit.closed import Closed
from collabedit.exchange import plan_encoding
from collabedit.ids import LayerIndex, TaskIndex
from collabedit.party.basis import Rotation
from tests.audit import closed_sums_table
from tests.audit.closed_rows import AttackName, Row, markdown
from tests.audit.closed_sums_table import Setting, failures, fitted, main, measure
from tests.audit.closed_world import Defence, World, deal, plan_for, view_of
from tests.support.federations import build_federation

SIZE, OUTPUTS, POOL = 160, 40, 80
TINY = Setting(pool=POOL, targets=6, draws=2, spectrum_draws=2, edits=(12,), steps=20)


@pytest.fixture(scope="module")
def world() -> World:
    rng = np.random.default_rng(0)
    keys = rng.laplace(size=(SIZE, POOL)) / np.sqrt(SIZE)
    prior = Prior({LayerIndex(0): keys})
    plan = build_federation(3, mapped=SIZE, outputs=OUTPUTS).plan
    residuals = rng.normal(size=(OUTPUTS, TINY.targets))
    return World(plan, {"exact": prior, "generic": prior}, residuals, "random keys")


def rows_of(world: World, *names: AttackName, defence: Defence, draws: int = 4) -> list[Row]:
    return measure(
        world,
        names,
        defence=defence,
        prior="exact",
        parties=3,
        edits=12,
        covers=2,
        draws=draws,
        steps=20,
    )


@pytest.mark.parametrize("defence", ["uploads", "sum"])
def test_open_directions_leak_and_pass_as_controls(world: World, defence: Defence) -> None:
    rows = rows_of(world, "span", "leverage", defence=defence, draws=8)
    rows += measure(
        world,
        ("kster",),
        defence=defence,
        prior="exact",
        parties=3,
        edits=TINY.targets,
        covers=0,
        draws=20,
        steps=0,
        targets=True,
    )
    assert [row.recall.value for row in rows] == [1.0, 1.0, 1.0]
    assert not failures(rows)


@pytest.mark.parametrize("defence", ["basis", "basis+covers"])
def test_a_secret_basis_holds(world: World, defence: Defence) -> None:
    rows = rows_of(world, "span", "leverage", defence=defence, draws=12)
    assert not failures(rows)
    assert all(abs(row.auc.value - 0.5) < 0.15 for row in rows)
    assert {row.covers_each for row in rows} == {2 if defence == "basis+covers" else 0}


def test_a_party_without_edits_makes_no_row(world: World) -> None:
    (row,) = measure(
        world,
        ("span",),
        defence="uploads",
        prior="exact",
        parties=4,
        edits=3,
        covers=0,
        draws=4,
        steps=0,
    )
    assert row.recall.value == 1.0


def test_what_is_not_as_claimed_is_named(world: World) -> None:
    (row,) = rows_of(world, "span", defence="sum", draws=8)
    undefended = replace(row, defence="basis")
    chance = replace(row, auc=replace(row.auc, value=0.5, low=0.4, high=0.6), above=0.0)
    spectrum = replace(undefended, attack="spectrum", edits=30)
    assert failures([undefended]) == [
        "span on basis, exact prior, 3 parties, 12 edits, 0 covers each: above chance"
    ]
    assert "does not leak" in failures([chance])[0]
    assert "AUC above" in failures([spectrum])[0]
    assert not failures([row, replace(chance, defence="basis"), replace(spectrum, edits=10)])


def test_a_basis_that_does_nothing_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rotation, "apply", lambda _self, columns: columns)
    assert failures(rows_of(world, "span", defence="basis"))


def test_covers_are_in_the_sum_and_shares_are_even(world: World) -> None:
    shares = deal(np.arange(7), 3)
    assert [list(share) for share in shares] == [[0, 3, 6], [1, 4], [2, 5]]
    rng = np.random.default_rng(0)
    view = view_of(world, shares, defence="basis+covers", covers=2, rng=rng)
    wanted = Closed(cover_edits=2)
    assert view.plan == plan_for(world.plan, sizes=[3, 2, 2], closed=wanted, statistics="sketch")
    assert opened_rank(view) == 7 + 6
    assert opened_rank(view_of(world, shares, defence="basis", covers=2, rng=rng)) == 7


def opened_rank(view: AggregatorView) -> int:
    layer = view.plan.editing.layers[0].index
    gram, _ = statistics_of(view.plan, LayerIndex(layer), view.sums[TaskIndex(0)])
    return int(range_basis(gram, noise=plan_encoding(view.plan).step).shape[1])


def test_a_small_pool_leaves_out_the_larger_sessions() -> None:
    setting = fitted(replace(TINY, edits=(12, 30, 60)), 60)
    assert setting.edits == (12, 30)
    assert setting.pool == 60


def test_the_command_writes_every_row_and_judges(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closed_sums_table, "read_world", lambda _options, _setting: world)
    monkeypatch.setattr(closed_sums_table, "DEFAULT", TINY)
    monkeypatch.setattr(closed_sums_table, "PARTIES", (3,))
    monkeypatch.setattr(closed_sums_table, "SPECTRUM_SIZES", (1, 3))
    # Of two draws no interval is narrow: what is asked of controls is tested above.
    monkeypatch.setattr(closed_sums_table, "CONTROL", 0.6)
    out = tmp_path / "table.json"
    status = main(["--out", str(out)])
    record = json.loads(out.read_text())
    assert status == bool(record["failures"])
    assert {row["attack"] for row in record["attacks"]} == {
        "span",
        "leverage",
        "kster",
        "ica",
        "spectrum",
    }
    assert {row["defence"] for row in record["attacks"]} == set(closed_sums_table.DEFENCES)
    assert {row["edits"] for row in record["spectrum"]} == {1, 3, 12}


def test_the_table_is_markdown(world: World) -> None:
    rows = rows_of(world, "span", defence="sum")
    head, rule, row = markdown(rows).splitlines()
    assert head.count("|") == rule.count("|") == row.count("|") == 11
    assert "chance" in row
