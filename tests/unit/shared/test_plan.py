"""Whatever shapes a result is checked once, digested, and named when it is wrong."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from collabedit.errors import CollabEditError, PlanError
from collabedit.exchange import plan_encoding
from collabedit.ids import AGGREGATOR, PartyId
from collabedit.plan import MAXIMUM_PLAN_BYTES, Plan, format_digest, load_plan, parse_plan
from collabedit.threat_model import (
    MAXIMUM_PARTIES,
    maximum_corruptions,
    minimum_threshold,
    proposed_corruptions,
)
from tests.support.federations import build_federation
from tests.support.lies import Refusal

PLAN = build_federation(4, layers=2).plan
VALUES: dict[str, Any] = tomllib.loads(PLAN.to_toml())


def changed(path: str, value: object) -> dict[str, Any]:
    """The plan's values with one of them replaced, or taken out if it is `...`."""
    copy: dict[str, Any] = tomllib.loads(PLAN.to_toml())
    at: Any = copy
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parents:
        at = at[part]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return copy


def parse(values: dict[str, Any]) -> Plan:
    return parse_plan(tomli_w.dumps(values), source="plan.toml")


KEY = "ab" * 32
PRIVACY = {
    "mechanism": "discrete-gaussian",
    "unit": "edit",
    "epsilon": 10.0,
    "delta": 1e-6,
    "noise_multiplier": 0.57,
    "honest": 2,
}
REFUSED: list[tuple[str, object, str, str]] = [
    # path, wrong value, field that the message names, what it says
    ("version", 2, "version", "Input should be 1"),
    ("version", "1", "version", "Input should be 1"),
    ("name", "", "name", "pattern"),
    ("name", "Upper", "name", "pattern"),
    ("name", "a" * 64, "name", "pattern"),
    ("name", "-a", "name", "pattern"),
    ("extra", 1, "extra", "Extra inputs are not permitted"),
    ("federation", ..., "federation", "Field required"),
    ("federation.threshold", 2, "federation", "threshold 2 for 4 parties, must be 3 to 4"),
    ("federation.threshold", 5, "federation", "threshold 5 for 4 parties, must be 3 to 4"),
    ("federation.threshold", 3.0, "federation.threshold", "valid integer"),
    ("federation.corruptions", 2, "federation", "corruptions 2 for 4 parties with threshold 3"),
    ("federation.corruptions", -1, "federation", "must be 0 to 1"),
    ("federation.corruptions", 1.0, "federation.corruptions", "valid integer"),
    ("federation.threshold", True, "federation.threshold", "valid integer"),
    ("federation.parties", [], "federation.parties", "at least 3"),
    ("federation.parties.0.name", "party-2", "federation", "name party-2 is used twice"),
    ("federation.parties.0.name", "aggregator", "federation", "name aggregator is used twice"),
    ("federation.parties.0.identity", KEY.upper(), "federation.parties.0.identity", "pattern"),
    ("federation.parties.0.identity", KEY[:-1], "federation.parties.0.identity", "pattern"),
    ("federation.parties.0.max_edits", 0, "federation.parties.0.max_edits", "greater"),
    ("federation.parties.0.max_edits", 1_000_001, "federation.parties.0.max_edits", "less"),
    ("federation.parties.0.max_edits", 100, "plan", "capacity 20 is too small"),
    ("federation.parties.0.other", 1, "federation.parties.0.other", "Extra inputs"),
    ("federation.aggregator.identity", "x", "federation.aggregator.identity", "pattern"),
    ("model.dtype", "int8", "model.dtype", "float64"),
    ("model.weights", KEY, "model.weights", "pattern"),
    ("model.tokenizer", "sha256:zz", "model.tokenizer", "pattern"),
    ("editing.editor", "rome", "editing.editor", "memit"),
    ("editing.schedule", "random", "editing.schedule", "sequential"),
    ("editing.covariance_weight", 0.0, "editing.covariance_weight", "greater than 0"),
    ("editing.covariance", "none", "editing.covariance", "pattern"),
    ("editing.covariance_weight", ..., "editing", "editor memit needs covariance_weight"),
    ("editing.covariance", ..., "editing", "editor memit needs covariance"),
    ("editing.l2", 1.0, "editing", "l2 has no meaning with editor memit"),
    ("editing.nullspace_threshold", 0.1, "editing", "nullspace_threshold has no meaning"),
    ("editing.layers.1.shift", 0.0, "editing", "shift in layer 1 has no meaning with editor memit"),
    ("editing.layers.0.kept", 1, "editing", "kept in layer 0 has no meaning with editor memit"),
    ("editing.layers.0.kept", 49, "editing.layers.0", "kept 49 exceeds inputs 48"),
    ("editing.editor", "emmet", "editing", "ridge 1 with editor emmet: must be 0"),
    ("editing.editor", "ridge", "editing", "covariance has no meaning with editor ridge"),
    ("editing.editor", "alphaedit", "editing", "covariance_weight has no meaning"),
    ("editing.ridge", 0.0, "editing", "ridge 0 with editor memit: must be above 0"),
    ("editing.ridge", -0.1, "editing.ridge", "greater than or equal to 0"),
    ("editing.context_templates", [], "editing.context_templates", "at least 1"),
    ("editing.context_templates", ["{}", "no"], "editing.context_templates", "template 2"),
    ("editing.context_templates", ["{} {}"], "editing.context_templates", "template 1"),
    ("editing.context_templates", ["{}", "{} {x}"], "editing.context_templates", "template 2"),
    ("editing.context_templates", ["{}", "odd } {}"], "editing.context_templates", "template 2"),
    ("editing.targets.kl_prompt", "a subject", "editing.targets.kl_prompt", "exactly once"),
    ("editing.targets.kl_prompt", "{} is {}", "editing.targets.kl_prompt", "exactly once"),
    ("editing.context_templates", ["A. {}"], "editing.context_templates", "bare template"),
    ("editing.layers", [], "editing.layers", "at least 1"),
    ("editing.layers.0.index", 1, "editing.layers", "ascend"),
    ("editing.layers.0.index", 7, "editing.layers", "ascend"),
    ("editing.layers.0.index", -1, "editing.layers.0.index", "greater"),
    ("editing.layers.0.inputs", 0, "editing.layers.0.inputs", "greater"),
    ("editing.layers.0.outputs", (1 << 20) + 1, "editing.layers.0.outputs", "less"),
    ("editing.layers.0.mapped", 0, "editing.layers.0.mapped", "greater"),
    ("editing.targets.learning_rate", 0.0, "editing.targets.learning_rate", "greater"),
    ("editing.targets.steps", 0, "editing.targets.steps", "greater"),
    ("editing.targets.clamp_factor", 0.0, "editing.targets.clamp_factor", "greater"),
    ("editing.targets.weight_decay", -1.0, "editing.targets.weight_decay", "greater"),
    ("editing.targets.kl_weight", -1.0, "editing.targets.kl_weight", "greater"),
    ("editing.targets.stop_loss", -1.0, "editing.targets.stop_loss", "greater"),
    ("aggregation.backend", "plain", "aggregation.backend", "masked"),
    ("aggregation.statistics", "raw", "aggregation.statistics", "sketch"),
    ("aggregation.capacity", 19, "plan", "the parties may bring 12 edits, which needs 20"),
    ("aggregation.capacity", 0, "aggregation.capacity", "greater"),
    ("aggregation.ring_bits", 16, "aggregation.ring_bits", "32"),
    ("aggregation.ring_bits", 32, "aggregation", "fractional_bits 40 leave no room"),
    ("aggregation.fractional_bits", 0, "aggregation.fractional_bits", "greater"),
    ("aggregation.fractional_bits", 63, "aggregation.fractional_bits", "less"),
    ("aggregation.magnitude_bound", 0.0, "aggregation.magnitude_bound", "greater"),
    ("aggregation.magnitude_bound", 1e9, "plan", "overflow a 64-bit ring"),
    ("aggregation.magnitude_bound", float("inf"), "aggregation.magnitude_bound", "finite"),
    ("aggregation.magnitude_bound", float("nan"), "aggregation.magnitude_bound", "finite"),
    ("aggregation.tile_bytes", 0, "aggregation.tile_bytes", "greater"),
    ("aggregation.tile_bytes", 100, "aggregation.tile_bytes", "multiple of 64"),
    ("aggregation.tile_bytes", (1 << 22) + 64, "aggregation.tile_bytes", "less"),
    ("aggregation.test_matrix_seed", "00", "aggregation.test_matrix_seed", "pattern"),
    ("bounds", ..., "bounds", "Field required"),
    ("bounds.key_energy", 0.0, "bounds.key_energy", "greater than 0"),
    ("bounds.key_energy", float("inf"), "bounds.key_energy", "finite"),
    ("bounds.residual_energy", -1.0, "bounds.residual_energy", "greater than 0"),
    ("bounds.residual_energy", float("nan"), "bounds.residual_energy", "finite"),
    ("privacy", {**PRIVACY, "epsilon": 0.0}, "privacy.epsilon", "greater"),
    ("privacy", {**PRIVACY, "delta": 0.5}, "privacy.delta", "less"),
    ("privacy", {**PRIVACY, "unit": "record"}, "privacy.unit", "edit"),
    ("privacy", {**PRIVACY, "mechanism": "gaussian"}, "privacy.mechanism", "discrete-gaussian"),
    ("privacy", {**PRIVACY, "noise_multiplier": 0.0}, "privacy.noise_multiplier", "greater"),
    ("privacy", {**PRIVACY, "honest": 4}, "plan", "a sum is sure to have 3 parties"),
    ("privacy", {**PRIVACY, "honest": 0}, "privacy.honest", "greater"),
    ("privacy", {**PRIVACY, "noise_multiplier": 1e4}, "plan", "no room for noise of deviation"),
    ("memory", {"max_edits": 1}, "memory.weight", "Field required"),
    ("memory", {"weight": 0.0, "max_edits": 1}, "memory.weight", "greater than 0"),
    ("memory", {"weight": 1e10, "max_edits": 1}, "memory.weight", "less"),
    ("memory", {"weight": 1.0, "max_edits": -1}, "memory.max_edits", "greater"),
    ("memory", {"weight": 1.0, "max_edits": 1}, "plan", "12 edits and 4 past ones, which needs 24"),
    ("model.previous", [], "model.previous", "at least 1"),
    ("model.previous", [KEY], "model.previous.0", "pattern"),
    ("model.previous", ["sha256:" + KEY] * 2, "model.previous", "names a session twice"),
    ("timing.round", 0.0, "timing.round", "greater than 0"),
    ("timing.liveness", 1e9, "timing.liveness", "less"),
]


