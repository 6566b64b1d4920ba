"""Options from a file and from the environment: what wins, and what is refused."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import typer

from collabedit import cli
from collabedit.cli.configuration import options_of
from collabedit.errors import InputError

ROOT = Path(__file__).parents[3]
SERVE, JOIN = ("aggregator", "serve"), ("party", "join")
FILES = ("plan", "identity", "tls-cert", "tls-key", "tls-ca")
SECRET = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2Vw\n-----END PRIVATE KEY-----\n"


def command(names: Iterable[str]) -> Any:  # noqa: ANN401  typer's own kind of command
    found: Any = typer.main.get_command(cli.app)
    for name in names:
        found = found.commands[name]
    return found


def parse(names: tuple[str, ...], *arguments: object) -> dict[str, Any]:
    """Values that the command would be called with."""
    context = command(names).make_context(names[-1], [str(each) for each in arguments])
    values: dict[str, Any] = context.params
    return values


def write(path: Path, **values: object) -> Path:
    path.write_text(tomli_w.dumps({name.replace("_", "-"): v for name, v in values.items()}))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    files = {name.replace("-", "_"): f"/from/file/{name}" for name in FILES}
    return write(
        tmp_path / "serve.toml", **files, state="/from/file/state", linger=3, listen="[::1]:1"
    )


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for prefix in ("COLLABEDIT_AGGREGATOR", "COLLABEDIT_PARTY"):
        for name in ("LINGER", "LISTEN", "STATE", "PLAN", "CONFIG", "WEB_NAME", "ABANDON"):
            monkeypatch.delenv(f"{prefix}_{name}", raising=False)


def test_a_file_gives_what_the_command_asks_for(file: Path) -> None:
    values = parse(SERVE, "--config", file)
    assert values["plan_file"] == Path("/from/file/plan")
    assert values["tls_key"] == Path("/from/file/tls-key")
    assert values["linger"] == 3.0
    assert values["metrics"] is None  # the default


def test_flag_wins_over_environment_over_file_over_default(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert parse(SERVE, "--config", file)["linger"] == 3
    monkeypatch.setenv("COLLABEDIT_AGGREGATOR_LINGER", "4")
    assert parse(SERVE, "--config", file)["linger"] == 4
    assert parse(SERVE, "--config", file, "--linger", 5)["linger"] == 5
    file.write_text(file.read_text().replace("linger = 3\n", ""))
    assert parse(SERVE, "--config", file)["linger"] == 4
    monkeypatch.delenv("COLLABEDIT_AGGREGATOR_LINGER")
    assert parse(SERVE, "--config", file)["linger"] == 15


def test_the_file_itself_can_be_named_by_the_environment(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLLABEDIT_AGGREGATOR_CONFIG", str(file))
    assert parse(SERVE)["listen"] == "[::1]:1"


def test_variables_are_the_names_of_options(monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(("PLAN", "IDENTITY", "TLS_CERT", "TLS_KEY", "TLS_CA", "STATE")):
        monkeypatch.setenv(f"COLLABEDIT_AGGREGATOR_{name}", f"/e/{number}")
    monkeypatch.setenv("COLLABEDIT_AGGREGATOR_ABANDON", "1")
    monkeypatch.setenv("COLLABEDIT_AGGREGATOR_WEB_NAME", "one.example two.example")
    values = parse(SERVE)
    assert values["plan_file"] == Path("/e/0")
    assert values["state"] == Path("/e/5")
    assert values["abandon"] is True
    assert values["web_name"] == ["one.example", "two.example"]


def test_both_commands_have_prefixes_of_their_own() -> None:
    for names, prefix in ((SERVE, "COLLABEDIT_AGGREGATOR_"), (JOIN, "COLLABEDIT_PARTY_")):
        for name, option in options_of(command(names)).items():
            assert option.envvar == prefix + name.upper().replace("-", "_")


def test_flags_and_lists_come_from_a_file(tmp_path: Path) -> None:
    needed = {name.replace("-", "_"): "x" for name in (*FILES, "state")}
    path = write(tmp_path / "c.toml", **needed, abandon=True, web_name=["a.example"])
    values = parse(SERVE, "--config", path)
    assert (values["abandon"], values["web_name"]) == (True, ["a.example"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('tls-crt = "x"', "unknown key 'tls-crt'; the nearest one is 'tls-cert'"),
        ('tls_cert = "x"', "unknown key 'tls_cert'; the nearest one is 'tls-cert'"),
        ('plan_file = "x"', "unknown key 'plan_file'"),
        ('config = "x"', "unknown key 'config'"),
        ("help = true", "unknown key 'help'"),
        ('[serve]\nplan = "x"', "unknown key 'serve'"),
        ('abandon = "yes"', "abandon: must be true or false"),
        ("linger = true", "linger: must be a string or a number"),
        ("listen = [1]", "listen: must be a string or a number"),
        ("plan = 2020-01-01", "plan: must be a string or a number"),
        ('web-name = "a"', "web-name: must be a list of strings"),
        ("plan = ", "is not TOML: look at end of document"),
        ("plan == 1", "is not TOML: look at line 1, column 7"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(said)):
        parse(SERVE, "--config", path)


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        parse(SERVE, "--config", tmp_path / "nowhere.toml")
    (tmp_path / "c.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        parse(SERVE, "--config", tmp_path / "c.toml")


@pytest.mark.parametrize("key", ["identity", "tls-key", "listen"])
def test_a_key_in_place_of_its_file_is_refused_and_not_shown(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "c.toml", **{key.replace("-", "_"): SECRET})
    with pytest.raises(InputError) as caught:
        parse(SERVE, "--config", path)
    assert (
        str(caught.value)
        == f"{path}: {key}: must be a plain value or the name of a file, not its content"
    )
    variable = f"COLLABEDIT_AGGREGATOR_{key.upper().replace('-', '_')}"
    monkeypatch.setenv(variable, SECRET)
    with pytest.raises(InputError) as caught:
        parse(SERVE)
    assert str(caught.value).startswith(f"{variable}: ")
    assert "MC4CAQ" not in str(caught.value)


def test_broken_toml_is_not_quoted(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f'identity = "{SECRET}"')
    with pytest.raises(InputError) as caught:
        parse(SERVE, "--config", path)
    assert "KEY" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_party_reads_its_own_file(tmp_path: Path) -> None:
    needed = {name.replace("-", "_"): "x" for name in (*FILES, "model", "edits", "work", "name")}
    path = write(tmp_path / "c.toml", **needed, connect="a:1", previous=["one", "two"], threads=2)
    values = parse(JOIN, "--config", path)
    assert values["previous"] == [Path("one"), Path("two")]
    assert (values["threads"], values["connect"]) == (2, "a:1")
