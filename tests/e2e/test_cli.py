"""The command line: what it makes, and what it says and does when something is wrong."""

import datetime as dt
import json
import re
import shutil
import socket
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from typer.main import get_command

from collabedit import __version__
from collabedit.cli import app
from collabedit.crypto.certificates import Authority, issue_certificate
from collabedit.crypto.signing import read_signing_key, write_private
from collabedit.errors import AbortReason, EvidenceFileError, SessionAbortedError
from collabedit.ids import AGGREGATOR, TaskIndex
from collabedit.memory import Memory
from collabedit.party.edits import load_edits
from collabedit.party.ledger import ACCEPT_OPTION, Ledger
from collabedit.plan import load_plan
from collabedit.proto import messages as m
from collabedit.proto.envelope import sign_message
from collabedit.proto.evidence import Evidence, EvidenceKind, EvidenceSink
from collabedit.recording import Recording
from tests.support.processes import (
    AGGREGATOR_NAME,
    Federation,
    Outcome,
    edit_plan,
    own_edits,
    record,
    run_command,
    run_here,
)

USAGE = 2
INPUT = 2
PROTOCOL = 5
TRANSPORT = 6


def assert_refused(outcome: Outcome, code: int, *said: object) -> None:
    """One line for people that names the culprit, the documented code, and nothing printed."""
    assert outcome.code == code, outcome
    assert outcome.out == ""
    assert len(outcome.lines) == 1, outcome.err
    assert outcome.lines[0].startswith("error: ")
    for what in said:
        assert str(what) in outcome.lines[0]


def join_party(federation: Federation, work: Path, port: int, **changes: object) -> Outcome:
    return run_here(*federation.join_options("party-2", work=work, port=port, **changes))


# What a party brings.


def broken_edits() -> list[tuple[str, str, Sequence[str]]]:
    """Name, text of the file, and what the refusal must say besides the file's name."""
    good = record(1, "Bob", "{} plays the", "piano", "guitar")
    lacking = json.loads(json.dumps(good))
    del lacking["requested_rewrite"]["target_new"]
    slotless = json.loads(json.dumps(good))
    slotless["requested_rewrite"]["prompt"] = "Bob plays the"
    flat = {"prompt": "Zed plays the", "subject": "Bob", "target_new": "piano"}
    return [
        (
            "a field is missing",
            json.dumps([good, lacking]),
            ["record 2", "'requested_rewrite.target_new'", "missing"],
        ),
        (
            "the prompt has no place for the subject",
            json.dumps([slotless]),
            ["record 1", "'requested_rewrite.prompt'", "{}"],
        ),
        (
            "the subject is not in the prompt",
            json.dumps([good, flat]),
            ["record 2", "'subject'", "does not occur in 'prompt'"],
        ),
        ("the JSON is broken", '[{"prompt": "Zed",\n "subject": ]', ["line 2", "not JSON"]),
        ("there are no edits", "[]", ["holds no edits"]),
        ("the file is empty", " \n", ["is empty"]),
        (
            "there are more edits than the plan allows",
            json.dumps(own_edits(2, 3)),
            ["3 edits", "allows party-2 2"],
        ),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [case[1:] for case in broken_edits()],
    ids=[case[0] for case in broken_edits()],
)
def test_edits_are_refused_by_file_record_and_field(
    federation: Federation, silent_port: int, tmp_path: Path, text: str, said: Sequence[str]
) -> None:
    edits = tmp_path / "edits.json"
    edits.write_text(text)
    outcome = join_party(federation, tmp_path / "work", silent_port, edits=edits)
    assert_refused(outcome, INPUT, edits, *said)
    assert not re.search("Bob|Zed|piano|guitar", outcome.err)
    prepared = run_here(
        *("party", "prepare", "--plan", federation.plan_file, "--name", "party-2"),
        *("--model", federation.model, "--edits", edits, "--work", tmp_path / "work"),
    )
    assert_refused(prepared, INPUT, edits, *said)
    checked = run_here(
        *("plan", "check", federation.plan_file, "--name", "party-2", "--edits", edits)
    )
    assert_refused(checked, INPUT, edits, *said)
    assert not (tmp_path / "work").exists()


def plan_copy(federation: Federation, directory: Path) -> Path:
    return Path(shutil.copy(federation.plan_file, directory / "plan.toml"))


def test_a_missing_plan_is_named(federation: Federation, silent_port: int, tmp_path: Path) -> None:
    plan = tmp_path / "nowhere.toml"
    outcome = join_party(federation, tmp_path / "work", silent_port, plan=plan)
    assert_refused(outcome, INPUT, plan, "No such file")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"aggregation": {"capacity": 9}}, "aggregation.capacity 9 is too small"),
        ({"federation": {"threshold": 2}}, "threshold 2 for 3 parties, must be 3 to 3"),
        ({"aggregation": {"fractional_bits": 60}}, "overflow a 64-bit ring"),
        ({"aggregation": {"colour": "red"}}, "aggregation.colour"),
    ],
    ids=["capacity too small", "threshold too low", "overflow", "unknown field"],
)
def test_a_plan_that_cannot_be_carried_out_is_refused_by_field(
    federation: Federation,
    silent_port: int,
    tmp_path: Path,
    change: dict[str, dict[str, object]],
    said: str,
) -> None:
    plan = plan_copy(federation, tmp_path)
    edit_plan(plan, **change)
    for outcome in (
        join_party(federation, tmp_path / "work", silent_port, plan=plan),
        run_here(*federation.serve_options(state=tmp_path / "state", plan=plan)),
        run_here("plan", "check", plan),
        run_here("plan", "show", plan),
    ):
        assert_refused(outcome, INPUT, plan, said)
    assert not list(tmp_path.glob("[ws]*"))