@pytest.mark.parametrize(
    ("path", "value", "field", "said"), REFUSED, ids=[f"{p}={v!s:.20}" for p, v, _, _ in REFUSED]
)
def test_a_wrong_value_is_refused_and_its_field_is_named(
    path: str, value: object, field: str, said: str
) -> None:
    with pytest.raises(PlanError) as caught:
        parse(changed(path, value))
    message = str(caught.value)
    assert message.startswith(f"plan.toml: {field}: "), message
    assert said in message
    assert "\n" not in message


@pytest.mark.lie(
    role="aggregator",
    lie="proposes a plan with a threshold below the floor",
    round="join",
    refused_by="PlanError",
)
@pytest.mark.parametrize("threshold", [0, 1, 2])
def test_a_threshold_below_the_floor_makes_no_plan(threshold: int, refusal: Refusal) -> None:
    with pytest.raises(PlanError) as caught:
        parse(changed("federation.threshold", threshold))
    refusal(caught.value)
    assert f"threshold {threshold} for 4 parties, must be 3 to 4" in str(caught.value)


@pytest.mark.lie(
    role="aggregator",
    lie="proposes a plan that lists one identity as two parties",
    round="join",
    refused_by="PlanError",
)
def test_a_repeated_identity_is_refused(refusal: Refusal) -> None:
    again = PLAN.federation.parties[1].identity
    with pytest.raises(PlanError, match=f"identity {again} is used twice") as caught:
        parse(changed("federation.parties.0.identity", again))
    refusal(caught.value)


