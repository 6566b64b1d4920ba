"""Reads what is not run with the parsers of the programs themselves.

`recorded` lets bash read a block with no program on its path but a few of coreutils: bash resolves
variables, loops and quotes, and hands every command that it does not find to a function that writes
down its arguments. `check` then asks the program's own parser: click for `collabedit`, `make -n`,
argparse of a script by its `--help`.
"""

import ast
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from typer.main import get_command

from collabedit.cli import app
from tests.documentation.blocks import ROOT

PLACEHOLDER: Final = "..."
"""Stands for arguments that the text leaves out."""

COREUTILS: Final = ("cat", "cp", "ls", "mkdir", "mv", "rm", "sort", "uniq")
_PROGRAMS = r"collabedit|make|pip|pytest|python|torchrun"
_CALL = re.compile(
    rf"(?:^|[;&|(]|\bdo\b|\bthen\b)[ \t]*(?:[A-Z_]+=\S*[ \t]+)*(?:{_PROGRAMS})[ \t]", re.MULTILINE
)

_PROLOGUE = """
command_not_found_handle() { printf '%s\\0' "$@" '' >> "$CALLS"; }
function . { :; }
"""
# An empty argument ends a call: no command of the documents has one.


def _program(name: str) -> str:
    found = shutil.which(name)
    assert found is not None, f"{name} is not installed"
    return found