def test_a_party_that_is_not_in_the_plan_is_named(
    federation: Federation, silent_port: int, tmp_path: Path
) -> None:
    outcome = join_party(federation, tmp_path / "work", silent_port, name="party-9")
    assert_refused(outcome, INPUT, "no party called 'party-9'")


# Models and covariances.


@pytest.fixture(scope="module")
def other_model(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The federation's model with one number changed."""
    directory = tmp_path_factory.mktemp("other") / "model"
    shutil.copytree(federation.model, directory)
    tensors = load_file(directory / "model.safetensors")
    tensors["model.norm.weight"][0] += 0.5
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def test_a_directory_without_a_model_is_named(
    federation: Federation, silent_port: int, tmp_path: Path
) -> None:
    for model in (tmp_path, tmp_path / "nowhere", federation.plan_file):
        outcome = join_party(federation, tmp_path / "work", silent_port, model=model)
        assert_refused(outcome, INPUT, model, "no model directory")


def test_another_model_is_refused_with_both_digests(
    federation: Federation, other_model: Path, silent_port: int, tmp_path: Path
) -> None:
    outcome = join_party(federation, tmp_path / "work", silent_port, model=other_model)
    assert_refused(outcome, INPUT, other_model, "weights", federation.plan.model.weights)
    assert len(set(re.findall(r"sha256:[0-9a-f]{64}", outcome.err))) == 2
    checked = run_here("plan", "check", federation.plan_file, "--model", other_model)
    assert_refused(checked, INPUT, other_model, federation.plan.model.weights)


def test_another_covariance_is_refused_with_both_digests(
    federation: Federation, silent_port: int, tmp_path: Path
) -> None:
    covariance = tmp_path / "other.safetensors"
    run_here(
        *("covariance", "--model", federation.model, "--out", covariance, "--layers", "1,3"),
        *("--source", federation.directory / "general.txt", "--tokens", 500, "--window", 50),
    ).ok()
    wanted = str(federation.plan.editing.covariance).removeprefix("sha256:")
    outcome = join_party(federation, tmp_path / "work", silent_port, covariance=covariance)
    assert_refused(outcome, INPUT, covariance, wanted)
    checked = run_here("plan", "check", federation.plan_file, "--covariance", covariance)
    assert_refused(checked, INPUT, covariance, wanted)
    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes(b"not this")
    refused = join_party(federation, tmp_path / "work", silent_port, covariance=garbage)
    assert_refused(refused, INPUT, garbage)


# Keys and certificates.


def test_the_identity_key_of_somebody_else_is_named(
    federation: Federation, silent_port: int, tmp_path: Path
) -> None:
    wrong = federation.member("party-1").identity
    outcome = join_party(federation, tmp_path / "work", silent_port, identity=wrong)
    assert_refused(outcome, INPUT, wrong, "party-2")
    served = run_here(*federation.serve_options(state=tmp_path / "state", identity=wrong))
    assert_refused(served, INPUT, wrong, AGGREGATOR_NAME)
    checked = run_here(
        *("plan", "check", federation.plan_file, "--identity", wrong, "--name", "party-2")
    )
    assert_refused(checked, INPUT, wrong, "party-2")


@pytest.mark.parametrize("option", ["identity", "tls_key"])
def test_a_private_key_that_others_can_read_is_refused(
    federation: Federation, silent_port: int, tmp_path: Path, option: str
) -> None:
    key = Path(shutil.copy(getattr(federation.member("party-2"), option), tmp_path / "key.pem"))
    key.chmod(0o640)
    outcome = join_party(federation, tmp_path / "work", silent_port, **{option: key})
    assert_refused(outcome, INPUT, key, f"chmod 600 {key}")


@pytest.mark.parametrize("option", ["identity", "tls_key", "tls_cert", "tls_ca"])
def test_a_missing_or_malformed_key_file_is_named(
    federation: Federation, silent_port: int, tmp_path: Path, option: str
) -> None:
    path = tmp_path / "file.pem"
    outcome = join_party(federation, tmp_path / "work", silent_port, **{option: path})
    assert_refused(outcome, INPUT, path, "No such file")
    path.write_text("-----BEGIN NOTHING-----")
    path.chmod(0o600)
    outcome = join_party(federation, tmp_path / "work", silent_port, **{option: path})
    assert_refused(outcome, INPUT, path)


def test_a_certificate_of_another_authority_is_refused(
    federation: Federation, silent_port: int, tmp_path: Path
) -> None:
    run_here("keys", "ca", tmp_path / "ca").ok()
    run_here(*("keys", "certificate", "party-2", "--ca", tmp_path / "ca", "--out", tmp_path)).ok()
    certificate = tmp_path / "party-2.pem"
    outcome = join_party(
        federation,
        tmp_path / "work",
        silent_port,
        tls_cert=certificate,
        tls_key=tmp_path / "party-2-key.pem",
    )
    assert_refused(outcome, INPUT, certificate, federation.authority)


def test_an_expired_certificate_is_refused(
    federation: Federation, silent_port: int, tmp_path: Path
) -> None:
    authority = Authority(
        federation.authority.read_bytes(), (federation.ca_directory / "ca-key.pem").read_bytes()
    )
    issued = issue_certificate(
        authority,
        name="party-2",
        hosts=[],
        lifetime_days=1,
        now=dt.datetime.now(dt.UTC) - dt.timedelta(days=3),
    )
    certificate, key = tmp_path / "old.pem", tmp_path / "old-key.pem"
    certificate.write_bytes(issued.certificate_pem)
    write_private(key, issued.key_pem)
    outcome = join_party(
        federation, tmp_path / "work", silent_port, tls_cert=certificate, tls_key=key
    )
    assert_refused(outcome, INPUT, certificate, "expired at")


def test_the_certificate_of_another_party_is_named(
    federation: Federation, silent_port: int, tmp_path: Path
) -> None:
    other = federation.member("party-3")
    outcome = join_party(
        federation,
        tmp_path / "work",
        silent_port,
        tls_cert=other.certificate,
        tls_key=other.tls_key,
    )
    assert_refused(outcome, INPUT, other.certificate, "'party-3'", "'party-2'")
    mixed = join_party(federation, tmp_path / "work", silent_port, tls_cert=other.certificate)
    assert_refused(mixed, INPUT, other.certificate)


def test_paths_are_printed_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / ("deep-" * 20) / "[bold] :smile: [/x]"
    outcome = run_here("keys", "new", folder / "identity.pem")
    outcome.ok()
    assert outcome.err.startswith(f"wrote {folder / 'identity.pem'} ")
    missing = folder / "[red]nowhere"
    assert_refused(run_here("keys", "show", missing), INPUT, missing)


def test_a_new_key_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "identity.pem"
    public = run_here("keys", "new", path).ok()
    assert re.fullmatch("[0-9a-f]{64}", public)
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()
    assert_refused(run_here("keys", "new", path), INPUT, path, "exists already")
    assert path.read_bytes() == before
    assert run_here("keys", "show", path).ok() == public


def test_an_authority_and_a_certificate_are_never_overwritten(tmp_path: Path) -> None:
    run_here("keys", "ca", tmp_path).ok()
    certificate = ("keys", "certificate", "party-1", "--ca", tmp_path, "--out", tmp_path)
    run_here(*certificate).ok()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(before) == 4
    assert_refused(run_here("keys", "ca", tmp_path), INPUT, tmp_path / "ca.pem", "exists already")
    assert_refused(run_here(*certificate), INPUT, tmp_path / "party-1.pem", "exists already")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    # One half of a pair is enough to refuse, and the other is not made anew beside it.
    for name in ("ca.pem", "party-1.pem", "ca-key.pem", "party-1-key.pem"):
        path = tmp_path / name
        content = path.read_bytes()
        path.unlink()
        command = ["keys", "ca", tmp_path] if name.startswith("ca") else certificate
        assert run_here(*command).code == INPUT
        assert not path.exists()
        path.write_bytes(content)
        path.chmod(0o600)


# Places to write to, and the network.


def test_an_output_that_exists_is_refused(
    federation: Federation, silent_port: int, tmp_path: Path
) -> None:
    outcome = join_party(federation, tmp_path / "work", silent_port, output=tmp_path)
    assert_refused(outcome, INPUT, tmp_path, "exists already")
    plan_again = run_here(*plan_new(federation, out=federation.plan_file))
    assert_refused(plan_again, INPUT, federation.plan_file, "exists already")


def plan_new(federation: Federation, **changes: object) -> list[str]:
    """Arguments of `plan new` for the federation's parties."""
    plan = federation.plan
    options: dict[str, object] = {
        "name": "again",
        "model": federation.model,
        "covariance": federation.covariance,
        "aggregator": f"{AGGREGATOR_NAME}:{plan.federation.aggregator.identity}",
        "min_edits": 0,
        **changes,
    }
    parties = [
        f"--party={party.name}:{party.identity}:{party.max_edits}"
        for party in plan.federation.parties
    ]
    named = [
        part
        for name, value in options.items()
        if value is not None
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    return ["plan", "new", *named, *parties]


def words(text: str) -> str:
    """What a table says, without its frame and its line breaks."""
    return " ".join(text.replace("│", " ").split())


def under_a_file(directory: Path) -> Path:
    """A path that nobody can make, the administrator included."""
    file = directory / "file"
    file.write_text("")
    return file / "below"


def test_a_place_that_cannot_be_written_is_named_before_any_work(
    federation: Federation, silent_port: int, tmp_path: Path
) -> None:
    place = under_a_file(tmp_path)
    work = tmp_path / "work"
    model, covariance = federation.model, federation.covariance
    edits = [federation.member(party).edits for party in federation.parties]
    update = tmp_path / "update.safetensors"
    for arguments in (
        federation.join_options("party-2", work=place, port=silent_port),
        federation.join_options("party-2", work=work, port=silent_port, output=place / "deep"),
        federation.serve_options(state=place),
        federation.serve_options(state=tmp_path / "state", port_file=place / "port"),
        ["keys", "new", place / "identity.pem"],
        ["keys", "ca", place],
        ["keys", "certificate", "a", "--ca", federation.ca_directory, "--out", place],
        plan_new(federation, out=place),
        ["covariance", "--model", model, "--out", place, "--layers", "1"],
        [
            *("simulate", "--model", model, "--covariance", covariance, "--out", place),
            *(f"--edits={path}" for path in edits),
        ],
        [
            *("party", "apply", "--plan", federation.plan_file, "--model", model),
            *("--update", update, "--output", place / "deep"),
        ],
        ["demo", "--out", place, "--model", model],
    ):
        outcome = run_here(*arguments)
        assert_refused(outcome, INPUT, tmp_path / "file")
    assert not (work / "targets.safetensors").exists()


@pytest.mark.parametrize(
    ("editor", "said"), [("ridge", "ridge has not"), ("rome", "must be one of memit")]
)
def test_the_demo_refuses_an_editor_that_it_cannot_run(
    editor: str, said: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    outcome = run_here("demo", "--editor", editor, "--out", out)
    assert_refused(outcome, INPUT, f"--editor {editor}", said)
    assert not out.exists()


def test_leftovers_that_do_not_fit_are_refused_by_name(
    federation: Federation, silent_port: int, tmp_path: Path
) -> None:
    targets = tmp_path / "targets.safetensors"
    targets.write_bytes(b"garbage")
    outcome = join_party(federation, tmp_path, silent_port)
    assert outcome.code == INPUT
    assert f"error: {targets}: cannot be read as safetensors" in outcome.lines[-1]
    other = federation.member("party-1").edits
    targets.unlink()
    run_here(
        *("party", "prepare", "--plan", federation.plan_file, "--name", "party-1"),
        *("--model", federation.model, "--edits", other, "--work", tmp_path),
    ).ok()
    assert targets.stat().st_mode & 0o777 == 0o600
    assert tmp_path.stat().st_mode & 0o777 == 0o700
    outcome = join_party(federation, tmp_path, silent_port)
    assert outcome.code == INPUT
    assert f"error: {targets}: targets were prepared from other edits" in outcome.lines[-1]


def test_edits_whose_sum_was_opened_are_refused_until_that_is_accepted(
    federation: Federation, silent_port: int, tmp_path: Path
) -> None:
    edits = load_edits(federation.member("party-2").edits)
    ledger = tmp_path / "ledger.jsonl"
    Ledger(ledger, edits=edits, weights=federation.plan.model.weights).record(
        bytes(32), TaskIndex(0)
    )
    outcome = join_party(federation, tmp_path, silent_port)
    assert_refused(outcome, INPUT, ledger, "opened before", ACCEPT_OPTION)
    options = federation.join_options("party-2", work=tmp_path, port=1, patience=0.2)
    accepted = run_here(*options, ACCEPT_OPTION)
    assert accepted.code == TRANSPORT
    ledger.write_text("{}\n")
    assert_refused(join_party(federation, tmp_path, silent_port), INPUT, ledger, "line 1")


def test_a_port_in_use_is_named(federation: Federation, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        outcome = run_here(*federation.serve_options(state=tmp_path / "state", listen=address))
    assert outcome.code == TRANSPORT
    assert outcome.lines[-1] == f"error: cannot listen on {address}: is the port in use?"
    assert not (tmp_path / "state" / "report.json").exists()


def test_an_aggregator_that_is_not_there_is_named(federation: Federation, tmp_path: Path) -> None:
    work = tmp_path / "work"
    outcome = join_party(federation, work, 1, patience=0.5)
    assert outcome.code == TRANSPORT
    assert outcome.lines[-1].startswith("error: no aggregator answers at 127.0.0.1:1")
    kept = sorted(path.name for path in work.iterdir())
    assert kept == ["journal", "journal.key", "targets.safetensors"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"connect": "hub"}, "--connect hub: must be HOST:PORT"),
        ({"connect": "hub:http"}, "--connect hub:http: must be HOST:PORT"),
        ({"upload_rate": 0}, "--upload-rate"),
        ({"patience": -1}, "--patience"),
        ({"threads": 0}, "--threads"),
    ],
)
def test_settings_out_of_range_are_refused(
    federation: Federation,
    silent_port: int,
    tmp_path: Path,
    flags: dict[str, object],
    said: str,
) -> None:
    outcome = join_party(federation, tmp_path / "work", silent_port, **flags)
    assert outcome.code == USAGE
    assert said in outcome.err
    assert not (tmp_path / "work").exists()


def test_an_address_to_listen_on_needs_a_port(federation: Federation, tmp_path: Path) -> None:
    outcome = run_here(*federation.serve_options(state=tmp_path / "state", listen="localhost"))
    assert_refused(outcome, INPUT, "--listen localhost: must be HOST:PORT")
    assert not (tmp_path / "state").exists()


# Plans.


def test_a_new_plan_holds_what_was_said(federation: Federation, tmp_path: Path) -> None:
    out = tmp_path / "plan.toml"
    digest = run_here(
        *plan_new(federation, out=out, layers="3", schedule="parallel", statistics="dense")
    ).ok()
    values = tomllib.loads(out.read_text())
    assert [layer["index"] for layer in values["editing"]["layers"]] == [3]
    assert values["editing"]["schedule"] == "parallel"
    assert values["aggregation"]["statistics"] == "dense"
    # Llama's published λ (EasyEdit, hparams/MEMIT/llama-7b.yaml), as none was given.
    assert values["editing"]["covariance_weight"] == 15000.0
    assert run_here("plan", "check", out).ok() == digest
    assert re.fullmatch("sha256:[0-9a-f]{64}", digest)


@pytest.mark.parametrize(
    ("changes", "wanted", "shown"),
    [
        ({"editor": "emmet"}, {"ridge": 0.0, "covariance_weight": 15000.0}, "ρ = 0"),
        (
            {"editor": "alphaedit", "nullspace_threshold": 0.03},
            {"ridge": 1.0, "nullspace_threshold": 0.03, "l2": 10.0},
            "L2 = 10",
        ),
        ({"editor": "ridge", "covariance": None, "shift": 1.5}, {"ridge": 1.0}, "shift 1.5"),
    ],
    ids=lambda value: str(value.get("editor", "")) if isinstance(value, dict) else "",
)
def test_a_new_plan_names_its_editor_with_its_own_parameters(
    federation: Federation,
    tmp_path: Path,
    changes: dict[str, object],
    wanted: dict[str, object],
    shown: str,
) -> None:
    out = tmp_path / "plan.toml"
    run_here(*plan_new(federation, out=out, **changes)).ok()
    editing = tomllib.loads(out.read_text())["editing"]
    assert editing["editor"] == changes["editor"]
    assert {name: editing[name] for name in wanted} == wanted
    assert ("covariance" in editing) == (changes["editor"] != "ridge")
    assert shown in run_here("plan", "show", out).err


def test_a_covariance_is_shown_exactly_where_the_plan_has_one(
    federation: Federation, silent_port: int, tmp_path: Path
) -> None:
    options = federation.join_options("party-2", work=tmp_path / "a", port=silent_port)
    at = options.index("--covariance")
    assert_refused(run_here(*options[:at], *options[at + 2 :]), INPUT, "memit needs the covariance")
    out = tmp_path / "plan.toml"
    run_here(*plan_new(federation, out=out, editor="ridge", covariance=None)).ok()
    assert [layer["index"] for layer in tomllib.loads(out.read_text())["editing"]["layers"]] == [
        1,
        2,
    ]
    checked = run_here("plan", "check", out, "--covariance", federation.covariance)
    assert_refused(checked, INPUT, federation.covariance, "ridge takes no covariance")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"editor": "rome"}, ["--editor rome", "alphaedit"]),
        ({"editor": "alphaedit", "nullspace_threshold": 1e-9}, ["no eigenvalues", "lie from"]),
        ({"editor": "alphaedit", "covariance_weight": 3}, ["covariance_weight", "alphaedit"]),
        ({"editor": "ridge"}, ["ridge takes no covariance"]),
        ({"covariance": None}, ["memit needs a covariance"]),
        ({"layers": "1,2"}, ["layer 2"]),
        ({"schedule": "zigzag"}, ["--schedule zigzag"]),
        ({"statistics": "some"}, ["--statistics some"]),
        ({"covariance_weight": 0}, ["covariance_weight"]),
        ({"covariance_weight": -1}, ["covariance_weight"]),
        ({"name": "Not A Name"}, ["name"]),
        ({"aggregator": "hub"}, ["identity"]),
        ({"dtype": "int8"}, ["int8"]),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_a_plan_that_would_not_hold_is_not_written(
    federation: Federation, tmp_path: Path, changes: dict[str, object], said: Sequence[str]
) -> None:
    out = tmp_path / "plan.toml"
    assert_refused(run_here(*plan_new(federation, out=out, **changes)), INPUT, *said)
    assert not out.exists()