def test_more_parties_than_are_supported_are_refused() -> None:
    values = changed("federation.threshold", 700)
    values["federation"]["parties"] = [
        {"name": f"p{i}", "identity": f"{i:064x}", "max_edits": 1}
        for i in range(MAXIMUM_PARTIES + 1)
    ]
    with pytest.raises(
        PlanError, match=f"{MAXIMUM_PARTIES + 1} parties, at most {MAXIMUM_PARTIES}"
    ):
        parse(values)


@pytest.mark.parametrize("text", ["version = ", "\x00", "[[x]]\n[x]", "a = 1\na = 2"])
def test_what_is_not_toml_is_said_to_be_none(text: str) -> None:
    with pytest.raises(PlanError, match=r"plan\.toml: not TOML"):
        parse_plan(text, source="plan.toml")


def test_deep_nesting_is_a_plan_error_not_a_crash() -> None:
    with pytest.raises(PlanError):
        parse_plan("x = " + "[" * 100_000, source="plan.toml")


def test_an_empty_file_names_the_first_missing_field() -> None:
    with pytest.raises(PlanError, match=r"plan\.toml: version: Field required"):
        parse_plan("", source="plan.toml")


# Round trip and digest.


def test_a_plan_survives_toml() -> None:
    again = parse_plan(PLAN.to_toml(), source="plan.toml")
    assert again == PLAN
    assert again.digest == PLAN.digest
    assert again.to_toml() == PLAN.to_toml()


