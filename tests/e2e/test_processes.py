"""Whole federations of real processes: the commands that people type, killed where it hurts.

The reference is `demo.methods.edit_alone`: dense MEMIT in one place on the parties' own targets,
statistics computed party by party with as many threads as the processes have.
"""

import base64
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from collabedit.crypto.rng import SystemRandomness
from collabedit.crypto.signing import read_signing_key
from collabedit.demo.methods import Share, Updates, edit_alone, edited, relative_errors
from collabedit.ids import AGGREGATOR, LayerIndex, PartyId, TaskIndex
from collabedit.party.editing.apply import apply_update
from collabedit.party.editing.covariance import load_covariance
from collabedit.party.editing.editor import (
    ModelEditor,
    edited_layers,
    key_maps,
    load_plan_model,
    target_settings,
)
from collabedit.party.editing.model import EditableModel
from collabedit.party.editing.targets import load_targets, settings_digest
from collabedit.party.editing.updates import load_update
from collabedit.party.edits import edits_digest, load_edits
from collabedit.plan import Plan, format_digest
from collabedit.simulation import Simulation
from collabedit.sketch import LowRankUpdate, Matrix
from tests.support.processes import (
    AGGREGATOR_NAME,
    PATIENCE,
    Federation,
    Running,
    Session,
    await_condition,
    build_federation,
    record,
    run_command,
    torch_threads,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FIRST_LAYER_ERROR = {"float32": 1e-8, "float64": 1e-9}
# Norms of transformers' Llama compute in float32 whatever the weights are: a difference of 1e-12
# below one rounds to nothing, mostly, and now and then to 6e-8 of one entry.
LAYER_ERROR = {"float32": 1e-5, "float64": 1e-8}
SLOW_UPLOAD = 9000
"""Bytes per second: about 4 s for a contribution of the federation of five."""


@dataclass(frozen=True)
class Finished:
    """A session that has ended, with all that it left on disk."""

    federation: Federation
    session: Session
    prepared: bytes = b""

    @property
    def plan(self) -> Plan:
        return self.federation.plan

    def model(self) -> EditableModel:
        return load_plan_model(self.plan, self.federation.model, device="cpu")

    def share(self, party: str, model: EditableModel) -> Share:
        """A party's edits, and the targets that its process computed."""
        editing = self.plan.editing
        edits = load_edits(self.federation.member(party).edits)
        settings = settings_digest(
            model,
            layer=edited_layers(editing)[-1],
            templates=editing.context_templates,
            settings=target_settings(editing),
        )
        targets = load_targets(
            self.session.work(party) / "targets.safetensors",
            edits_digest=edits_digest(edits),
            settings_digest=settings,
        )
        return Share(edits, targets)

    def updates(self, party: str) -> Mapping[LayerIndex, LowRankUpdate]:
        path = self.session.work(party) / "update.safetensors"
        return load_update(path, weights=self.plan.model.weights).updates


def centralised(finished: Finished, survivors: Sequence[Sequence[str]]) -> Updates:
    """What one process with the edits of each layer's survivors would have made of the model."""
    plan, model = finished.plan, finished.model()
    covariance = load_covariance(finished.federation.covariance)
    updates: Updates = {}
    with torch_threads(1):
        for task, layers in enumerate(plan.tasks):
            # The rest of the layers on the model as edited so far is a MEMIT run of its own.
            rest = plan.editing.layers[task:]
            editing = plan.editing.model_copy(update={"layers": rest})
            shares = [finished.share(party, model) for party in survivors[task]]
            with edited(model, updates):
                alone = edit_alone(
                    plan.model_copy(update={"editing": editing}), model, covariance, shares
                )
            updates[layers[0].index] = alone[layers[0].index]
    return updates


def assert_parity(
    finished: Finished, parties: Sequence[str], want: Updates, *, later: float | None = None
) -> None:
    dtype = finished.plan.model.dtype
    first = min(want)
    bound = LAYER_ERROR[dtype] if later is None else later
    for party in parties:
        got = {int(layer): update.dense() for layer, update in finished.updates(party).items()}
        errors = relative_errors(got, want)
        assert errors[first] <= FIRST_LAYER_ERROR[dtype], errors
        assert max(errors.values()) <= bound, errors


def assert_same_update(finished: Finished, parties: Sequence[str]) -> None:
    """Released factors are the same everywhere, bit for bit."""
    files = [finished.session.work(party) / "update.safetensors" for party in parties]
    first = load_file(files[0])
    assert len(first) == 4
    for file in files[1:]:
        other = load_file(file)
        assert other.keys() == first.keys()
        assert all(torch.equal(other[name], first[name]) for name in first)


# Three parties that finish.

CANARY = "Xylocanth"


def canary_edits(party: int) -> list[dict[str, object]]:
    """Edits whose every text holds a word that nobody else says."""
    return [
        {
            **record(
                10 * party + index,
                f"{CANARY}{party}{'abc'[index]}",
                ("{} Vorpal plays", "Wobbegong of {}, it says, is", "{} Mimsily")[index],
                f"Quokkaland{party}{index}",
                "Drumlinstan",
            ),
            "paraphrase_prompts": [f"Zyzzyva of {CANARY}{party} is"],
            "neighborhood_prompts": ["Kakapoville is"],
        }
        for index in range(1 + party % 3)
    ]


CANARIES = (
    *(CANARY, "Vorpal", "Wobbegong", "Mimsily"),
    *("Quokkaland", "Drumlinstan", "Zyzzyva", "Kakapoville"),
)

# In GPT-2 everything computes in float64; Llama's norms and rotations compute in float32 whatever
# the model's dtype is, but the reference reads the same batches, so its bits are the same ones.
MODELS = (("llama", "float32"), ("llama", "float64"), ("gpt2", "float64"))


@pytest.fixture(scope="module", params=MODELS, ids="-".join)
def three(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Finished]:
    """A finished session of three; party-1 had prepared its targets before."""
    model_type, dtype = request.param
    root = tmp_path_factory.mktemp(f"three-{model_type}-{dtype}")
    federation = build_federation(
        root / "federation",
        parties=3,
        model_type=model_type,
        dtype=dtype,
        edits=[canary_edits(party) for party in (1, 2, 3)],
    )
    with Session(federation, root / "session", debug=True) as session:
        work, member = session.work("party-1"), federation.member("party-1")
        run_command(
            *("party", "prepare", "--plan", federation.plan_file, "--name", "party-1"),
            *("--model", federation.model, "--edits", member.edits, "--work", work),
            *("--threads", 1),
        ).ok()
        prepared = (work / "targets.safetensors").read_bytes()
        for party in federation.parties:
            session.start(party)
        for running in session.everybody:
            assert running.wait() == 0, running.text
        yield Finished(federation, session, prepared)


def test_everybody_gets_the_same_update_and_it_is_the_centralised_one(three: Finished) -> None:
    parties = three.federation.parties
    assert_same_update(three, parties)
    assert_parity(three, parties, centralised(three, [parties, parties]))


def test_the_reports_say_who_is_in_the_sums(three: Finished) -> None:
    reports = [three.session.parties[party].report for party in three.federation.parties]
    aggregator = three.session.aggregator.report
    everybody = [list(three.federation.parties)] * 2
    assert aggregator["aborted"] is None
    for report in [*reports, aggregator]:
        assert report["plan"] == format_digest(three.plan.digest)
        assert [task["survivors"] for task in report["tasks"]] == everybody
        assert [task["layers"] for task in report["tasks"]] == [[1], [3]]
    for digest in ("sum_digest", "update_digest"):
        said = {
            tuple(task[digest] for task in report["tasks"]) for report in [*reports, aggregator]
        }
        assert len(said) == 1
    assert len({report["session"] for report in [*reports, aggregator]}) == 1


def test_a_simulation_in_one_process_makes_the_same_update(three: Finished, tmp_path: Path) -> None:
    plan, model = three.plan, three.model()
    maps = key_maps(plan, load_covariance(three.federation.covariance))
    editors = {}
    for party in plan.party_ids:
        share = three.share(plan.party_name(party), model)
        editors[party] = ModelEditor(plan, model, share.edits, share.targets, maps)
    members = {party: three.federation.member(plan.party_name(party)) for party in plan.party_ids}
    members[AGGREGATOR] = three.federation.aggregator
    applied: set[TaskIndex] = set()

    def contribute(party: PartyId, task: TaskIndex) -> list[tuple[Matrix, Matrix]]:
        return editors[party].statistics(plan.tasks[task])

    def apply(party: PartyId, task: TaskIndex, updates: Mapping[LayerIndex, LowRankUpdate]) -> None:
        # All editors stand on one model.
        if task not in applied:
            applied.add(task)
            editors[party].apply(updates)

    simulation = Simulation(
        plan,
        identities={party: read_signing_key(member.identity) for party, member in members.items()},
        directory=tmp_path,
        randomness=dict.fromkeys(members, SystemRandomness()),
    )
    with torch_threads(1):
        outcome = simulation.run(contribute, apply)
    wanted = {
        int(layer): update.dense()
        for editor in editors.values()
        for layer, update in editor.updates.items()
    }
    assert len(outcome.sums) == len(wanted) == 2
    assert_parity(three, three.federation.parties, wanted)
    # In a basis of its own: nobody can tell by the sums that both are of the same edits.
    simulated = {format_digest(record.sum_digest) for record in outcome.records}
    for name in three.federation.parties:
        tasks = three.session.parties[name].report["tasks"]
        assert not {task["sum_digest"] for task in tasks} & simulated


def test_the_checkpoint_loads_and_has_exactly_the_edited_weights(three: Finished) -> None:
    model = three.model()
    before = {name: tensor.clone() for name, tensor in model.hf.state_dict().items()}
    for layer, update in three.updates("party-2").items():
        apply_update(model, layer, update)
    written, loading = AutoModelForCausalLM.from_pretrained(
        three.session.checkpoint("party-2"),
        dtype=getattr(torch, three.plan.model.dtype),
        local_files_only=True,
        output_loading_info=True,
    )
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    wanted, found = model.hf.state_dict(), written.state_dict()
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    changed = {name for name in found if not torch.equal(found[name], before[name])}
    edited_names = {
        name
        for name, parameter in model.hf.named_parameters()
        if any(parameter is model.weight(layer) for layer in (1, 3))
    }
    assert changed == edited_names
    assert len(changed) == 2


def test_applying_the_stored_update_gives_the_same_weights(three: Finished, tmp_path: Path) -> None:
    output = tmp_path / "applied"
    run_command(
        *("party", "apply", "--plan", three.federation.plan_file),
        *("--model", three.federation.model),
        *("--update", three.session.work("party-3") / "update.safetensors", "--output", output),
    ).ok()
    applied = load_file(output / "model.safetensors")
    joined = load_file(three.session.checkpoint("party-1") / "model.safetensors")
    assert applied.keys() == joined.keys()
    assert all(torch.equal(applied[name], joined[name]) for name in joined)


def test_targets_that_were_prepared_are_used_again(three: Finished) -> None:
    work = three.session.work("party-1")
    assert (work / "targets.safetensors").read_bytes() == three.prepared
    assert "using the targets in" in three.session.parties["party-1"].text
    assert "using the targets in" not in three.session.parties["party-2"].text


def private_key_texts(federation: Federation) -> Iterator[str]:
    for name in (*federation.parties, AGGREGATOR_NAME):
        member = federation.member(name)
        for path in (member.identity, member.tls_key):
            pem = path.read_bytes()
            yield from pem.decode().splitlines()[1:-1]
            key = load_pem_private_key(pem, password=None)
            if isinstance(key, Ed25519PrivateKey):
                raw = key.private_bytes_raw()
            else:
                assert isinstance(key, EllipticCurvePrivateKey)
                raw = key.private_numbers().private_value.to_bytes(32, "big")
                yield str(key.private_numbers().private_value)
            yield raw.hex()
            yield base64.b64encode(raw).decode().rstrip("=")
            yield base64.urlsafe_b64encode(raw).decode().rstrip("=")


def target_texts(finished: Finished) -> Iterator[str]:
    for party in finished.federation.parties:
        values = load_file(finished.session.work(party) / "targets.safetensors")["targets"]
        for value in values.flatten().tolist():
            if abs(value) > 1e-3:
                yield repr(abs(value))[:9]
        data = np.ascontiguousarray(values.numpy()).tobytes()
        yield data[:12].hex()
        yield base64.b64encode(data[:12]).decode()


def found_in(text: str, secrets: Sequence[str]) -> list[str]:
    # The microseconds of log lines could look like the digits of a target.
    text = re.sub(r'"timestamp": "[^"]*"', "", text).lower()
    return [secret for secret in secrets if secret.lower() in text]


def test_logs_and_reports_hold_no_edit_no_key_and_no_target(three: Finished) -> None:
    secrets = [*CANARIES, *private_key_texts(three.federation), *target_texts(three)]
    assert len(secrets) > 100
    printed = [running.text for running in three.session.everybody]
    printed += [running.log.read_text() for running in three.session.everybody]
    printed += [path.read_text() for path in three.session.directory.rglob("report.json")]
    state = three.session.directory / "state"
    printed += [path.read_text(errors="replace") for path in state.rglob("*") if path.is_file()]
    assert sum(map(len, printed)) > 10_000
    assert any('"event": "state"' in text for text in printed)
    for text in printed:
        assert not found_in(text, secrets)
        assert not re.search(r"tensor\(|array\(|PRIVATE KEY", text)
    # The search finds what is there.
    member = three.federation.member("party-1")
    assert set(CANARIES) - set(found_in(member.edits.read_text(), CANARIES)) <= {"Mimsily"}
    assert found_in(member.identity.read_text(), secrets)


# Five parties, of whom four must stay.


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Dense statistics in tiles of 64 bytes: an upload has hundreds of frames."""
    directory = tmp_path_factory.mktemp("five") / "federation"
    return build_federation(directory, parties=5, statistics="dense", tile_bytes=64)


def everybody_but(*parties: str) -> list[str]:
    return [name for name in (f"party-{i}" for i in range(1, 6)) if name not in parties]


def assert_finished(
    finished: Finished, *, victim: str, rounds: set[str], survivors: Sequence[Sequence[str]]
) -> None:
    """All others finished, everybody says the same about the victim, and the result is exact."""
    session = finished.session
    others = everybody_but(victim)
    for name in others:
        running = session.parties[name]
        assert running.wait() == 0, session.aggregator.text + running.text
    assert session.aggregator.wait() == 0, session.aggregator.text
    assert session.parties[victim].process.returncode == -9
    for running in [session.aggregator, *(session.parties[name] for name in others)]:
        assert [task["survivors"] for task in running.report["tasks"]] == list(survivors)
    dropouts = [task["dropouts"] for task in session.aggregator.report["tasks"]]
    assert [dropout["party"] for dropout in dropouts[0]] == [victim]
    assert dropouts[0][0]["round"] in rounds
    assert dropouts[1] == []
    logged = [event for event in session.aggregator.events if event["event"] == "dropped"]
    assert [(event["party"], event["task"], event["round"]) for event in logged] == [
        (victim, 0, dropouts[0][0]["round"])
    ]
    assert not (session.work(victim) / "update.safetensors").exists()
    assert_same_update(finished, others)
    assert_parity(finished, others[:1], centralised(finished, survivors))
    for name in others:
        assert session.checkpoint(name).is_dir()


def test_a_party_killed_before_its_upload_is_left_out(five: Federation, tmp_path: Path) -> None:
    with Session(five, tmp_path) as session:
        victim = session.start("party-2")
        victim.await_event("joined")
        victim.kill()
        for party in everybody_but("party-2"):
            session.start(party)
        survivors = everybody_but("party-2")
        assert_finished(
            Finished(five, session),
            victim="party-2",
            rounds={"r0-advertise", "r1-share"},
            survivors=[survivors, survivors],
        )


def test_a_party_killed_during_its_upload_is_left_out(five: Federation, tmp_path: Path) -> None:
    with Session(five, tmp_path) as session:
        for party in everybody_but("party-4"):
            session.start(party)
        victim = session.start("party-4", upload_rate=SLOW_UPLOAD)
        victim.await_event("uploading", task=0)
        spool = session.directory / "state" / "spool" / "task-0" / "party-4.tiles"
        await_condition(
            lambda: spool.exists() and spool.stat().st_size > 640,
            "nothing arrives",
            unless=lambda: victim.process.poll() is not None,
            explain=lambda: session.aggregator.text + victim.text,
        )
        victim.kill()
        assert spool.stat().st_size < 8 * five.plan.task_length(TaskIndex(0))
        survivors = everybody_but("party-4")
        assert_finished(
            Finished(five, session),
            victim="party-4",
            rounds={"r3-contribute"},
            survivors=[survivors, survivors],
        )


def test_a_party_killed_after_its_upload_stays_in_that_sum_only(
    five: Federation, tmp_path: Path
) -> None:
    with Session(five, tmp_path, debug=True) as session:
        for party in everybody_but("party-5", "party-1"):
            session.start(party)
        # While somebody else still uploads, the sum cannot go on to the next round.
        session.start("party-1", upload_rate=SLOW_UPLOAD)
        victim = session.start("party-5")
        victim.await_event("uploaded", task=0)
        session.aggregator.await_event(
            "received", party="party-5", task=0, round="r3-contribute", message="answer"
        )
        victim.kill()
        assert_finished(
            Finished(five, session),
            victim="party-5",
            rounds={"r4-survivors"},
            survivors=[list(five.parties), everybody_but("party-5")],
        )


def test_below_the_threshold_everybody_stops_and_nothing_is_written(
    five: Federation, tmp_path: Path
) -> None:
    victims = ("party-2", "party-3")
    with Session(five, tmp_path) as session:
        for party in five.parties:
            rate = 2 * SLOW_UPLOAD if party in victims else None
            session.start(party, upload_rate=rate)
        # In the second sum: the first update is applied already, and must be taken back.
        for party in victims:
            session.parties[party].await_event("uploading", task=1)
        for party in victims:
            session.parties[party].kill()
        for party in everybody_but(*victims):
            running = session.parties[party]
            assert running.wait() == 5, running.text
            assert "applied" in {event["event"] for event in running.events}
            assert_one_line(running, r"error: BELOW_THRESHOLD: .*")
            assert_nothing_written(session, party)
        assert session.aggregator.wait() == 5
        assert_one_line(session.aggregator, r"error: BELOW_THRESHOLD: .*3 parties.*asks for 4.*")
        assert session.aggregator.report["aborted"] == "BELOW_THRESHOLD"
        assert len(session.aggregator.report["tasks"]) == 1
        left = session.aggregator.report["dropouts_of_aborted_task"]
        assert [(dropout["party"], dropout["round"]) for dropout in left] == [
            (party, "r3-contribute") for party in victims
        ]
        gone = [event for event in session.aggregator.events if event["event"] == "dropped"]
        assert [(event["party"], event["round"]) for event in gone] == [
            (party, "r3-contribute") for party in victims
        ]


def assert_one_line(running: Running, pattern: str) -> None:
    assert "Traceback" not in running.text
    assert len(running.last_words) == 1, running.last_words
    assert re.fullmatch(pattern, running.last_words[0]), running.last_words


def assert_nothing_written(session: Session, party: str) -> None:
    names = {path.name for path in session.work(party).iterdir()}
    assert names & {"targets.safetensors", "update.safetensors", "report.json"} == {
        "targets.safetensors"
    }
    assert not session.checkpoint(party).exists()
    assert not list(session.directory.glob(f".{party}*"))


def test_parties_give_up_an_aggregator_that_was_killed(five: Federation, tmp_path: Path) -> None:
    with Session(five, tmp_path) as session:
        for party in five.parties:
            session.start(party, upload_rate=SLOW_UPLOAD if party == "party-3" else None)
        session.parties["party-3"].await_event("uploading", task=0)
        session.aggregator.kill()
        killed = time.monotonic()
        for party in five.parties:
            running = session.parties[party]
            assert running.wait() == 6, running.text
            # Their patience, and as much again for the farewell that nobody hears.
            assert time.monotonic() - killed < 3 * PATIENCE + 10
            assert_one_line(
                running, rf"error: no aggregator answers at 127.0.0.1:{session.port} .*"
            )
            assert_nothing_written(session, party)
        assert not (session.directory / "state" / "report.json").exists()