def test_a_malformed_party_is_named(federation: Federation, tmp_path: Path) -> None:
    arguments = [*plan_new(federation, out=tmp_path / "plan.toml"), "--party", "someone"]
    assert_refused(run_here(*arguments), INPUT, "--party someone")


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--party", f"Dogwood Court:{'1' * 64}:3", "party Dogwood Court: name: "),
        ("--party", "dogwood:zz:3", "party dogwood: identity: "),
        ("--party", f"dogwood:{'1' * 64}:0", "party dogwood: max_edits: "),
        ("--aggregator", f"The Hub:{'1' * 64}", "aggregator The Hub: name: "),
        ("--aggregator", "hub", "aggregator hub: identity: "),
    ],
)
def test_a_member_that_no_plan_takes_is_named(
    federation: Federation, tmp_path: Path, option: str, value: str, said: str
) -> None:
    arguments = [*plan_new(federation, out=tmp_path / "plan.toml"), option, value]
    assert_refused(run_here(*arguments), INPUT, said)
    assert not (tmp_path / "plan.toml").exists()


def test_a_covariance_of_another_size_is_refused(federation: Federation, tmp_path: Path) -> None:
    from collabedit.party.editing.covariance import Covariance, load_covariance

    moments = load_covariance(federation.covariance)
    smaller = {layer: matrix[:40, :40] for layer, matrix in moments.matrices.items()}
    path = tmp_path / "smaller.safetensors"
    Covariance(smaller, moments.tokens, moments.provenance).save(path)
    arguments = plan_new(federation, out=tmp_path / "plan.toml", covariance=path)
    assert_refused(run_here(*arguments), INPUT, "layer 1", "40", "48")