def test_text_with_every_kind_of_character_survives_toml() -> None:
    templates = [
        "{}",
        'quote " backslash \\ tab \t {}',
        "line\nbreak {}",
        "Ω ünïcode 🙂 {}",
        "'''{}",
    ]
    plan = parse(changed("editing.context_templates", templates))
    assert list(parse_plan(plan.to_toml(), source="p").editing.context_templates) == templates


def test_the_digest_of_a_plan_is_pinned() -> None:
    # Changes only with the schema or the canonical form: a new protocol version.
    assert PLAN.digest.hex() == PINNED_DIGEST


PINNED_DIGEST = "189114d21946725440b42b0e0da5035240f3d0e26c392c56de06f90318d2c3b1"


def test_privacy_is_in_the_digest_only_where_it_is() -> None:
    private = parse(changed("privacy", PRIVACY))
    assert private.digest != PLAN.digest
    assert parse_plan(private.to_toml(), source="p") == private
    assert parse(changed("privacy", {**PRIVACY, "honest": 1})).digest != private.digest


def test_what_has_no_noise_does_not_go_with_privacy() -> None:
    values = changed("privacy", PRIVACY)
    bounds = {"votes": 3, "efficacy": 0.5, "neighbourhood_drop": 0.1, "perplexity_ratio": 1.1}
    tables = {"policy": "keep", "false_positive": 0.1, "rows": 20, "width": 100}
    for section, content in (("acceptance", bounds), ("overlap", tables)):
        parse(changed(section, content))
        with pytest.raises(PlanError, match="privacy cannot go with overlap or acceptance"):
            parse({**values, section: content})
    values["aggregation"]["capacity"] = 100
    parse({**values, "memory": {"weight": 1.0, "max_edits": 0}})
    with pytest.raises(PlanError, match=r"past edits: .* memory\.max_edits must be 0"):
        parse({**values, "memory": {"weight": 1.0, "max_edits": 1}})


def test_noise_finer_than_the_ring_is_refused() -> None:
    values = changed("privacy", {**PRIVACY, "noise_multiplier": 1e-4})
    values["aggregation"]["fractional_bits"] = 2
    with pytest.raises(PlanError, match="below 8 steps of the ring"):
        parse(values)


def test_a_memory_and_a_history_are_in_the_digest_only_where_they_are() -> None:
    values = changed("memory", {"weight": 1.0, "max_edits": 0})
    remembering = parse(values)
    values["model"]["previous"] = ["sha256:" + KEY]
    continuing = parse(values)
    assert len({plan.digest for plan in (PLAN, remembering, continuing)}) == 3
    for plan in (remembering, continuing):
        again = parse_plan(plan.to_toml(), source="p")
        assert again == plan
        assert again.digest == plan.digest
    del values["memory"], values["model"]["previous"]
    assert parse(values).digest == PLAN.digest


OWN: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "ridge": ({"ridge": 1.0}, {"shift": -0.5}),
    "alphaedit": (
        {"ridge": 1.0, "covariance": "sha256:" + KEY, "nullspace_threshold": 0.02, "l2": 10.0},
        {"kept": 30},
    ),
    "emmet": ({"ridge": 0.0, "covariance": "sha256:" + KEY, "covariance_weight": 2.0}, {}),
}


def of_editor(editor: str) -> dict[str, Any]:
    values = changed("editing.editor", editor)
    for name in ("ridge", "covariance", "covariance_weight"):
        del values["editing"][name]
    editing, layer = OWN[editor]
    values["editing"] |= editing
    for entry in values["editing"]["layers"]:
        entry.update(layer)
    return values


@pytest.mark.parametrize("editor", OWN)
def test_a_plan_of_another_editor_survives_toml_with_its_own_digest(editor: str) -> None:
    plan = parse(of_editor(editor))
    assert plan.editing.editor == editor
    assert parse_plan(plan.to_toml(), source="p") == plan
    assert plan.digest != PLAN.digest