def recorded(text: str, folder: Path) -> list[list[str]]:
    """Return the commands that a shell block calls, each with its arguments.

    Raises:
        AssertionError: bash cannot read it, or called fewer commands than stand there.
    """
    programs, calls = folder / "bin", folder / "calls"
    programs.mkdir(parents=True)
    (folder / "here").mkdir()
    calls.touch()
    for name in COREUTILS:
        (programs / name).symlink_to(_program(name))
    bash = _program("bash")
    script = f"{_PROLOGUE}\n{text}"
    for flags in (["-n"], []):
        done = subprocess.run(
            [bash, *flags, "-c", script],
            cwd=folder / "here",
            env={"PATH": str(programs), "CALLS": str(calls), "MODEL": "model", "NAME": "alder"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert "syntax error" not in done.stderr, done.stderr
    fields = calls.read_text(encoding="utf-8").split("\0")
    commands: list[list[str]] = [[]]
    for field in fields[:-1]:
        if field:
            commands[-1].append(field)
        else:
            commands.append([])
    commands.pop()
    joined = text.replace("\\\n", " ")
    written = len(_CALL.findall(joined))
    assert len(commands) >= written, f"{written} calls stand there, bash made {commands}"
    return commands


@cache
def root_command() -> Any:  # noqa: ANN401  typer's own click has no public types
    return get_command(app)


def _follow(words: Sequence[str]) -> tuple[Any, list[str], list[str]]:
    """Go down the groups: the command, its name in words, and the arguments that are left."""
    command, path = root_command(), ["collabedit"]
    rest = list(words)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"`{' '.join(path)}` has no command {rest[0]!r}"
        command = command.commands[rest[0]]
        path.append(rest.pop(0))
    return command, path, rest


def _collabedit(words: Sequence[str]) -> None:
    command, path, rest = _follow(words)
    if PLACEHOLDER in rest:
        rest = [word for word in rest if word != PLACEHOLDER]
        for parameter in command.params:
            if parameter.required and not set(parameter.opts) & set(rest):
                option = parameter.opts[0]
                rest += [option, "1"] if option.startswith("-") else ["1"]
    try:
        # Options are taken out, converted and checked as in a real call; nothing is run.
        command.make_context(" ".join(path), rest)
    except Exception as error:
        said = error.format_message() if hasattr(error, "format_message") else repr(error)
        raise AssertionError(f"{' '.join([*path, *rest])}: {said}") from error


def _make(words: Sequence[str]) -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, is_variable, _ = word.partition("=")
        if is_variable:
            assert re.search(rf"\$[({{](firstword \$\()?{name}\b", text), f"make takes no {name}="
    done = subprocess.run(
        [_program("make"), "--dry-run", "--no-print-directory", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def _script_takes(source: Path, command: Sequence[str], flags: Sequence[str]) -> None:
    if not flags:
        return
    # A script without a parser would not print help: it would run.
    assert "ArgumentParser(" in source.read_text(encoding="utf-8"), f"{source} takes no options"
    done = subprocess.run(
        [*command, "--help"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for flag in flags:
        assert re.search(rf"{re.escape(flag)}\b", done.stdout), f"{command[-1]} has no {flag}"


def _flags(words: Sequence[str]) -> list[str]:
    return [word.partition("=")[0] for word in words if word.startswith("--")]


def _python(words: Sequence[str]) -> None:
    if words[0] == "-m":
        if words[1] == "collabedit":
            _collabedit(words[2:])
            return
        spec = importlib.util.find_spec(words[1])
        assert spec is not None, f"no module {words[1]}"
        assert spec.origin is not None
        command = [sys.executable, "-m", words[1]]
        _script_takes(Path(spec.origin), command, _flags(words[2:]))
    elif words[0] == "-c":
        compile(words[1], "-c", "exec")
    elif words[0] != "-":
        script = ROOT / words[0]
        assert script.is_file(), f"no file {words[0]}"
        _script_takes(script, [sys.executable, words[0]], _flags(words[1:]))


def _pytest(words: Sequence[str]) -> None:
    paths = [word.partition("::")[0] for word in words if not word.startswith("-")]
    assert paths
    for path in paths:
        assert (ROOT / path).exists(), f"no tests in {path}"


def _pip(words: Sequence[str]) -> None:
    assert words[0] == "install", words
    with (ROOT / "pyproject.toml").open("rb") as stream:
        extras = tomllib.load(stream)["project"]["optional-dependencies"]
    for word in words[1:]:
        if found := re.fullmatch(r"(?:collabedit|\.)\[([a-z,-]+)\]", word):
            assert set(found[1].split(",")) <= extras.keys(), f"no extra {found[1]}"
        elif word.startswith("./"):
            assert (ROOT / word / "pyproject.toml").is_file(), f"no package in {word}"


def _torchrun(words: Sequence[str]) -> None:
    from torch.distributed.run import get_args_parser

    arguments = get_args_parser().parse_args(list(words))
    assert arguments.module
    assert arguments.training_script == "collabedit"
    _collabedit(arguments.training_script_args)


def check_python(text: str) -> None:
    """Compile a block, and look up what it imports.

    Raises:
        AssertionError: a module or a name in it does not exist.
    """
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"


_CHECKS: Final[dict[str, Callable[[Sequence[str]], None]]] = {
    "collabedit": _collabedit,
    "make": _make,
    "pip": _pip,
    "pytest": _pytest,
    "python": _python,
    "torchrun": _torchrun,
}


def check(command: Sequence[str]) -> None:
    """Ask the parser of the program.

    Raises:
        AssertionError: it would refuse these arguments, or nobody here knows the program.
    """
    program, *words = command
    assert program in _CHECKS, f"no parser for {program}: run the block, or add one"
    _CHECKS[program](words)


def _leaves(command: Any) -> Iterator[Any]:  # noqa: ANN401  as above
    for one in getattr(command, "commands", {}).values():
        yield from _leaves(one)
    yield command


def check_inline(code: str) -> None:
    """Check a command in a sentence, which may leave out much of it.

    Commands that it names must exist, targets as well, and its flags must be those of one of the
    commands that it may mean.

    Raises:
        AssertionError: something that it names does not exist.
    """
    # Of several commands in one piece of code, the first.
    program, *words = re.split(r"\s*(?:&&|\|\||;)\s*", code)[0].split()
    if program == "make":
        targets = [word for word in words if re.fullmatch(r"[a-z][a-z-]*", word)]
        assert targets or any("." in word for word in words), f"{code}: no target"
        for target in targets:
            _make([target])
        return
    group = root_command()
    meant: list[Any] = []
    for position, word in enumerate(words):
        if word == "|":
            continue
        if not re.fullmatch(r"[a-z][a-z-]*", word) or (meant and words[position - 1] != "|"):
            break
        assert word in group.commands, f"{code}: no command {word}"
        found = group.commands[word]
        if hasattr(found, "commands"):
            group = found
        else:
            meant.append(found)
    known = {
        option
        for one in (meant or [group])
        for leaf in _leaves(one)
        for parameter in leaf.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    } | {"--help", "-h"}
    for flag in _flags(words):
        assert flag.rstrip(",;:.") in known, f"{code}: no option {flag}"