def test_a_plan_is_shown_for_people(federation: Federation) -> None:
    plan = federation.plan
    outcome = run_here("plan", "show", federation.plan_file)
    assert outcome.code == 0
    for what in ("processes", "llama", "float32", "1, 3", "3 of 3", *federation.parties):
        assert what in outcome.err
    assert plan.digest.hex()[:20] in outcome.err


def test_all_that_a_party_has_can_be_checked(federation: Federation) -> None:
    member = federation.member("party-3")
    outcome = run_here(
        *("plan", "check", federation.plan_file, "--name", "party-3"),
        *("--edits", member.edits, "--identity", member.identity),
        *("--model", federation.model, "--covariance", federation.covariance),
    )
    assert outcome.ok() == f"sha256:{federation.plan.digest.hex()}"
    assert_refused(
        run_here("plan", "check", federation.plan_file, "--edits", member.edits), INPUT, "--name"
    )
    assert_refused(
        run_here("plan", "check", federation.plan_file, "--identity", member.identity),
        INPUT,
        "--name",
    )


# Evaluation and simulation.


def test_evaluate_prints_json_and_nothing_else(federation: Federation) -> None:
    edits = federation.member("party-1").edits
    out = run_here(
        *("evaluate", "--model", federation.model, "--edits", edits, "--json"),
        *("--text", federation.directory / "general.txt"),
    ).ok()
    row = json.loads(out)
    assert set(row) == {
        *("efficacy", "paraphrase", "neighborhood", "score"),
        *("efficacy_magnitude", "paraphrase_magnitude", "neighborhood_magnitude"),
        *("efficacy_accuracy", "paraphrase_accuracy", "neighborhood_accuracy"),
        *("generation_accuracy", "fluency", "perplexity"),
        *("zsre_efficacy", "zsre_paraphrase", "zsre_neighborhood", "zsre_harmonic_mean"),
        *("ability", "ability_cloze", "ability_arithmetic", "ability_reading"),
        *("edits", "intervals"),
    }
    assert row["perplexity"] > 1
    assert row["efficacy"] is not None
    low, high = row["intervals"]["efficacy"]
    assert 0 <= low <= row["efficacy"] <= high <= 100
    assert set(row["intervals"]) == set(row) - {"edits", "intervals"}
    assert row["fluency"] is row["ability"] is None
    without = run_here("evaluate", "--model", federation.model, "--edits", edits, "--json").ok()
    assert json.loads(without) == {**row, "perplexity": None}