@pytest.mark.parametrize(
    ("editor", "name"), [(editor, name) for editor, (own, _) in OWN.items() for name in own]
)
def test_an_editor_s_parameters_are_there_and_in_the_digest(editor: str, name: str) -> None:
    values = of_editor(editor)
    given = values["editing"].pop(name)
    with pytest.raises(PlanError, match=name):
        parse(values)
    if name == "ridge":
        values["editing"][name] = 1.0 - given
        with pytest.raises(PlanError, match=f"with editor {editor}: must be"):
            parse(values)
        return
    values["editing"][name] = given[:-1] + "0" if isinstance(given, str) else given / 2
    assert parse(values).digest != parse(of_editor(editor)).digest


@pytest.mark.parametrize(("editor", "name"), [("ridge", "shift"), ("alphaedit", "kept")])
def test_a_layer_s_own_parameter_is_there_and_in_the_digest(editor: str, name: str) -> None:
    values = of_editor(editor)
    given = values["editing"]["layers"][1].pop(name)
    with pytest.raises(PlanError, match=f"editor {editor} needs {name} in layer 1"):
        parse(values)
    values["editing"]["layers"][1][name] = given + 1
    assert parse(values).digest != parse(of_editor(editor)).digest


def leaves(values: Any, path: str = "") -> Iterator[str]:  # noqa: ANN401  TOML
    if isinstance(values, dict):
        for key, value in values.items():
            yield from leaves(value, f"{path}.{key}" if path else key)
    elif isinstance(values, list):
        for index, value in enumerate(values):
            yield from leaves(value, f"{path}.{index}")
    else:
        yield path


# One value only, or bound to another field: these have tests of their own.
FIXED = {
    "version",
    "editing.editor",
    "aggregation.backend",
    "aggregation.ring_bits",
    "editing.context_templates.0",
    "editing.layers.0.index",
}
OTHER: dict[str, object] = {
    "federation.threshold": 4,
    "editing.schedule": "parallel",
    "aggregation.statistics": "dense",
    "aggregation.tile_bytes": 128,
    "model.dtype": "float32",
}


@pytest.mark.parametrize("path", [path for path in leaves(VALUES) if path not in FIXED])
def test_the_digest_changes_with_every_field(path: str) -> None:
    at: Any = VALUES
    for part in path.split("."):
        at = at[int(part)] if part.isdigit() else at[part]
    if path in OTHER:
        other = OTHER[path]
    elif isinstance(at, str):
        other = at[:-1] + ("9" if at[-1] != "9" else "8")
    else:
        other = at - 1 if path.endswith("max_edits") else at + 1
    assert parse(changed(path, other)).digest != PLAN.digest


def test_a_smaller_ring_and_another_template_change_the_digest() -> None:
    values = changed("aggregation.ring_bits", 32)
    values["aggregation"] |= {"fractional_bits": 10, "magnitude_bound": 100.0}
    assert parse(values).digest != PLAN.digest
    templates = ["{}", "In short: {}"]
    assert parse(changed("editing.context_templates", templates)).digest != PLAN.digest
    layers = VALUES["editing"]["layers"][1:]
    assert parse(changed("editing.layers", layers)).digest != PLAN.digest


def test_the_order_of_parties_matters() -> None:
    values = changed("name", "test")
    values["federation"]["parties"].reverse()
    assert parse(values).digest != PLAN.digest


def test_how_a_number_is_written_does_not_matter() -> None:
    text = PLAN.to_toml().replace("magnitude_bound = 10000.0", "magnitude_bound = 10000")
    assert text != PLAN.to_toml()
    assert parse_plan(text, source="p").digest == PLAN.digest


# Every valid plan can be carried out.


@settings(max_examples=200, deadline=None)
@given(
    bits=st.sampled_from([32, 64]),
    fractional=st.integers(1, 62),
    bound=st.one_of(
        st.floats(min_value=1e-9, max_value=1e18),
        # Near the edge: N * B * 2^f close to half of the ring.
        st.floats(min_value=0.999999, max_value=1.000001),
    ),
    edge=st.booleans(),
)
def test_a_plan_that_is_accepted_has_an_encoding(
    bits: int, fractional: int, bound: float, edge: bool
) -> None:
    if edge:
        bound = bound * 2.0 ** (bits - 1 - fractional) / 4
    values = changed("name", "test")
    values["aggregation"] |= {
        "ring_bits": bits,
        "fractional_bits": fractional,
        "magnitude_bound": bound,
    }
    try:
        plan = parse(values)
    except PlanError:
        return
    try:
        encoding = plan_encoding(plan)
    except (CollabEditError, ValueError) as error:
        raise AssertionError("a valid plan cannot be carried out") from error
    assert encoding.magnitude_bound == bound


