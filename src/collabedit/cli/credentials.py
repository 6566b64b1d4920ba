"""Options that name key and certificate files, and what is checked of them before any call."""

import datetime as dt
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from collabedit.crypto.certificates import certificate_name, check_certificate_pair
from collabedit.crypto.signing import SigningKey, read_private, read_signing_key
from collabedit.errors import KeyFileError, PlanError
from collabedit.ids import PartyId
from collabedit.plan import Plan

PlanOption: TypeAlias = Annotated[Path, typer.Option("--plan", help="The plan that all agree on.")]
IdentityOption: TypeAlias = Annotated[
    Path, typer.Option("--identity", help="Private identity key (`collabedit keys new`).")
]
CertificateOption: TypeAlias = Annotated[
    Path, typer.Option("--tls-cert", help="Own TLS certificate.")
]
TlsKeyOption: TypeAlias = Annotated[Path, typer.Option("--tls-key", help="Its private key.")]
AuthorityOption: TypeAlias = Annotated[
    Path, typer.Option("--tls-ca", help="Certificate of the authority that issued all of them.")
]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM texts of the three files."""

    certificate: bytes
    key: bytes = field(repr=False)
    authority: bytes


def read_identity(path: Path, plan: Plan, party: PartyId) -> SigningKey:
    """Read the identity key that the plan pins for `party`, the aggregator's for 0.

    Raises:
        KeyFileError: missing, malformed, or accessible to others.
        PlanError: it is somebody else's.
    """
    key = read_signing_key(path)
    if key.verify_key.to_bytes() != plan.identity(party):
        raise PlanError(f"{path}: is not the key that the plan pins for {plan.party_name(party)}")
    return key


def read_tls(certificate: Path, key: Path, authority: Path, *, name: str) -> TlsFiles:
    """Read the TLS files of the party or aggregator called `name` in the plan.

    Raises:
        KeyFileError: a file is missing, or they do not belong together, or to somebody else.
    """
    texts = TlsFiles(_read(certificate), read_private(key), _read(authority))
    try:
        check_certificate_pair(
            texts.certificate, texts.key, texts.authority, dt.datetime.now(dt.UTC)
        )
    except KeyFileError as error:
        raise KeyFileError(f"{certificate} with {key} and {authority}: {error}") from error
    found = certificate_name(texts.certificate)
    if found != name:
        raise KeyFileError(f"{certificate}: is the certificate of {found!r}, not of {name!r}")
    return texts


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read: {error.strerror}") from error