def test_evaluate_asks_general_questions_and_lets_the_model_write(federation: Federation) -> None:
    edits = federation.member("party-1").edits
    arguments = ("evaluate", "--model", federation.model, "--edits", edits, "--ability")
    row = json.loads(run_here(*arguments, "--fluency", "--json").ok())
    assert 0 <= row["ability"] <= 100
    shares = [row[f"ability_{kind}"] for kind in ("cloze", "arithmetic", "reading")]
    assert row["ability"] == pytest.approx(sum(shares) / 3)
    has_prompts = "generation_prompts" in edits.read_text()
    assert (row["fluency"] is not None) is has_prompts
    table = run_here(*arguments)
    table.ok()
    for measure in ("zsre_harmonic_mean", "ability_reading", "95 % interval"):
        assert measure in table.err


def test_evaluate_names_what_it_cannot_read(federation: Federation, tmp_path: Path) -> None:
    edits = federation.member("party-1").edits
    model = federation.model
    missing = tmp_path / "missing"
    for arguments in (
        ["--model", missing, "--edits", edits],
        ["--model", model, "--edits", missing],
        ["--model", model, "--edits", edits, "--text", missing],
    ):
        assert_refused(run_here("evaluate", *arguments), INPUT, missing)


@pytest.fixture
def simulate(federation: Federation, tmp_path: Path) -> Callable[..., Outcome]:
    """Simulate a federation of five with one edit each."""

    def run(*flags: object, parties: int = 5) -> Outcome:
        files = []
        for party in range(1, parties + 1):
            path = tmp_path / f"edits-{party}.json"
            path.write_text(json.dumps(own_edits(party, 1)))
            files.append(f"--edits={path}")
        return run_here(
            *("simulate", "--model", federation.model, "--covariance", federation.covariance),
            *("--covariance-weight", 20, *files, *flags),
        )

    return run