def test_the_bound_is_exact_where_floats_are_not() -> None:
    # Three parties, 32 bits, one fractional bit: 3 * ceil(2B + 1/2) must stay below 2^31.
    largest = (2**31 - 2) // 3
    for units, valid in ((largest - 0.5, True), (largest, False)):
        values = tomllib.loads(build_federation(3).plan.to_toml())
        values["aggregation"] |= {
            "ring_bits": 32,
            "fractional_bits": 1,
            "magnitude_bound": units / 2,
        }
        if valid:
            plan_encoding(parse(values))
        else:
            with pytest.raises(PlanError, match="overflow"):
                parse(values)


# Files.


def test_a_plan_file_loads(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN.to_toml(), encoding="utf-8")
    assert load_plan(path) == PLAN


def test_a_missing_plan_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"no\.toml: cannot read the plan: No such file"):
        load_plan(tmp_path / "no.toml")


def test_a_directory_is_no_plan(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="cannot read the plan"):
        load_plan(tmp_path)


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_bytes(b"name = '\xff'")
    with pytest.raises(PlanError, match=r"plan\.toml: not UTF-8 text"):
        load_plan(path)


def test_an_oversized_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_bytes(b"#" * (MAXIMUM_PLAN_BYTES + 1))
    with pytest.raises(PlanError, match="larger than 1048576 bytes"):
        load_plan(path)


# What it answers.


def test_names_and_ids_go_both_ways() -> None:
    assert PLAN.party_ids == (1, 2, 3, 4)
    for party in PLAN.party_ids:
        assert PLAN.party_id(PLAN.party_name(party)) == party
    assert PLAN.party_name(AGGREGATOR) == "aggregator"
    assert PLAN.party_name(PartyId(9)) == "#9"
    with pytest.raises(PlanError, match="no party called 'nobody'"):
        PLAN.party_id("nobody")
    assert PLAN.identity(AGGREGATOR).hex() == PLAN.federation.aggregator.identity
    assert PLAN.identity(PartyId(2)).hex() == PLAN.federation.parties[1].identity


def test_tasks_and_lengths_follow_schedule_and_statistics() -> None:
    parallel = parse(changed("editing.schedule", "parallel"))
    assert [len(task) for task in PLAN.tasks] == [1, 1]
    assert [len(task) for task in parallel.tasks] == [2]
    layer = PLAN.editing.layers[0]
    assert PLAN.layer_length(layer) == (48 + 20) * 20
    assert parallel.task_length(0) == 2 * PLAN.task_length(0)  # type: ignore[arg-type]
    dense = parse(changed("aggregation.statistics", "dense"))
    assert dense.layer_length(layer) == 48 * 49 // 2 + 20 * 48
    assert (PLAN.rank_limit, dense.rank_limit) == (20, 48)


def test_a_plan_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        PLAN.name = "other"


def test_digests_are_shown_with_their_algorithm() -> None:
    assert format_digest(b"\xab" * 32) == "sha256:" + "ab" * 32


# The graph.


def test_corruptions_are_in_the_digest_and_in_the_text() -> None:
    one, none = parse(changed("federation.corruptions", 1)), parse(changed("name", "test"))
    assert one.federation.corruptions == 1
    assert parse_plan(one.to_toml(), source="p") == one
    assert one.digest != parse(changed("federation.corruptions", 0)).digest != none.digest
    # Whoever does not state them has the digest that plans had without the field.
    assert none.federation.corruptions is None
    assert "corruptions" not in none.to_toml()
    assert none.digest == PLAN.digest


@pytest.mark.parametrize("parties", [33, 64, 500])
def test_a_proposed_bound_on_collusion_is_one_that_a_plan_accepts(parties: int) -> None:
    threshold = minimum_threshold(parties)
    assert 0 < proposed_corruptions(parties) <= maximum_corruptions(parties, threshold)
    assert maximum_corruptions(10, 7) == 3
