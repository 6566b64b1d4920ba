"""Sessions of an audit on a tiny model: deployed machines, the same to the bit when repeated."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from collabedit.attacks.registry import Need, installed
from collabedit.attacks.scoring import Score
from collabedit.attacks.views import AggregatorView, ColludingView, RecipientView, SessionPair
from collabedit.audit.attacking import KeysTask, _prior, prepare_keys
from collabedit.audit.defences import DEFENCES, DefenceName
from collabedit.audit.keeping import load_session, save_session
from collabedit.audit.pool import Candidates, draw_candidates
from collabedit.audit.running import AuditJobs, make_jobs
from collabedit.audit.schema import Audit, Cell
from collabedit.audit.sessions import Session, SessionTask, run_session
from collabedit.audit.views import KINDS, Seen, ViewKind, kind_of, lacking, register
from collabedit.errors import InputError
from collabedit.experiments.cell import Bench
from collabedit.experiments.deal import load_pool
from collabedit.experiments.schema import Measures
from collabedit.experiments.shared import bench_for
from collabedit.grid import Job
from collabedit.ids import LayerIndex, TaskIndex
from collabedit.simulation import Simulation
from tests.support.randomness import InsecureTestRandomness
from tests.support.tiny_models import build_tiny_model

ALL: tuple[DefenceName, ...] = tuple(DEFENCES)


def audit_of(**changes: object) -> Audit:
    return Audit.model_validate(
        {
            "version": 1,
            "name": "tiny",
            "title": "t",
            "model": {"name": "tiny", "dtype": "float64"},
            "covariance": {"tokens": 512, "window": 32},
            "editor": {"layers": [1, 2], "covariance_weight": 30.0, "target_steps": 2},
            "pool": {"candidates": 60, "members": 8},
            "grids": [
                {"defences": list(ALL), "parties": [3], "edits": [6]},
                {
                    "attacks": ["collusion", "differencing"],
                    "defences": ["masked", "closed"],
                    "parties": [4],
                    "edits": [6],
                },
            ],
            **changes,
        }
    )


class World:
    """Jobs of an audit in a directory, run one by one."""

    def __init__(self, place: Path, model: Path, audit: Audit) -> None:
        self.audit = audit
        file = place / "audit.toml"
        pool = load_pool(audit.data, beside=file, given=None)
        self.candidates: Candidates = draw_candidates(pool, audit.pool)
        self.bench: Bench = bench_for(
            audit.model,
            audit.covariance,
            Measures(perplexity=False),
            beside=file,
            model=model,
            cache=place / "cache",
            device="cpu",
        )
        known = installed()
        self.jobs: AuditJobs = make_jobs(
            audit, audit.cells(known), self.candidates, self.bench, known, beside=file
        )

    def job(self, attack: str, defence: str, parties: int = 3) -> Job:
        return next(
            job
            for cell, job in zip(self.jobs.cells, self.jobs.attacks, strict=True)
            if (cell.attack, cell.setting.defence, cell.setting.parties)
            == (attack, defence, parties)
        )

    def prepare(self, job: Job) -> None:
        for each in self.jobs.preparations:
            if each.id in job.after:
                each.work(each.given)

    def session(self, defence: str, parties: int = 3) -> Session:
        job = self.job("differencing" if parties > 3 else "update-span", defence, parties)
        self.prepare(job)
        again = job.given.again
        repeated = None if again is None else load_session(again[1], again[0])
        return load_session(job.given.path, job.given.session, repeated)

    def scores(self, attack: str, defence: str, parties: int = 3) -> dict[str, dict[str, Score]]:
        job = self.job(attack, defence, parties)
        self.prepare(job)
        result = job.work(job.given)
        assert "seen" in result, result
        return {
            seen["label"]: {each["name"]: Score(**each) for each in seen["scores"]}
            for seen in result["seen"]
        }


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model("llama", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, model: Path) -> World:
    return World(tmp_path_factory.mktemp("audit"), model, audit_of())


@pytest.mark.parametrize("defence", ["plaintext", "masked", "closed", "ckks"])
def test_the_sum_tells_what_was_edited_unless_it_is_closed(world: World, defence: str) -> None:
    found = world.scores("sum-span", defence)[""]["auc"].value
    if DEFENCES[defence].is_closed:  # type: ignore[index]  # a parameter
        assert found < 0.95
    else:
        assert found == 1.0


def test_uploads_tell_whose_edits_are_whose_in_clear_alone(world: World) -> None:
    clear = world.scores("attribution", "plaintext")[""]["attribution"]
    masked = world.scores("attribution", "masked")[""]["attribution"]
    assert clear.value == 1.0
    assert clear.chance == pytest.approx(1 / 3)
    assert masked.value < 1.0
    assert masked.low <= 1 / 3


def test_whoever_has_the_update_finds_its_subjects_under_all_defences_of_sums(
    world: World,
) -> None:
    for defence in ("masked", "closed", "closed+covers", "ckks"):
        assert world.scores("update-span", defence)[""]["auc"].value == 1.0


def test_camouflage_hides_subjects_among_decoys(world: World) -> None:
    assert world.scores("update-span", "camouflage")[""]["auc"].value < 1.0


def test_two_sessions_give_one_party_away_unless_sums_are_closed(world: World) -> None:
    assert world.scores("differencing", "masked", 4)[""]["auc"].value == 1.0
    assert world.scores("differencing", "closed", 4)[""]["auc"].value < 1.0


@pytest.mark.parametrize("defence", ["masked", "closed", "closed+lengths", "ckks"])
def test_a_colluding_party_opens_the_basis_and_is_not_counted_among_its_victims(
    world: World, defence: str
) -> None:
    found = world.scores("collusion", defence)
    assert list(found) == ["2 of 3 parties collude", "1 of 3 parties collude"]
    assert [each["auc"].value for each in found.values()] == [1.0, 1.0]
    sizes = [len(own) for own in world.session(defence).task.shares]
    assert [each["recall@n"].trials for each in found.values()] == [sizes[2], sum(sizes[1:])]


def test_tables_tell_the_aggregator_nothing_and_a_party_everything(world: World) -> None:
    blind = world.scores("table-lookup", "closed+counting")[""]
    assert blind["auc"].value == 0.5
    curious = world.scores("table-lookup-party", "closed+counting")[""]
    assert curious["auc"].value == 1.0
    own = world.job("table-lookup", "closed+counting").given.session.shares
    assert curious["recall@n"].trials == len({number for each in own[1:] for number in each})


def test_copies_are_edited_once(world: World) -> None:
    """All edits of a session that counts are those of a session without copies, each once."""
    task: SessionTask = world.job("table-lookup", "closed+counting").given.session
    world.prepare(world.job("table-lookup", "closed+counting"))
    whole = task.setting.model_copy(update={"scope": "all"})
    counted = run_session(dataclasses.replace(task, setting=whole))
    assert [len(layers) for layers in counted.plan.tasks] == [0, 1, 1]
    assert sum(map(len, task.shares)) > len(task.edits) == 6
    plain = world.session("closed")
    np.testing.assert_allclose(
        counted.released[LayerIndex(1)].dense(), plain.released[LayerIndex(1)].dense(), rtol=1e-4
    )


def test_other_attacks_are_left_out_where_edits_are_counted(world: World) -> None:
    left = {cell.attack: why for cell, why in world.jobs.left_out if _counts(cell)}
    assert "layers are edited as with closed" in left["sum-span"]
    assert "layers are edited as with closed" in left["update-span"]
    run = {cell.attack for cell in world.jobs.cells if _counts(cell)}
    assert run == {"table-lookup", "table-lookup-party"}
    assert {
        why
        for cell, why in world.jobs.left_out
        if cell.attack == "table-lookup" and not _counts(cell)
    } == {"nothing is counted"}


def _counts(cell: Cell) -> bool:
    return cell.setting.defence == "closed+counting"


def test_guesses_about_pairs_are_of_those_whom_the_view_is_about(world: World) -> None:
    job = world.job("collusion", "closed")
    world.prepare(job)
    last, but_first = (seen["guesses"] for seen in job.work(job.given)["seen"])
    # Two of the eight that may be members are not, so there is a pair each for the first two.
    pairs = job.given.keys.candidates.pairs(job.given.session.setting)
    assert [pair.party for pair in pairs] == [1, 2]
    assert last is None
    assert (but_first["pairs"], but_first["made"][0], but_first["right"][0]) == (1, 1, 1)


def test_a_kept_session_is_the_one_that_was_run(world: World, tmp_path: Path) -> None:
    task = world.job("update-span", "closed").given.session
    world.session("closed")
    made = run_session(task)
    save_session(tmp_path / "session.npz", made)
    kept = load_session(tmp_path / "session.npz", task)
    assert (tmp_path / "session.npz").stat().st_mode & 0o777 == 0o600
    assert same(made, kept)
    assert kept.plan == made.plan
    assert kept.outcome.bytes_sent == made.outcome.bytes_sent
    assert kept.outcome.transcript == made.outcome.transcript


def test_a_damaged_session_is_named(world: World, tmp_path: Path) -> None:
    path = tmp_path / "session.npz"
    path.write_bytes(b"PK\x03\x04 no")
    with pytest.raises(InputError, match="cannot be read; remove it"):
        load_session(path, world.job("update-span", "closed").given.session)


def same(first: Session, second: Session) -> bool:
    """Whether all numbers of two sessions are equal to the bit."""
    pairs = [
        *((first.outcome.sums[task], second.outcome.sums[task]) for task in first.outcome.sums),
        *((first.vectors[name], second.vectors[name]) for name in first.vectors),
        *(
            (first.secrets[task].encoded[party], second.secrets[task].encoded[party])
            for task in first.secrets
            for party in first.secrets[task].encoded
        ),
        *(
            (first.released[layer].dense(), second.released[layer].dense())
            for layer in first.released
        ),
    ]
    return all(np.array_equal(*pair) for pair in pairs)


def test_a_session_is_the_same_when_repeated_and_another_with_another_seed(
    world: World,
) -> None:
    task: SessionTask = world.job("update-span", "closed+lengths").given.session
    world.session("closed+lengths")
    first, second = run_session(task), run_session(task)
    assert same(first, second)
    assert first.outcome.transcript == second.outcome.transcript
    other = run_session(dataclasses.replace(task, id="other"))
    assert other.plan == first.plan
    assert not same(first, other)


def test_a_repetition_has_the_same_plan_and_edits_and_one_party_less(world: World) -> None:
    session = world.session("masked", 4)
    again = session.again
    assert again is not None
    assert again.plan == session.plan
    assert np.array_equal(again.vectors["keys"], session.vectors["keys"])
    whole, part = (each.outcome.records[0].survivors for each in (session, again))
    assert whole - part == {4}


def test_one_layer_is_the_first_task_of_all(world: World) -> None:
    task: SessionTask = world.job("update-span", "masked").given.session
    world.session("masked")
    setting = task.setting.model_copy(update={"scope": "all"})
    whole = run_session(dataclasses.replace(task, setting=setting))
    first = run_session(task)
    assert [layer.index for layer in whole.plan.editing.layers] == [1, 2]
    assert [layer.index for layer in first.plan.editing.layers] == [1]
    np.testing.assert_array_equal(first.vectors["residuals"], whole.vectors["residuals"])
    np.testing.assert_allclose(
        first.released[LayerIndex(1)].dense(), whole.released[LayerIndex(1)].dense(), rtol=1e-6
    )


def test_a_session_can_be_played_again_from_what_is_kept(world: World, tmp_path: Path) -> None:
    session = world.session("masked")
    own = session.statistics()
    randomness = InsecureTestRandomness(5)
    outcome = Simulation(
        session.plan,
        identities=session.identities,
        directory=tmp_path,
        randomness=dict.fromkeys(session.identities, randomness),
    ).run(lambda party, _: [own[party]])
    np.testing.assert_array_equal(outcome.sums[TaskIndex(0)], session.outcome.sums[TaskIndex(0)])


def test_the_truth_is_of_the_parties_that_count(world: World) -> None:
    session = world.session("masked")
    truth = session.truth(60)
    assert truth.edited.sum() == 6
    assert len(truth.facts) == 6
    sizes = [len(own) for own in session.task.shares]
    assert truth.quantities == {f"edits of party-{n}": size for n, size in enumerate(sizes, 1)}
    part = session.truth(60, parties=frozenset({session.plan.party_ids[0]}))
    assert part.edited.sum() == len(part.facts) == sizes[0]


def test_an_attack_gets_of_the_prior_what_it_needs(world: World) -> None:
    job = world.job("sum-span", "masked")
    world.prepare(job)
    entry = installed()["sum-span"]
    plain = _prior(job.given, entry)
    assert (plain.subjects, plain.prompts, plain.objects) == ((), (), ())
    assert (plain.model, plain.maps) == (None, {})
    needs: tuple[Need, ...] = ("keys", "subjects", "prompts", "objects", "model", "maps")
    full = _prior(job.given, dataclasses.replace(entry, needs=needs))
    assert full.subjects == world.candidates.subjects
    assert full.prompts == world.candidates.prompts
    assert full.objects == world.candidates.objects
    assert full.model is not None
    assert list(full.maps) == [1]


def test_a_generic_prior_and_an_own_covariance_give_other_keys_to_the_adversary(
    world: World,
) -> None:
    exact = world.job("sum-span", "masked").given.keys
    world.session("masked")
    made = {}
    for name, changes in (
        ("exact", {}),
        ("generic", {"prior": "generic"}),
        ("own", {"reestimate": world.audit.covariance.model_copy(update={"seed": 9})}),  # type: ignore[union-attr]  # it has one
    ):
        path = exact.path.with_name(f"{name}.npz")
        task: KeysTask = dataclasses.replace(exact, path=path, **changes)
        prepare_keys(task)
        with np.load(path) as arrays:
            made[name] = arrays["1"]
    lengths = {name: np.linalg.norm(keys) for name, keys in made.items()}
    assert len(set(lengths.values())) == 3
    assert {keys.shape for keys in made.values()} == {(48, 60)}


class Unknown:
    """A view that nobody makes."""


def test_views_are_made_by_type_and_another_type_can_be_registered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = world.jobs.cells[0].setting
    assert {AggregatorView, RecipientView, SessionPair, ColludingView} <= set(KINDS)
    assert "nothing makes views of its type Unknown" in str(lacking(Unknown, setting))
    monkeypatch.setattr("collabedit.audit.views.KINDS", dict(KINDS))
    kind = ViewKind(Unknown, lambda _: [Seen(Unknown())])
    register(kind)
    register(kind)
    assert kind_of(Unknown) is kind
    assert lacking(Unknown, setting) is None
    with pytest.raises(InputError, match="Unknown are registered twice"):
        register(ViewKind(Unknown, lambda _: []))


def test_a_defence_that_is_not_installed_is_named(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = next(c.setting for c in world.jobs.cells if c.setting.defence == "ckks")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert "pip install 'collabedit[ckks]'" in str(lacking(AggregatorView, setting))


def test_utility_is_measured_on_whole_sessions_of_the_defences_that_are_named(
    world: World, model: Path, tmp_path: Path
) -> None:
    measured = {"measure": True, "defences": ["closed", "camouflage"], "seeds": 1}
    grids = [{"defences": list(ALL), "parties": [3], "edits": [6], "seeds": [1, 2]}]
    jobs = World(tmp_path, model, audit_of(utility=measured, grids=grids)).jobs
    assert [(each.defence, each.scope, each.seed) for each in jobs.settings] == [
        ("closed", "all", 1),
        ("camouflage", "all", 1),
    ]
    assert not world.jobs.utility