def test_simulate_reports_a_dropout_and_finishes(
    simulate: Callable[..., Outcome], tmp_path: Path
) -> None:
    report_file = tmp_path / "report.json"
    report: dict[str, Any] = json.loads(simulate("--crash", "2:r3", "--out", report_file).ok())
    assert json.loads(report_file.read_text()) == report
    assert report["aborted"] is None
    others = ["party-1", "party-3", "party-4", "party-5"]
    assert [task["survivors"] for task in report["tasks"]] == [others, others]
    dropouts = [task["dropouts"] for task in report["tasks"]]
    assert dropouts == [[{"party": "party-2", "round": "r3-contribute"}], []]
    assert report["before"] != report["after"]


def test_simulate_records_once(simulate: Callable[..., Outcome], tmp_path: Path) -> None:
    place = tmp_path / "recording"
    report: dict[str, Any] = json.loads(simulate("--record", place, parties=3).ok())
    with Recording(place) as recording:
        assert recording.origin == "simulation"
        assert "sha256:" + recording.plan.digest.hex() == report["plan"]
        assert recording.check() > 0
        assert len(list(recording.sightings())) == report["messages"]
        assert recording.sums().keys() == {0, 1}
        assert set(recording.updates()) == {1, 3}
    assert_refused(simulate("--record", place, parties=3), INPUT, place, "another directory")


