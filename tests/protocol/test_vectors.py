"""Vectors of messages, a whole session, refusals, evidence and the graph: tests/vectors/README.md.

The verifier under `tests/vectors` is a second implementation. Here it must agree with the vectors,
without this package, and it must notice whatever is altered in them.
"""

import ast
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

VECTORS = Path(__file__).parents[1] / "vectors"
Json: TypeAlias = Any
NAMES = (
    "proto",
    "session",
    "refusals",
    "evidence",
    "graph",
    "counting",
    "votes",
    "closed",
    "decoys",
    "ckks",
    "encrypted",
)

ISOLATED = """
import runpy, sys
sys.modules["collabedit"] = None  # any import of it fails
sys.path.insert(0, sys.argv[1])
sys.argv = ["verify.py", *sys.argv[2:]]
try:
    runpy.run_path(sys.path[0] + "/verify.py", run_name="__main__")
finally:
    loaded = {name.split(".")[0] for name in sys.modules if sys.modules[name] is not None}
    assert not loaded & {"collabedit", "tests", "google", "pydantic", "grpc"}, loaded
"""


def read(name: str) -> Any:  # noqa: ANN401  whatever JSON holds
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture
def beside_the_vectors(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the scripts there import each other, and forget them afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(VECTORS))
    yield
    for name in set(sys.modules) - before:
        if name.split(".")[0] in {"independent", "verify"} or name.startswith("generate_"):
            del sys.modules[name]


@pytest.fixture
def verify(beside_the_vectors: None) -> Callable[..., list[str]]:
    """Verify the committed vectors, with some files replaced; lines of those files only."""
    run: Callable[[dict[str, Any]], list[str]] = runpy.run_path(str(VECTORS / "verify.py"))[
        "verify"
    ]

    def lines(**replaced: Any) -> list[str]:  # noqa: ANN401
        quick: dict[str, Any] = {
            name: {} for name in NAMES if name not in replaced and name != "session"
        }
        files = {"session": read("session"), **quick, **replaced}
        wanted = tuple(f"{name}: " for name in replaced)
        return [line for line in run(files) if line.startswith(wanted)]

    return lines


@pytest.mark.parametrize(
    ("script", "names"),
    [
        ("generate_session.py", ["session"]),
        ("generate_refusals.py", ["refusals"]),
        ("generate_evidence.py", ["evidence"]),
        ("generate_graph.py", ["graph"]),
        ("generate_counting.py", ["counting"]),
        ("generate_votes.py", ["votes"]),
        ("generate_closed.py", ["closed"]),
        ("generate_decoys.py", ["decoys"]),
        ("generate_ckks.py", ["ckks"]),
        ("generate_encrypted.py", ["encrypted"]),
    ],
)
def test_the_code_still_produces_the_committed_vectors(
    script: str,
    names: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    beside_the_vectors: None,
) -> None:
    target = tmp_path / "graph.json" if names == ["graph"] else tmp_path
    monkeypatch.setattr(sys, "argv", [script, str(target)])
    runpy.run_path(str(VECTORS / script), run_name="__main__")
    for name in names:
        made = (tmp_path / f"{name}.json").read_bytes()
        assert made == (VECTORS / f"{name}.json").read_bytes(), f"run tests/vectors/{script}"


def isolated(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-c", ISOLATED, str(VECTORS), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd="/",
    )


def test_an_independent_implementation_agrees_without_the_package() -> None:
    verified = isolated()
    assert verified.returncode == 0, verified.stderr
    assert verified.stdout == f"{', '.join(NAMES)} agree\n"


def test_one_line_for_a_disagreement_and_exit_code_1(tmp_path: Path) -> None:
    for name in NAMES:
        content = read(name)
        if name == "graph":
            content["cases"][3]["degree"] += 1
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    verified = isolated(str(tmp_path))
    assert verified.returncode == 1
    assert verified.stderr == "graph: cases[3]: 33, 23, 12 gives (23, 13)\n"


def test_the_independent_implementation_imports_nothing_of_ours() -> None:
    imported = set()
    for path in (VECTORS / "verify.py", *(VECTORS / "independent").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])
    assert imported - sys.stdlib_module_names == {"independent", "cryptography", "numpy"}


