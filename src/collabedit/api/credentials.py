"""Key and certificate files, and what is checked of them before any call."""

import datetime as dt
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from collabedit.crypto.certificates import certificate_name, check_certificate_pair
from collabedit.crypto.signing import SigningKey, read_private, read_signing_key
from collabedit.errors import KeyFileError, PlanError
from collabedit.ids import AGGREGATOR, PartyId
from collabedit.plan import Plan


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM texts of the three files."""

    certificate: bytes
    key: bytes = field(repr=False)
    authority: bytes


@dataclass(frozen=True, slots=True)
class TlsPlaces:
    """Where an end's TLS files are, to be read again when they change.

    Attributes:
        certificate: own TLS certificate.
        key: its private key.
        authority: certificate of the authority.
        name: that the certificate must have.
    """

    certificate: Path
    key: Path
    authority: Path
    name: str

    @property
    def files(self) -> tuple[Path, Path, Path]:
        """All of them."""
        return self.certificate, self.key, self.authority

    def read(self) -> TlsFiles:
        """Read the files.

        Raises:
            KeyFileError: see `read_tls`.
        """
        return read_tls(*self.files, name=self.name)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What proves who an end of a session is: towards everybody, and on the connection.

    Attributes:
        identity: Ed25519 key whose public half the plan pins; it signs every message.
        tls: of the mutual TLS connection.
        places: where `tls` was read; an aggregator takes up new files there. None keeps `tls`.
    """

    identity: SigningKey = field(repr=False)
    tls: TlsFiles
    places: TlsPlaces | None = None

    @classmethod
    def read(
        cls,
        plan: Plan,
        name: str,
        *,
        identity: Path,
        certificate: Path,
        key: Path,
        authority: Path,
    ) -> Self:
        """Read the files of the party or aggregator called `name` in the plan.

        Args:
            plan: the plan.
            name: as in the plan.
            identity: private key (`collabedit keys new`).
            certificate: own TLS certificate.
            key: its private key.
            authority: certificate of the authority that issued everybody's.

        Raises:
            KeyFileError: a file is missing, malformed or accessible to others, or they do not
                belong together.
            PlanError: the plan has no such name, or pins another key for it.
        """
        member = AGGREGATOR if name == plan.federation.aggregator.name else plan.party_id(name)
        own = read_identity(identity, plan, member)
        places = TlsPlaces(certificate, key, authority, name)
        return cls(own, places.read(), places)


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