def test_simulate_takes_an_editor(simulate: Callable[..., Outcome]) -> None:
    report: dict[str, Any] = json.loads(simulate("--editor", "emmet").ok())
    assert report["aborted"] is None
    assert report["before"] != report["after"]


def test_simulate_below_the_threshold_exits_with_the_protocols_code(
    simulate: Callable[..., Outcome],
) -> None:
    outcome = simulate("--crash", "2:r3:1", "--crash", "3:r1:1")
    assert outcome.code == PROTOCOL
    report = json.loads(outcome.out)
    assert report["aborted"] == "BELOW_THRESHOLD"
    assert report["after"] is None
    assert len(report["tasks"]) == 1
    assert outcome.lines[-1].startswith("error: BELOW_THRESHOLD: ")
    assert outcome.lines[-1].count("BELOW_THRESHOLD") == 1


@pytest.mark.parametrize(
    ("flags", "parties", "said"),
    [
        (["--crash", "2:r7"], 3, ["--crash 2:r7"]),
        (["--crash", "9:r3"], 3, ["--crash 9:r3"]),
        (["--crash", "2:r3:2"], 3, ["a crash in sum 2", "only 2 sums"]),
        (["--crash", "2:r3:0", "--crash", "3:r3:1"], 3, ["--crash 3:r3:1", "one sum"]),
        (["--crash", "2:r3", "--crash", "2:r4"], 3, ["--crash 2:r4", "twice"]),
        (["--acceptance", "--efficacy", "2"], 3, ["efficacy"]),
        ([], 2, ["at least 3"]),
        (["--schedule", "zigzag"], 3, ["--schedule"]),
        (["--covariance-weight", "-3"], 3, ["covariance_weight"]),
        (["--editor", "rome"], 3, ["--editor rome"]),
        (["--editor", "ridge"], 3, ["ridge"]),
    ],
)
def test_simulate_refuses_what_makes_no_sense(
    simulate: Callable[..., Outcome], flags: list[str], parties: int, said: Sequence[str]
) -> None:
    assert_refused(simulate(*flags, parties=parties), INPUT, *said)


# The program itself.


def commands() -> list[list[str]]:
    """Every command and group, as a user types them."""
    found: list[list[str]] = []

    def walk(command: Any, path: list[str]) -> None:  # noqa: ANN401  typer bundles click's classes
        found.append(path)
        for name, child in getattr(command, "commands", {}).items():
            walk(child, [*path, name])

    walk(get_command(app), [])
    return found


def test_all_documented_commands_are_there() -> None:
    names = {" ".join(path) for path in commands()}
    assert names >= {
        *("demo", "covariance", "evaluate", "simulate"),
        *("plan new", "plan show", "plan check"),
        *("keys new", "keys show", "keys ca", "keys certificate"),
        *("aggregator serve", "party prepare", "party join", "party apply"),
    }


def test_help_of_every_command_works_without_torch() -> None:
    paths = [*commands(), ["--version"]]
    # One process for all: each only adds to the imported modules.
    code = f"""
import io, sys
from contextlib import redirect_stdout
from collabedit.cli import main
for path in {paths!r}:
    sys.argv = ["collabedit", *path, *([] if "--version" in path else ["--help"])]
    out = io.StringIO()
    try:
        with redirect_stdout(out):
            main()
    except SystemExit as end:
        assert end.code == 0, path
    assert len(out.getvalue()) > (10 if "--version" in path else 60), path
heavy = {{"torch", "transformers", "safetensors", "tokenizers", "matplotlib", "gguf", "peft"}}
print(sorted(heavy & sys.modules.keys()))
"""
    import subprocess

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_version_is_printed() -> None:
    outcome = run_command("--version")
    assert outcome.ok() == f"collabedit {__version__}"
    assert outcome.err == ""


def test_without_a_command_the_help_is_shown_and_mistypes_are_usage_errors() -> None:
    assert "Usage" in run_here().out + run_here().err
    for arguments in (["plam"], ["plan", "new"], ["covariance", "--tokens", "many"]):
        outcome = run_here(*arguments)
        assert outcome.code == USAGE
        assert "Traceback" not in outcome.err


@pytest.mark.parametrize("layers", ["4-", "x", "5-3", ",", "-1"])
def test_malformed_layers_are_a_usage_error(
    federation: Federation, tmp_path: Path, layers: str
) -> None:
    outcome = run_here(
        *("covariance", "--model", federation.model, "--out", tmp_path / "c"),
        f"--layers={layers}",
    )
    assert outcome.code == USAGE
    assert repr(layers) in outcome.err
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--layers", "6"], ["layer 6"]),
        (["--source", "/nowhere/at-all.txt", "--layers", "1"], ["/nowhere/at-all.txt"]),
        (["--tokens", "20", "--layers", "1"], ["20 tokens"]),
        (["--dtype", "int8"], ["int8"]),
        (["--device", "abacus"], ["abacus"]),
    ],
)
def test_covariance_refuses_what_it_cannot_measure(
    federation: Federation, tmp_path: Path, flags: list[str], said: Sequence[str]
) -> None:
    out = tmp_path / "c"
    outcome = run_here("covariance", "--model", federation.model, "--out", out, *flags)
    assert_refused(outcome, INPUT, *said)
    assert not out.exists()