def leaves(tree: Json, path: str = "") -> Iterator[tuple[str, str, Json, Json]]:
    """Every leaf as (path, kind of path, container, key)."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        here = f"{path}[{key}]" if isinstance(tree, list) else f"{path}.{key}".removeprefix(".")
        if isinstance(value, dict | list):
            yield from leaves(value, here)
        else:
            kind = "".join("0" if c.isdigit() else c for c in here)
            yield here, kind, tree, key


def alter(container: Json, key: Json) -> None:
    """Change one digit of a number or a text, or whatever else there is."""
    value = container[key]
    if isinstance(value, bool) or value is None:
        container[key] = not value
    elif isinstance(value, int):
        container[key] = value + 1
    else:
        at = next((i for i in range(len(value) // 2, len(value)) if value[i].isalnum()), None)
        digit = "" if at is None else "1" if value[at] != "1" else "2"
        container[key] = value + "1" if at is None else value[:at] + digit + value[at + 1 :]


def is_input(path: str) -> bool:
    """Whether the verifier takes a value of the session as it is; the test after the next."""
    taken = path.startswith(("generator", "plan.toml", "dropped", "tolerance", "session_id"))
    return taken or path.endswith((".seed", ".bundle")) or ".statistics" in path


def test_every_altered_value_of_the_session_is_named(verify: Callable[..., list[str]]) -> None:
    # One value of every kind at once: whatever is computed is compared leaf by leaf.
    content, altered = read("session"), {}
    for path, kind, container, key in list(leaves(content)):
        if not is_input(path) and kind not in altered:
            altered[kind] = path
            alter(container, key)
    found = {line.split(": ")[1] for line in verify(session=content)}
    assert len(altered) > 90
    assert [path for path in altered.values() if path not in found] == []


@pytest.mark.parametrize(
    "path",
    [
        "plan.toml",
        "identities.0.seed",
        "identities.3.seed",
        "session_id",
        "tasks[1].parties.2.seed",
        "dropped.party",
        "dropped.task",
        "tasks[0].parties.1.statistics[0].keys[0][0]",
        "tasks[1].parties.4.statistics[0].residuals[2][0]",
        "tasks[0].bundle",
        "tasks[1].bundle",
    ],
)
def test_every_altered_input_of_the_session_is_noticed(
    path: str, verify: Callable[..., list[str]]
) -> None:
    content = read("session")
    for here, _, container, key in list(leaves(content)):
        if here == path:
            alter(container, key)
    assert content != read("session")
    assert verify(session=content)


ITEM_TEXTS = (".subject", ".prompt", ".relation", ".object")


def test_every_altered_value_of_the_counting_task_is_named(
    verify: Callable[..., list[str]],
) -> None:
    content, altered = read("counting"), {}
    for path, kind, container, key in list(leaves(content)):
        taken = is_input(path) and not path.endswith(".bundle")
        taken = taken or path.endswith(ITEM_TEXTS) or ".paraphrases" in path
        if not taken and kind not in altered:
            altered[kind] = path
            alter(container, key)
    found = {line.split(": ")[1] for line in verify(counting=content)}
    assert len(altered) > 80
    assert [path for path in altered.values() if path not in found] == []


@pytest.mark.parametrize(
    "path",
    [
        "plan.toml",
        "tasks[0].parties.1.seed",
        "tasks[0].parties.1.items[1].subject",
        "tasks[0].parties.2.items[0].object",
        "tasks[0].parties.2.items[0].relation",
        "tasks[0].parties.4.items[0].prompt",
        "tasks[0].parties.1.items[1].paraphrases[0]",
    ],
)
def test_every_altered_input_of_the_counting_task_is_noticed(
    path: str, verify: Callable[..., list[str]]
) -> None:
    content = read("counting")
    for here, _, container, key in list(leaves(content)):
        if here == path:
            container[key] = container[key].replace("Bob, Bob", "Rob, Rob") + "."
    assert content != read("counting")
    assert verify(counting=content)


def test_the_counting_task_has_what_a_second_implementation_could_get_wrong() -> None:
    task = read("counting")["tasks"][0]
    told = [edit for own in task["decisions"].values() for edit in own]
    assert {(edit["claims"], edit["copies"]) for edit in told} == {(3, 3), (3, 2), (3, 1), (1, 1)}
    assert {edit["added"] for edit in told} == {0, 1}
    items = [item for party in task["parties"].values() for item in party["items"]]
    assert len({(item["subject"], item["prompt"]) for item in items}) > len(
        {item["topic"] for item in items}
    )
    assert None in {item["relation"] for item in items} != {None}
    assert task["survivors"] == [1, 2, 4]
    assert "corruptions" in read("counting")["plan"]["toml"]


def is_input_of_closed(path: str) -> bool:
    """Whether the verifier takes a value of a closed task as it is; the tests after the next."""
    if path.startswith("refusals"):
        return not path.endswith(".reason")
    return ".edits" in path or (path.startswith("rotations") and ".turned" not in path)


@pytest.mark.parametrize("name", ["closed", "decoys"])
def test_every_altered_value_of_a_closed_task_is_named(
    name: str, verify: Callable[..., list[str]]
) -> None:
    content, altered = read(name), {}
    for path, kind, container, key in list(leaves(content)):
        if is_input(path) or is_input_of_closed(path) or kind in altered:
            continue
        altered[kind] = path
        if isinstance(container[key], str) and "0x" in container[key]:
            container[key] = (float.fromhex(container[key]) + 1e-6).hex()
        else:
            alter(container, key)
    found = {line.split(": ")[1] for line in verify(**{name: content})}
    assert len(altered) > 110
    assert [path for path in altered.values() if path not in found] == []


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("closed", "plan.toml"),
        ("closed", "tasks[0].parties.1.seed"),
        ("closed", "tasks[0].parties.1.statistics[0].keys[0][0]"),
        ("closed", "tasks[0].parties.2.statistics[1].residuals[2][0]"),
        ("closed", "tasks[0].parties.4.statistics[1].keys[5][1]"),  # a cover edit
        ("closed", "tasks[0].bundle"),
        ("closed", "rotations[0].columns[0][0]"),
        ("closed", "rotations[1].key"),
        ("closed", "rotations[2].columns[64][1]"),
        ("closed", "rotations[3].key"),
        ("decoys", "plan.toml"),
        ("decoys", "tasks[0].parties.1.edits[0].keys[0][0]"),
        ("decoys", "tasks[0].parties.1.edits[0].residuals[2][1]"),
        ("decoys", "tasks[0].parties.2.edits[0].past[5][0]"),
        ("decoys", "tasks[0].parties.2.statistics[0].keys[3][1]"),  # a past edit
        ("decoys", "tasks[0].parties.4.statistics[0].keys[5][1]"),  # a cover edit
        ("decoys", "tasks[0].parties.1.statistics[0].decoys[0][0]"),
        ("decoys", "tasks[0].parties.4.statistics[0].decoys[13][1]"),  # under a cover edit
        ("decoys", "tasks[0].bundle"),
    ],
)
def test_every_altered_input_of_a_closed_task_is_noticed(
    name: str, path: str, verify: Callable[..., list[str]]
) -> None:
    content = read(name)
    for here, _, container, key in list(leaves(content)):
        if here == path:
            alter(container, key)
    assert content != read(name)
    assert verify(**{name: content})


@pytest.mark.parametrize("name", ["closed", "decoys"])
def test_every_altered_refusal_of_a_closed_bundle_is_named(
    name: str, verify: Callable[..., list[str]]
) -> None:
    content = read(name)
    for case in content["refusals"]:
        case["reason"] = "MERGE_UNVERIFIED" if case["reason"] is None else None
    named = {line.split("[")[1].split("]")[0] for line in verify(**{name: content})}
    assert named == {str(i) for i in range(len(content["refusals"]))}


def test_the_closed_task_has_what_a_second_implementation_could_get_wrong() -> None:
    content = read("closed")
    (task,) = content["tasks"]
    assert task["survivors"] == [1, 2, 4]
    assert len(task["closed"]) == 2
    assert '"check_tolerance":0.0001' in content["plan"]["canonical"]
    # No block, one, one that is full, two full ones and a rest.
    assert [case["size"] for case in content["rotations"]] == [1, 2, 65, 130]
    # In this ring each integer is looked after by six tags, and a word is two elements.
    assert len(task["parties"]["1"]["tags"]) == 6
    assert task["parties"]["1"]["integers"][:2] == [3, 2]
    reasons = [case["reason"] for case in content["refusals"]]
    assert (reasons.count(None), len(reasons)) == (5, 24)
    assert set(reasons) == {None, "MERGE_UNVERIFIED", "TOO_FEW_EDITS", "MALFORMED_MESSAGE"}
    bundles = {case["bundle"] for case in content["refusals"]}
    assert len(bundles) == len(reasons) - 2  # shown to other survivors


def test_the_decoys_have_what_a_second_implementation_could_get_wrong() -> None:
    content = read("decoys")
    (task,) = content["tasks"]
    shown = task["closed"]["8"]
    assert task["survivors"] == [1, 2, 4]
    # Five edits, four past ones, four covers, and one more.
    assert task["decoys"]["rows"] == 14
    assert task["decoys"]["energy"] != task["decoys"]["energy_of_all"]
    assert (len(shown["u"]), len(shown["opened"]), len(shown["left"][0])) == (19, 5, 4)
    brought = {party: given["integers"][:2] for party, given in task["parties"].items()}
    assert brought == {"1": [3, 2], "2": [3, 1], "3": [2, 1], "4": [2, 1]}
    for given in task["parties"].values():
        (layer,) = given["statistics"]
        assert (len(layer["residuals"]), len(layer["decoys"])) == (5, 14)
        assert len(layer["decoys"][0]) == len(layer["keys"][0]) > len(layer["residuals"][0])
    reasons = {case["case"]: case["reason"] for case in content["refusals"]}
    assert set(reasons.values()) == {
        None,
        "MERGE_UNVERIFIED",
        "TOO_FEW_EDITS",
        "MALFORMED_MESSAGE",
    }
    for case, beyond in (
        ("residuals' rows just within what is allowed", "residuals' rows just beyond"),
        ("decoys' rows just within 6.6(e)", "decoys' rows just beyond 6.6(e)"),
        (
            "larger residuals than said, just within 6.6(e)",
            "larger residuals than said, just beyond 6.6(e)",
        ),
    ):
        assert reasons[case] is None is not reasons[beyond]


def test_an_update_that_is_off_by_more_than_the_tolerance_is_noticed(
    verify: Callable[..., list[str]],
) -> None:
    # The bundle and all that follows from it stay consistent with each other; the sum does not.
    content = read("session")
    bundle = bytearray.fromhex(content["tasks"][1]["bundle"])
    bundle[8 + 12 + 20 + 3] ^= 0xFF  # in the middle of the first number's mantissa
    content["tasks"][1]["bundle"] = bundle.hex()
    assert any("is not what SPEC 6.5 gives" in line for line in verify(session=content))


@pytest.mark.parametrize("name", ["refusals", "evidence"])
def test_every_altered_outcome_is_named(name: str, verify: Callable[..., list[str]]) -> None:
    content = read(name)
    for case in content["cases"]:
        if name == "evidence":
            case["verdict"] = "proven" if case["verdict"] != "proven" else "not proven"
        else:
            case["outcome"]["outcome"] = "accepted"
    lines = verify(**{name: content})
    named = {line.split("[")[1].split("]")[0] for line in lines}
    assert named == {str(i) for i in range(len(content["cases"]))}


def test_every_altered_packet_that_ends_the_session_is_noticed(
    verify: Callable[..., list[str]],
) -> None:
    # A packet that is refused may be refused alike once it is altered again; these may not.
    content, expected = read("refusals"), set()
    for i, case in enumerate(content["cases"]):
        if case["is_signed"] and case["outcome"]["outcome"] == "aborts":
            data = bytearray.fromhex(case["bytes"])
            data[60] ^= 1  # in the context
            case["bytes"] = data.hex()
            expected.add(str(i))
    lines = verify(refusals=content)
    assert len(expected) > 30
    assert {line.split("[")[1].split("]")[0] for line in lines} == expected


def test_every_altered_proof_is_noticed(verify: Callable[..., list[str]]) -> None:
    content, expected = read("evidence"), set()
    for i, case in enumerate(content["cases"]):
        if case["verdict"] == "proven":
            at = case["file"].index('"envelopes"') + 200
            other = "A" if case["file"][at] != "A" else "B"
            case["file"] = case["file"][:at] + other + case["file"][at + 1 :]
            expected.add(str(i))
    lines = verify(evidence=content)
    assert len(expected) > 10
    assert {line.split("[")[1].split("]")[0] for line in lines} == expected


def test_every_altered_value_of_the_votes_is_named(verify: Callable[..., list[str]]) -> None:
    content, altered = read("votes"), {}
    for path, kind, container, key in list(leaves(content)):
        voted = kind.startswith(("rejected.votes", "rejected.outcomes"))
        if kind not in altered and (voted or kind == "rejected.packets[0].message.vote"):
            altered[kind] = path
            value = container[key]
            alter(container, key)
            assert verify(votes=content), path
            container[key] = value
    assert len(altered) == 3
    assert content == read("votes")


def test_every_altered_outcome_of_a_vote_is_named(verify: Callable[..., list[str]]) -> None:
    content = read("votes")
    cases = content["refusals"]["cases"]
    for case in cases:
        case["outcome"]["outcome"] = "accepted"
    for case in content["evidence"]["cases"]:
        case["verdict"] = "proven" if case["verdict"] != "proven" else "not proven"
    lines = verify(votes=content)
    assert len(lines) == len(cases) + len(content["evidence"]["cases"])


def test_the_voted_sessions_have_what_a_second_implementation_could_get_wrong() -> None:
    content = read("votes")
    accepted, rejected = content["accepted"], content["rejected"]
    assert list(accepted["votes"].values()).count(1) == 3
    assert set(accepted["outcomes"].values()) == {"completed"}
    assert list(rejected["votes"].values()).count(1) == 2
    assert set(rejected["outcomes"].values()) == {"UPDATE_REJECTED"}
    assert set(rejected["outcomes"]) == {"0", "1", "2", "3", "4"}
    # Nobody votes on the first task, and nothing is said after the list of votes.
    statements = [p["message"] for p in accepted["packets"] if p["kind"] == 70]
    assert [statement.get("vote") for statement in statements] == [None] * 4 + [1, 4, 1, 1]
    assert [packet["kind"] for packet in rejected["packets"]] == [70, 70, 70, 71]
    assert {case["outcome"].get("reason") for case in content["refusals"]["cases"]} >= {
        "MALFORMED_MESSAGE",
        "UPDATE_FORK",
        "MISSING_SELF",
        "ALTERED_OWN_MESSAGE",
        "UPDATE_REJECTED",
    }


@pytest.mark.parametrize("turn", range(6))
def test_every_altered_message_is_named(turn: int, verify: Callable[..., list[str]]) -> None:
    # Another value of each case in each turn, so that every field is altered somewhere.
    content, expected = read("proto"), {"collect.request", "identities.2"}
    for section in ("bodies", "packets"):
        for i, case in enumerate(content[section]):
            places = [(container, key) for _, _, container, key in leaves(case)]
            alter(*places[(turn * 5 + i) % len(places)])
            expected.add(f"{section}[{i}]")
    _, _, request, key = list(leaves(content["collect"]["request"]))[turn % 4]
    alter(request, key)
    alter(content["identities"], "2")
    lines = verify(proto=content)
    place = re.compile(r"proto: (bodies\[\d+\]|packets\[\d+\]|collect\.request|identities\.\d)")
    assert expected <= {found[1] for line in lines if (found := place.match(line))}


def test_what_must_be_refused_is_noticed_when_it_is_a_message(
    verify: Callable[..., list[str]],
) -> None:
    content = read("proto")
    for case in content["refused"]:
        case["decodes as"], case["bytes"] = "Join", ""
    assert len(verify(proto=content)) == len(content["refused"])


def test_the_session_has_what_a_second_implementation_could_get_wrong() -> None:
    content = read("session")
    first, second = content["tasks"]
    assert first["present"] == [1, 2, 3, 4]
    assert first["survivors"] == second["present"] == second["survivors"] == [1, 2, 4]
    assert set(first["opening"]["self_mask_seeds"]) == {"1", "2", "4"}
    assert set(first["opening"]["mask_keys"]) == {"3"}
    draws = [
        name
        for task in content["tasks"]
        for p in task["parties"].values()
        for name, _ in p["draws"]
    ]
    assert "rejected" in draws
    signs = {mask["sign"] for party in first["parties"].values() for mask in party["masks"]}
    assert signs == {1, -1}
    sizes = [len(frame) for frame in first["parties"]["1"]["frames"]]
    assert len(sizes) == 5
    assert sizes[-1] < sizes[0]
    assert any(number.startswith("-") for number in first["decoded"])
    sent = {packet["message"]["type"] for packet in content["packets"]}
    assert len(sent) == 17


CKKS_INPUTS = {"generator", "ring_degree", "moduli_bits", "scale_bits", "shift_bits"} | {
    *("form", "reals", "key", "tile", "length", "offset", "patch"),
}
"""What the verifier takes from ckks.json as it is; the test after the next."""


def test_every_altered_value_of_ckks_is_named(verify: Callable[..., list[str]]) -> None:
    content, altered = read("ckks"), {}
    for path, kind, container, key in list(leaves(content)):
        if CKKS_INPUTS & set(re.split(r"[.\[]", path)):
            continue
        if kind not in altered:
            altered[kind] = path
            alter(container, key)
    found = {line.split(": ")[1] for line in verify(ckks=content)}
    assert len(altered) > 15
    assert [path for path in altered.values() if path not in found] == []


@pytest.mark.parametrize(
    "path",
    [
        "parameters[0].scale_bits",
        "chunks[0].parameters.shift_bits",
        "chunks[2].form",
        "messages[1].reals[3]",
        "openings[0].key",
        "openings[3].tile",
        "openings[5].parameters.shift_bits",
    ],
)
def test_every_altered_input_of_ckks_is_noticed(
    path: str, verify: Callable[..., list[str]]
) -> None:
    content = read("ckks")
    for here, _, container, key in list(leaves(content)):
        if here == path:
            alter(container, key)
    assert content != read("ckks")
    assert verify(ckks=content)


def test_ckks_vectors_have_what_a_second_implementation_could_get_wrong() -> None:
    content = read("ckks")
    guards = [len(case["moduli_bits"]) - 2 for case in content["parameters"]]
    assert sorted(guards) == [0, 1, 1, 2]
    assert {case["refused"] for case in content["refused_chunks"]["cases"]} == {True, False}
    assert all(case["refused"] for case in content["refused_parameters"])


# Ciphertexts in a session


def is_input_of_encrypted(path: str) -> bool:
    """Whether the verifier takes a value as it is; the tests after the next.

    The opener's noise is taken, too: the sum is what it is under any noise.
    """
    if path.startswith("refusals"):
        return not path.endswith((".reason", ".culprit"))
    return path.endswith((".seed_of_chunk", ".error", ".noise"))


def test_every_altered_value_of_the_encrypted_task_is_named(
    verify: Callable[..., list[str]],
) -> None:
    content, altered = read("encrypted"), {}
    for path, kind, container, key in list(leaves(content)):
        if is_input(path) or is_input_of_encrypted(path) or kind in altered:
            continue
        altered[kind] = path
        if isinstance(container[key], str) and "0x" in container[key]:
            container[key] = (float.fromhex(container[key]) + 1e-6).hex()
        else:
            alter(container, key)
    found = {line.split(": ")[1] for line in verify(encrypted=content)}
    assert len(altered) > 110
    assert [path for path in altered.values() if path not in found] == []


@pytest.mark.parametrize(
    "path",
    [
        "tasks[0].parties.4.error",
        *(
            pytest.param(path, marks=pytest.mark.slow)
            for path in (
                "tasks[0].parties.3.seed_of_chunk",
                "plan.toml",
                "tasks[0].parties.2.seed",
                "tasks[0].parties.2.statistics[0].keys[0][0]",
                "tasks[0].bundle",
                "refusals.uploads[10].patch",
                "refusals.offers[2].announced",
                "refusals.opened[1].message.sum_digest",
            )
        ),
    ],
)
def test_every_altered_input_of_the_encrypted_task_is_noticed(
    path: str, verify: Callable[..., list[str]]
) -> None:
    content = read("encrypted")
    for here, _, container, key in list(leaves(content)):
        if here != path:
            continue
        if path == "refusals.opened[1].message.sum_digest":
            container[key] = content["refusals"]["opened"][0]["message"]["sum_digest"]
        else:
            alter(container, key)
    assert content != read("encrypted")
    assert verify(encrypted=content)


def test_every_altered_refusal_of_the_encrypted_task_is_named(
    verify: Callable[..., list[str]],
) -> None:
    content, wanted = read("encrypted"), set()
    for kind, cases in content["refusals"].items():
        for i, case in enumerate(cases):
            case["reason"] = "MERGE_UNVERIFIED" if case["reason"] is None else None
            wanted.add(f"refusals.{kind}[{i}].reason")
    assert {line.split(": ")[1] for line in verify(encrypted=content)} == wanted


def test_the_encrypted_task_has_what_a_second_implementation_could_get_wrong() -> None:
    content = read("encrypted")
    (task,) = content["tasks"]
    opening = task["opening"]
    # The lowest id of the survivors, not of the roster.
    assert (task["survivors"], opening["opener"]) == ([2, 3, 4], 2)
    # A guard that the statistics of this task would not need: those of the task after it do.
    assert opening["shift_bits"] == 1
    assert '"index":8' in content["plan"]["canonical"]
    assert len(task["closed"]) == 1
    # A tile has the end of the chunk and the check elements behind it, and so have two tiles.
    assert 131168 % 1024 != 0
    assert len(task["parties"]["2"]["frames"]) == 129
    assert len(opening["frames"]) == 2
    sent = [packet["message"]["type"] for packet in content["packets"]]
    assert "Unmask" not in sent
    (offer,) = [packet for packet in content["packets"] if packet["kind"] == 62]
    assert (offer["to"], sent.count("SumOpened")) == ([2], 1)
    seen = {case["reason"] for cases in content["refusals"].values() for case in cases}
    assert seen == {
        None,
        "MALFORMED_MESSAGE",
        "DIGEST_MISMATCH",
        "REPEATED_PARTY",
        "BOUNDS_EXCEEDED",
    }


Misread: TypeAlias = Callable[[Any, pytest.MonkeyPatch], None]
"""Changes the verifier's modules (`sys.modules`) as somebody would write them who misread SPEC."""


