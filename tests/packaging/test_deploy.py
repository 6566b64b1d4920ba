"""The files under deploy/: every command line is one of ours, nothing may do more than it needs.

No container is started here; hadolint and systemd-analyze look at the files where they are there.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from collabedit import cli
from collabedit.cli.configuration import options_of, read_configuration

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILES = sorted((DEPLOY / "containers").glob("*.Dockerfile"))
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
HADOLINT = os.environ.get("HADOLINT") or shutil.which("hadolint")
ANALYZE = shutil.which("systemd-analyze")
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
MANIFESTS = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "aggregator.yaml").read_text()))


def instructions(path: Path) -> list[tuple[str, str]]:
    """Instructions of a Dockerfile, with their continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    joined = re.sub(r"\\\n\s*", " ", text)
    lines = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [(name, rest.strip()) for name, rest in lines]


def last_stage(path: Path) -> list[tuple[str, str]]:
    found = instructions(path)
    starts = [index for index, (name, _) in enumerate(found) if name == "FROM"]
    return found[starts[-1] :]


def variables(path: Path) -> dict[str, str]:
    pairs = " ".join(rest for name, rest in last_stage(path) if name == "ENV")
    return dict(pair.split("=", 1) for pair in shlex.split(pairs))


def unit(path: Path) -> list[tuple[str, str]]:
    lines = [line for line in path.read_text().splitlines() if "=" in line and line[0] != "#"]
    return [(line.split("=", 1)[0], line.split("=", 1)[1]) for line in lines]


def manifest(kind: str) -> dict[str, Any]:
    (found,) = [each for each in MANIFESTS if each["kind"] == kind]
    assert isinstance(found, dict)
    return found


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = manifest("StatefulSet")["spec"]["template"]["spec"]
    return spec


def image_environment(service: str) -> dict[str, str]:
    return variables(DEPLOY / "containers" / f"{service}.Dockerfile")


def command_lines() -> Iterator[tuple[str, list[str], Mapping[str, str]]]:
    """Where it stands, what follows `collabedit`, and the environment that it has there."""
    for path in DOCKERFILES:
        own = variables(path)
        for name, rest in last_stage(path):
            if name == "CMD":
                # Who it is, and where the aggregator is, no image can know.
                given = {"COLLABEDIT_PARTY_NAME": "alder", "COLLABEDIT_PARTY_CONNECT": "hub:7443"}
                party = path.name == "party.Dockerfile"
                yield path.name, json.loads(rest), {**own, **(given if party else {})}
            elif name == "HEALTHCHECK" and '"collabedit"' in rest:
                yield f"{path.name} health", json.loads(rest[rest.index("[") :])[1:], own
    for path in UNITS:
        for name, value in unit(path):
            if name.startswith("ExecStart"):
                words = shlex.split(value.replace("%i", "alder"))
                kind = "party" if "party" in path.name else "aggregator"
                words = [
                    str(DEPLOY / "systemd" / f"{kind}.toml") if word.endswith(".toml") else word
                    for word in words
                ]
                assert words[0] == "/opt/collabedit/bin/collabedit"
                yield path.name, words[1:], {}
    for name, service in COMPOSE["services"].items():
        own = {**image_environment(name), **service.get("environment", {})}
        yield f"compose {name}", service["command"], own
    own = image_environment("aggregator")
    (container,) = pod()["containers"]
    yield "kubernetes", container["args"], own
    for probe in ("startupProbe", "readinessProbe"):
        words = container[probe]["exec"]["command"]
        assert words[0] == "collabedit"
        yield f"kubernetes {probe}", words[1:], own


LINES = list(command_lines())


@pytest.mark.parametrize(
    ("arguments", "own"), [line[1:] for line in LINES], ids=[x[0] for x in LINES]
)
def test_every_command_line_is_one_of_ours(
    arguments: list[str], own: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("COLLABEDIT_")]:
        monkeypatch.delenv(name)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    command: Any = typer.main.get_command(cli.app)
    rest = list(arguments)
    while hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    # Every option is known, has a value of its kind, and none that is needed is missing.
    context = command.make_context(command.name, rest)
    known = {option.envvar for option in options_of(command).values()}
    if command.name != "health":  # which reads a few of those that `serve` reads
        assert {name for name in own if name.startswith("COLLABEDIT_")} <= known
    if "grace" in context.params:
        assert context.params["grace"] == (20.0 if "--grace" in arguments else 10.0)
        assert context.params["abandon"] is False


def test_there_are_command_lines_of_every_file() -> None:
    assert len(LINES) == 3 + 2 + 2 + 3


