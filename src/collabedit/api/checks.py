"""What is checked of a party's part before anything is computed or sent."""

from pathlib import Path

from collabedit.errors import InputError
from collabedit.plan import BackendName, Plan


def check_count(plan: Plan, *, name: str, edits: int, source: Path | str) -> None:
    """Refuse more edits than the plan lets a party bring.

    Raises:
        InputError: names the file and both numbers.
    """
    allowed = plan.federation.parties[plan.party_id(name) - 1].max_edits
    if edits > allowed:
        raise InputError(
            f"{source}: {edits} edits, the plan allows {name} {allowed}: raise its max_edits and "
            "the capacity in a new plan"
        )


def check_ckks(backend: BackendName) -> None:
    """Refuse what this installation has no library for, before anything is computed or sent.

    Raises:
        InputError: the extra `ckks` is missing; says how to install it.
    """
    if backend == "ckks":
        from collabedit.crypto.ckks import seal

        del seal
