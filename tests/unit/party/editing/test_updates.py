"""Updates on disk form a chain, and a file that is not the next link is named and refused."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from collabedit.errors import InputError
from collabedit.ids import LayerIndex
from collabedit.party.editing.apply import apply_update
from collabedit.party.editing.editor import load_plan_model, start_weights
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.updates import (
    SavedUpdate,
    continued,
    load_chain,
    load_history,
    load_update,
    move_other_update,
    save_updates,
)
from collabedit.plan import Plan
from collabedit.sketch import LowRankUpdate
from tests.support.federations import build_federation
from tests.support.saved_models import report

BASE = build_federation(3).plan
WEIGHTS = BASE.model.weights


def plan_after(previous: Sequence[str]) -> Plan:
    values: dict[str, Any] = BASE.model_dump(mode="json", exclude_none=True)
    if previous:
        values["model"]["previous"] = list(previous)
    return Plan.model_validate(values)


def low_rank(number: int, shape: tuple[int, int] = (32, 48)) -> LowRankUpdate:
    rng = np.random.default_rng(number)
    return LowRankUpdate(rng.normal(size=(shape[0], 2)), rng.normal(size=(2, shape[1])) * 1e-3)


@pytest.fixture
def chain(tmp_path: Path) -> list[SavedUpdate]:
    """Three sessions, each on top of the ones before."""
    saved: list[SavedUpdate] = []
    for number in range(1, 4):
        path = tmp_path / f"update-{number}.safetensors"
        plan = plan_after([earlier.session for earlier in saved])
        updates = {LayerIndex(layer): low_rank(10 * number + layer) for layer in (1, 3)}
        save_updates(path, updates, plan=plan, session=report(plan, number))
        saved.append(load_update(path, weights=WEIGHTS))
    return saved


def paths(chain: Sequence[SavedUpdate]) -> list[Path]:
    return [saved.path for saved in chain]


def names(chain: Sequence[SavedUpdate]) -> list[str]:
    return [saved.session for saved in chain]


def test_a_file_comes_back_as_it_was_written(chain: list[SavedUpdate]) -> None:
    assert len(set(names(chain))) == 3
    for number, saved in enumerate(chain, 1):
        assert list(saved.previous) == names(chain)[: number - 1]
        for layer in (1, 3):
            want = low_rank(10 * number + layer)
            np.testing.assert_array_equal(saved.updates[LayerIndex(layer)].left, want.left)
            np.testing.assert_array_equal(saved.updates[LayerIndex(layer)].right, want.right)


def test_a_whole_history_is_read(chain: list[SavedUpdate]) -> None:
    history = load_history(paths(chain), weights=WEIGHTS, sessions=names(chain))
    assert names(history) == names(chain) == names(load_chain(paths(chain), weights=WEIGHTS))
    assert load_history([], weights=WEIGHTS, sessions=[]) == ()


Case = tuple[Callable[[list[Path]], list[Path]], int | None, str]
WRONG: dict[str, Case] = {
    # how the files are given, which of them is named, what is said
    "none": (lambda files: [], None, "continues 3 sessions, and 0 updates are given: add --prev"),
    "the last is missing": (lambda files: files[:2], None, "2 updates are given: add --previous"),
    "the first is missing": (lambda files: files[1:], 1, "is the update of session 2 .* number 1"),
    "two exchanged": (lambda files: [files[0], files[2], files[1]], 2, "session 3 .* number 2"),
    "one twice": (lambda files: [files[0], *files], 0, "session 1 .* given as number 2"),
    "too many": (lambda files: [*files, files[0]], 0, "one update too many.* 3 sessions"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_another_history_than_the_plan_s_is_refused(wrong: str, chain: list[SavedUpdate]) -> None:
    give, named, said = WRONG[wrong]
    with pytest.raises(InputError, match=said) as caught:
        load_history(give(paths(chain)), weights=WEIGHTS, sessions=names(chain))
    message = str(caught.value)
    assert "\n" not in message
    if named is None:
        assert message.startswith("the plan continues")
    else:
        assert message.startswith(f"{paths(chain)[named]}: ")


def test_an_update_of_another_session_is_refused(chain: list[SavedUpdate], tmp_path: Path) -> None:
    plan = plan_after(names(chain)[:1])
    other = tmp_path / "other.safetensors"
    save_updates(other, chain[1].updates, plan=plan, session=report(plan, 9))
    with pytest.raises(InputError, match=r"other\.safetensors: was made in session sha256:.*"):
        load_history([chain[0].path, other], weights=WEIGHTS, sessions=names(chain)[:2])


def test_a_plan_that_skips_a_session_is_refused(chain: list[SavedUpdate]) -> None:
    skipping = [chain[0], chain[2]]
    with pytest.raises(InputError, match="continues 2 sessions, and not just the 1 given before"):
        load_history(paths(skipping), weights=WEIGHTS, sessions=names(skipping))
    with pytest.raises(InputError, match="continues 1 session, and not just the 0 given before"):
        load_chain(paths(chain)[1:], weights=WEIGHTS)


def test_an_update_for_other_weights_is_refused(chain: list[SavedUpdate]) -> None:
    other = "sha256:" + "cd" * 32
    with pytest.raises(InputError, match=f"was made for weights {WEIGHTS}, these are {other}"):
        load_history(paths(chain), weights=other, sessions=names(chain))


def rewrite(path: Path, *, number: float = 0.0, **header: str) -> None:
    with safe_open(path, framework="pt") as stream:
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        metadata = {**stream.metadata(), **header}
    tensors["layer.1.left"][0, 0] += number
    save_file(tensors, path, metadata)


@pytest.mark.parametrize(
    ("number", "header", "said"),
    [
        (1e-12, {}, "is damaged: get the same file"),
        (0.0, {"digest": "sha256:" + "00" * 32}, "its parts give another session"),
        (0.0, {"session": "00" * 32}, "its parts give another session"),
        (0.0, {"released": "[]"}, "its parts give another session"),
        (0.0, {"plan": "zz"}, "is no complete update"),
        (0.0, {"released": "[1]"}, "is no complete update"),
        (0.0, {"previous": "{"}, "is no complete update"),
        (0.0, {"layers": json.dumps([1, 2])}, "is no complete update"),
    ],
)
def test_damage_is_named(
    number: float, header: dict[str, str], said: str, chain: list[SavedUpdate]
) -> None:
    rewrite(chain[0].path, number=number, **header)
    with pytest.raises(InputError, match=said) as caught:
        load_update(chain[0].path, weights=WEIGHTS)
    assert str(caught.value).startswith(str(chain[0].path))


def test_the_update_of_another_session_is_moved_aside(
    chain: list[SavedUpdate], tmp_path: Path
) -> None:
    first, second = chain[:2]
    assert move_other_update(tmp_path / "none", session=first.session) is None
    assert move_other_update(first.path, session=first.session) is None
    content = first.path.read_bytes()
    aside = move_other_update(first.path, session=second.session)
    assert aside is not None
    assert aside.name == f"update-1-{first.session.removeprefix('sha256:')[:16]}.safetensors"
    assert aside.read_bytes() == content
    assert not first.path.exists()
    first.path.write_text("something else")
    with pytest.raises(InputError, match="cannot be read"):
        move_other_update(first.path, session=second.session)


def test_a_history_is_applied_in_order_and_taken_back(
    model: EditableModel, chain: list[SavedUpdate]
) -> None:
    before = model.weights_digest()
    with continued(model, chain):
        inside = model.weights_digest()
    assert model.weights_digest() == before != inside
    with continued(model, chain[:2]):
        undos = [apply_update(model, layer, low_rank(30 + layer)) for layer in (1, 3)]
        assert model.weights_digest() == inside
        for undo in undos:
            undo.restore()


def test_a_history_that_does_not_fit_leaves_the_model_as_it_was(
    model: EditableModel, tmp_path: Path
) -> None:
    path = tmp_path / "narrow.safetensors"
    updates = {LayerIndex(1): low_rank(1), LayerIndex(3): low_rank(2, (32, 47))}
    save_updates(path, updates, plan=BASE, session=report(BASE, 1))
    before = model.weights_digest()
    with (
        pytest.raises(InputError, match=r"narrow\.safetensors: update of layer 3 has shape"),
        continued(model, [load_update(path, weights=WEIGHTS)]),
    ):
        pass
    assert model.weights_digest() == before


def test_the_start_of_a_session_is_named_by_what_it_was_made_of(chain: list[SavedUpdate]) -> None:
    assert start_weights(BASE) is None
    starts = {start_weights(plan_after(names(chain)[:count])) for count in (1, 2, 3)}
    assert len(starts) == 3


def test_a_stale_model_is_refused_before_it_is_loaded(
    chain: list[SavedUpdate], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="the plan continues 3 sessions"):
        load_plan_model(plan_after(names(chain)), tmp_path / "no model", previous=paths(chain)[:1])