@pytest.mark.parametrize("kind", ["aggregator", "party"])
def test_the_example_files_have_known_keys(kind: str) -> None:
    command: Any = typer.main.get_command(cli.app)
    path = ("aggregator", "serve") if kind == "aggregator" else ("party", "join")
    for name in path:
        command = command.commands[name]
    values = read_configuration(DEPLOY / "systemd" / f"{kind}.toml", options_of(command))
    assert len(values) > 6


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_is_small_pinned_and_not_roots(path: Path) -> None:
    every, last = instructions(path), last_stage(path)
    assert [name for name, _ in every].count("FROM") == 2
    for name, rest in every:
        if name == "FROM":
            assert re.match(r"python:3\.11\.\d+-slim-\w+( AS build)?$", rest)
        assert name != "ADD"
        if name == "RUN" and "pip install" in rest:
            assert "--no-cache-dir" in rest
            assert "--constraint constraints.txt" in rest or re.search(r"torch==[\d.]+$", rest)
    names = [name for name, _ in last]
    assert [rest for name, rest in last if name == "USER"] == ["10001:10001"]
    # Nothing is written as root behind that.
    assert "RUN" not in names[names.index("USER") :]
    assert {"HEALTHCHECK", "STOPSIGNAL", "ENTRYPOINT", "CMD"} <= set(names)
    assert ("torch" in path.read_text().split("FROM", 1)[1]) == (path.name == "party.Dockerfile")
    if path.name == "party.Dockerfile":
        pinned = re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
        assert pinned is not None
        assert f"torch=={pinned[1]}" in path.read_text()
    # Everything that the build copies is let through, and the folders behind the links are there.
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [rest.split()[:-1] for name, rest in every if name == "COPY" and "--from" not in rest]
    sources = {source for each in copied for source in each}
    assert {f"!{source}" for source in sources} <= set(ignored)
    links = {each.name for each in (ROOT / "src" / "collabedit").iterdir() if each.is_symlink()}
    assert links <= sources
    assert all((ROOT / source).exists() for source in sources)


@pytest.mark.skipif(HADOLINT is None, reason="no hadolint on the path nor in HADOLINT")
@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_finds_nothing(path: Path) -> None:
    assert HADOLINT is not None
    done = subprocess.run([HADOLINT, path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_may_do_little_and_has_time_to_stop(path: Path) -> None:
    settings = dict(unit(path))
    for name, value in {
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateTmp": "yes",
        "CapabilityBoundingSet": "",
        "User": "collabedit",
        "UMask": "0077",
        "KillSignal": "SIGTERM",
    }.items():
        assert settings.get(name, "SIGTERM" if name == "KillSignal" else None) == value, name
    grace = re.search(r"--grace (\d+)", settings["ExecStart"])
    if grace is not None:
        assert int(settings["TimeoutStopSec"]) >= 2 * int(grace[1])


@pytest.mark.skipif(ANALYZE is None, reason="no systemd-analyze on the path")
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_understands_a_unit_and_rates_it_well(path: Path, tmp_path: Path) -> None:
    assert ANALYZE is not None
    # Where our program would be installed, is none: another one stands for it.
    copy = tmp_path / path.name.replace("@", "@alder")
    text = path.read_text().replace("/opt/collabedit/bin/collabedit", "/bin/true")
    copy.write_text(text)
    environment = {**os.environ, "SYSTEMD_LOG_LEVEL": "warning"}
    done = subprocess.run(
        [ANALYZE, "verify", "--man=no", copy],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    told = [line for line in done.stderr.splitlines() if path.name.split("@")[0] in line]
    assert not told, done.stderr
    rated = subprocess.run(
        [ANALYZE, "security", "--offline=true", "--no-pager", "--threshold=30", copy],
        capture_output=True,
        text=True,
        check=False,
    )
    assert rated.returncode == 0, rated.stdout[-3000:] + rated.stderr


def test_compose_confines_both() -> None:
    for name, service in COMPOSE["services"].items():
        assert (ROOT / "deploy" / service["build"]["context"]).resolve() == ROOT
        assert (ROOT / service["build"]["dockerfile"]).is_file()
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["user"] == "10001:10001"
        for volume in service["volumes"]:
            source, target, *mode = volume.split(":")
            assert mode == ["ro"] or source in COMPOSE["volumes"], volume
            assert target.startswith("/")


def test_kubernetes_confines_the_aggregator() -> None:
    assert [each["kind"] for each in MANIFESTS] == ["Service", "StatefulSet", "NetworkPolicy"]
    spec, labels = pod(), manifest("Service")["spec"]["selector"]
    template = manifest("StatefulSet")["spec"]["template"]
    assert template["metadata"]["labels"] == labels
    assert manifest("StatefulSet")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
    assert manifest("StatefulSet")["spec"]["replicas"] == 1
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    for container in (*spec["initContainers"], *spec["containers"]):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]
        assert not container["image"].endswith(":latest")
    (container,) = spec["containers"]
    grace = container["args"][container["args"].index("--grace") + 1]
    assert spec["terminationGracePeriodSeconds"] >= 2 * int(grace)
    claims = [
        each["metadata"]["name"] for each in manifest("StatefulSet")["spec"]["volumeClaimTemplates"]
    ]
    volumes = {each["name"] for each in spec["volumes"]} | set(claims)
    for each in (*spec["initContainers"], *spec["containers"]):
        assert {mount["name"] for mount in each["volumeMounts"]} <= volumes
    # The journal outlives the pod.
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    state = image_environment("aggregator")["COLLABEDIT_AGGREGATOR_STATE"]
    assert state.startswith(mounts[claims[0]])
    assert manifest("NetworkPolicy")["spec"]["egress"] == []
    ports = {port["containerPort"] for port in container["ports"]}
    policy = manifest("NetworkPolicy")["spec"]["ingress"]
    assert {port["port"] for rule in policy for port in rule["ports"]} == ports
