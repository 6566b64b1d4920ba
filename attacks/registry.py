"""Which attacks there are: each an `Entry`, named by an entry point of `collabedit.attacks`.

The package's own attacks are found in the same way as those of others, so an attack from another
package stands in every list and matrix once it is installed (docs/attacks.md).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeAlias

from collabedit.attacks.claims import Claimant
from collabedit.errors import InputError
from collabedit.threat_model import Adversary

GROUP = "collabedit.attacks"
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")

Need: TypeAlias = Literal["keys", "subjects", "prompts", "objects", "model", "maps"]
"""What of `attack.Prior` an attack cannot do without."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An attack as reports and configurations know it.

    Attributes:
        name: lower case, digits and hyphens; unique among all that are installed.
        asks: the adversary's question, as a person would put it.
        adversary: whose attack it is.
        view: the type of what the attack is handed (`attacks.views` and its neighbours).
        make: makes the attack: a dataclass whose fields are its settings, all with defaults.
        source: the paper or code that it comes from.
        departs: what is different here from there, and why.
        headline: the metric that a verdict about this attack looks at (`scoring`).
        needs: of the prior.
        first_layer_only: whether it looks at the first edited layer alone, so that sessions of one
            layer serve.
        package: that it is from; filled in when it is found.
    """

    name: str
    asks: str
    adversary: Adversary
    view: type
    make: Callable[..., Claimant[Any]]
    source: str
    departs: str
    headline: str
    needs: tuple[Need, ...] = ("keys",)
    first_layer_only: bool = True
    package: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no name of an attack: a-z, 0-9 and hyphens")

    def create(self, settings: Mapping[str, object], *, seed: int) -> Claimant[Any]:
        """Make the attack.

        Args:
            settings: by field of `make`.
            seed: for attacks that have a field `seed`; settings go before it.

        Raises:
            InputError: an unknown setting, or one of a wrong kind.
        """
        made: object = self.make
        known = {each.name for each in fields(made)} if is_dataclass(made) else set[str]()
        unknown = sorted(set(settings) - known)
        if unknown:
            raise InputError(
                f"attack {self.name} has no setting {unknown[0]}; "
                f"there are {', '.join(sorted(known)) or 'none'}"
            )
        given = {"seed": seed, **settings} if "seed" in known else dict(settings)
        try:
            return self.make(**given)
        except (TypeError, ValueError) as error:
            raise InputError(f"attack {self.name}: {error}") from error


def discover() -> tuple[dict[str, Entry], dict[str, str]]:
    """Find every attack that is installed.

    Returns:
        Entries by name, in order of names; and by name of its entry point what is wrong with one
        that cannot be loaded, is no `Entry`, or has a name that another has. It says which package
        is at fault.
    """
    found: dict[str, Entry] = {}
    faults: dict[str, str] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda each: (each.name, each.value)):
        try:
            entry = _load(point)
        except InputError as error:
            faults[point.name] = str(error)
            continue
        other = found.setdefault(entry.name, entry)
        if other.package != entry.package:
            faults[entry.name] = (
                f"packages {other.package} and {entry.package} both have an attack {entry.name}: "
                "uninstall one of them"
            )
    return {name: found[name] for name in sorted(found.keys() - faults.keys())}, faults


def installed() -> dict[str, Entry]:
    """Return every attack that is installed, by name.

    Raises:
        InputError: one of them is at fault, see `discover`.
    """
    found, faults = discover()
    for fault in faults.values():
        raise InputError(fault)
    return found


def find(name: str) -> Entry:
    """Return one attack, whatever is wrong with others.

    Raises:
        InputError: it is not installed here, or at fault.
    """
    found, faults = discover()
    if name not in found:
        raise InputError(faults.get(name, f"attack {name} is not installed here"))
    return found[name]


def _load(point: EntryPoint) -> Entry:
    package = point.dist.name if point.dist is not None else "?"
    try:
        entry = point.load()
    except Exception as error:
        raise InputError(
            f"package {package}: its attack {point.name} cannot be loaded: {error}"
        ) from error
    if not isinstance(entry, Entry) or entry.name != point.name:
        raise InputError(
            f"package {package}: {point.value} is no `collabedit.attacks.registry.Entry` with the "
            f"name {point.name} of its entry point"
        )
    return replace(entry, package=package)