def _guard_of_this_task(modules: Json, patch: pytest.MonkeyPatch) -> None:
    plan = modules["independent.plan"].Plan
    honest = plan.statistics_elements
    patch.setattr(plan, "statistics_elements", lambda self, task: honest(self, 0 * task))


def _key_without_context(modules: Json, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(modules["independent.encrypted"], "context_bytes", lambda _: b"")


def _another_opener(modules: Json, patch: pytest.MonkeyPatch) -> None:
    session = modules["independent.encrypted_session"]
    patch.setattr(session, "min", max, raising=False)


def _natural_order(modules: Json, patch: pytest.MonkeyPatch) -> None:
    ring = modules["independent.encrypted"].Ring
    to_values, to_coefficients = ring.values, ring.coefficients
    width, size = 13, 8192
    order = [int(f"{j:0{width}b}"[::-1], 2) for j in range(size)]
    patch.setattr(ring, "values", lambda self, given: to_values(self, given)[order])
    patch.setattr(ring, "coefficients", lambda self, given: to_coefficients(self, given[order]))


def _two_is_two(modules: Json, patch: pytest.MonkeyPatch) -> None:
    encrypted = modules["independent.encrypted"]

    def values(key: Any) -> Any:  # noqa: ANN401

        return [ring.values(np.array(key.codes, dtype=object)) for ring in key.rings]

    patch.setattr(encrypted.Key, "values", property(values))


def _each_seed_hashed(modules: Json, patch: pytest.MonkeyPatch) -> None:
    session = modules["independent.encrypted_session"]
    hashed = modules["independent.primitives"].sha256
    honest = session.seeds_digest
    patch.setattr(session, "seeds_digest", lambda seeds: honest(hashed(seeds)))


def _checks_before_chunks(modules: Json, patch: pytest.MonkeyPatch) -> None:
    session = modules["independent.encrypted_session"]
    honest = session.framed

    def framed(data: bytes, sizes: list[int]) -> list[bytes]:
        chunk = session.CHUNK
        found: list[bytes] = honest(data[chunk:] + data[:chunk], sizes)
        return found

    patch.setattr(session, "framed", framed)


def _terms_of_the_roster(modules: Json, patch: pytest.MonkeyPatch) -> None:
    ckks = modules["independent.encrypted"].ckks
    honest = ckks.write_chunk

    def write(setting: Json, form: int, terms: int, *rest: Any) -> bytes:  # noqa: ANN401
        found: bytes = honest(setting, form, 4 if terms > 1 else terms, *rest)
        return found

    patch.setattr(ckks, "write_chunk", write)


@pytest.mark.slow
@pytest.mark.parametrize(
    "misread",
    [
        _guard_of_this_task,
        _key_without_context,
        _another_opener,
        _natural_order,
        _two_is_two,
        _each_seed_hashed,
        _checks_before_chunks,
        _terms_of_the_roster,
    ],
)
def test_a_misread_clause_about_ciphertexts_is_noticed(
    misread: Misread, verify: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = read("encrypted")
    assert verify(encrypted=content) == []
    misread(sys.modules, monkeypatch)
    assert verify(encrypted=content)