def test_the_covariance_digest_is_the_one_in_the_plan(
    federation: Federation, tmp_path: Path
) -> None:
    source = federation.directory / "general.txt"
    arguments = ["covariance", "--model", federation.model, "--source", source, "--layers", "1,3"]
    arguments += ["--tokens", 2000, "--window", 50, "--out", tmp_path / "c"]
    assert run_here(*arguments).ok() == federation.plan.editing.covariance


# Evidence.


def test_a_party_that_was_lied_to_leaves_a_file_for_others_and_names_it(
    federation: Federation, silent_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, work = federation.plan, tmp_path / "work"
    context = m.Context(plan.digest, bytes(32), TaskIndex(0), bytes(32))
    key = read_signing_key(federation.aggregator.identity)
    releases = tuple(
        sign_message(
            m.Release(bytes([n]) * 32, 1, bytes(32)), context=context, sender=AGGREGATOR, key=key
        )
        for n in (1, 2)
    )

    def lied_to(*_: object, evidence: EvidenceSink, **__: object) -> None:
        evidence(Evidence(EvidenceKind.REPEATED_STATEMENT, AGGREGATOR, releases))
        raise SessionAbortedError(AbortReason.UPDATE_FORK, "lied to", culprit=AGGREGATOR_NAME)

    monkeypatch.setattr("collabedit.api.joining.run_session", lied_to)
    outcome = join_party(federation, work, silent_port)
    assert outcome.code == PROTOCOL
    (file,) = work.glob("evidence-*.json")
    assert outcome.lines[-1] == (
        f"error: UPDATE_FORK: lied to (culprit: {AGGREGATOR_NAME}); "
        f"evidence for others is in {file}"
    )
    verdict = run_here("verify-evidence", file, "--plan", federation.plan_file).ok()
    assert verdict.startswith(f"proven: {AGGREGATOR_NAME} (aggregator 0), UPDATE_FORK")


def test_evidence_that_cannot_be_saved_hides_no_error(
    federation: Federation, silent_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lied_to(*_: object, evidence: EvidenceSink, **__: object) -> None:
        evidence(Evidence(EvidenceKind.REPEATED_STATEMENT, AGGREGATOR, ()))
        raise SessionAbortedError(AbortReason.UPDATE_FORK, "lied to", culprit=AGGREGATOR_NAME)

    def full(*_: object) -> Path:
        raise EvidenceFileError("the disk is full")

    monkeypatch.setattr("collabedit.api.joining.run_session", lied_to)
    monkeypatch.setattr("collabedit.proto.evidence_file.EvidenceFolder.save", full)
    outcome = join_party(federation, tmp_path / "work", silent_port)
    assert outcome.code == PROTOCOL
    assert any("evidence-lost" in line and "disk is full" in line for line in outcome.lines)
    assert outcome.lines[-1] == f"error: UPDATE_FORK: lied to (culprit: {AGGREGATOR_NAME})"


# What a session continues, and past edits.


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"memory_weight": 2}, "--memory-weight: needs --memory"),
        ({"memory": 1, "memory_weight": 0}, "greater than 0"),
        ({"skip_residual": 1.5}, "less than 1"),
    ],
)
def test_a_plan_with_half_a_memory_is_refused(
    federation: Federation, tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    out = tmp_path / "plan.toml"
    assert_refused(run_here(*plan_new(federation, out=out, **changes)), INPUT, said)
    assert not out.exists()


def test_a_new_plan_states_its_memory(federation: Federation, tmp_path: Path) -> None:
    out = tmp_path / "plan.toml"
    run_here(*plan_new(federation, out=out, memory=3, memory_weight=2.5, skip_residual=0.1)).ok()
    plan = load_plan(out)
    assert plan.memory == Memory(weight=2.5, max_edits=3)
    assert plan.editing.skip_residual == 0.1
    edits = sum(party.max_edits for party in plan.federation.parties)
    assert plan.aggregation.capacity == edits + 3 * 3 + 8
    shown = run_here("plan", "show", out)
    assert "up to 3 past edits of each party, weight 2.5" in shown.err


def test_a_memory_without_a_plan_that_has_one_is_refused(
    federation: Federation, silent_port: int, tmp_path: Path
) -> None:
    file = tmp_path / "memory.sealed"
    outcome = join_party(federation, tmp_path / "work", silent_port, memory=file)
    assert_refused(outcome, INPUT, file, "the plan has no memory")


def test_an_update_that_this_session_would_take_the_place_of_is_refused(
    federation: Federation, silent_port: int, tmp_path: Path
) -> None:
    update = tmp_path / "work" / "update.safetensors"
    outcome = join_party(federation, tmp_path / "work", silent_port, previous=[update])
    assert_refused(outcome, INPUT, update, "is where this session's update goes")


@pytest.mark.parametrize("command", ["check", "evaluate", "new", "join"])
def test_an_update_that_is_none_is_named(
    federation: Federation, silent_port: int, tmp_path: Path, command: str
) -> None:
    junk = tmp_path / "junk.safetensors"
    junk.write_text("no update")
    outcome = {
        "check": lambda: run_here("plan", "check", federation.plan_file, "--previous", junk),
        "evaluate": lambda: run_here(
            *("evaluate", "--model", federation.model, "--previous", junk),
            *("--edits", federation.member("party-1").edits),
        ),
        "new": lambda: run_here(*plan_new(federation, out=tmp_path / "plan", previous=junk)),
        "join": lambda: join_party(federation, tmp_path / "work", silent_port, previous=[junk]),
    }[command]()
    assert_refused(outcome, INPUT, junk)
