"""Options of the two services from a TOML file and from the environment.

What is said more closely wins: a flag, then the environment, then the file, then the default. Keys
of the file are names of options without their dashes; a variable is the command's prefix and the
option's name in capitals. Options name files that hold secrets and never hold one: a value that
looks like a key is refused, and is shown nowhere.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeAlias

import typer
from typer.core import TyperCommand, TyperOption

from collabedit.errors import InputError

_NOT_IN_FILE = frozenset({"config", "help"})


def options_of(command: object) -> dict[str, TyperOption]:
    """Return a command's options by their long names, without dashes."""
    found: dict[str, TyperOption] = {}
    for parameter in getattr(command, "params", ()):
        if isinstance(parameter, TyperOption):
            for text in parameter.opts:
                if text.startswith("--"):
                    found[text.removeprefix("--")] = parameter
    return found


class _ConfigurableCommand(TyperCommand):
    """A command whose options can be given by variables of its prefix, too."""

    prefix: ClassVar[str]

    def __init__(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401  as typer calls it
        super().__init__(*arguments, **named)
        for name, option in options_of(self).items():
            option.envvar = f"{self.prefix}_{name.upper().replace('-', '_')}"
            option.show_envvar = False  # docs/operations.md says how they are formed

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401  typer's context
        """Refuse secrets in the environment, then go on as usual.

        Raises:
            InputError: names the variable.
        """
        for option in options_of(self).values():
            variable = str(option.envvar)
            _check_no_secret(variable, os.environ.get(variable, ""))
        return super().parse_args(ctx, args)


class AggregatorCommand(_ConfigurableCommand):
    """Reads `COLLABEDIT_AGGREGATOR_...`."""

    prefix = "COLLABEDIT_AGGREGATOR"


class PartyCommand(_ConfigurableCommand):
    """Reads `COLLABEDIT_PARTY_...`."""

    prefix = "COLLABEDIT_PARTY"


def _check_no_secret(name: str, value: object) -> None:
    if isinstance(value, str) and ("-----BEGIN" in value or "\n" in value.strip()):
        raise InputError(f"{name}: must be a plain value or the name of a file, not its content")


def read_configuration(path: Path, options: Mapping[str, TyperOption]) -> dict[str, object]:
    """Read a file of options.

    Args:
        path: of the file.
        options: what the command knows, by name.

    Returns:
        Values by the name of the command's parameter.

    Raises:
        InputError: the file cannot be read, or names the first key that is unknown or has a value
            of a wrong kind. No value is quoted.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        # The parser's words may quote what stands there.
        raise InputError(f"{path}: is not TOML: look {_place(error)}") from None
    known = {name: option for name, option in options.items() if name not in _NOT_IN_FILE}
    found: dict[str, object] = {}
    for key, value in values.items():
        option = known.get(key)
        if option is None:
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise InputError(f"{path}: unknown key {key!r}; the nearest one is {nearest!r}")
        _check_value(f"{path}: {key}", option, value)
        found[str(option.name)] = value
    return found


def _place(error: tomllib.TOMLDecodeError) -> str:
    found = re.search(r"\(at (line \d+, column \d+|end of document)\)$", str(error))
    return f"at {found[1]}" if found else "at its syntax"


def _check_value(name: str, option: TyperOption, value: object) -> None:
    if option.multiple:
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise InputError(f"{name}: must be a list of strings")
        for each in value:
            _check_no_secret(name, each)
        return
    if option.is_flag != isinstance(value, bool):
        kind = "true or false" if option.is_flag else "a string or a number"
        raise InputError(f"{name}: must be {kind}")
    if not isinstance(value, str | int | float):
        raise InputError(f"{name}: must be a string or a number")
    _check_no_secret(name, value)


def _take(context: typer.Context, path: Path | None) -> None:
    if path is not None and not context.resilient_parsing:
        context.default_map = read_configuration(path, options_of(context.command))


ConfigOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="TOML file of these options; flags and the environment win over it.",
        callback=_take,
        is_eager=True,
    ),
]
