"""A small development CA, and the check of a certificate before it is used.

X.509 (RFC 5280) through `cryptography`. Keys are ECDSA on P-256 because gRPC's TLS takes no
Ed25519. These certificates only authenticate the channel; who a party is, the plan's Ed25519 keys
say (`signing`). An institution with a PKI of its own uses that: nothing here is needed to run,
`check_certificate_pair` accepts any issuer's certificates.

A party's certificate carries its name as CN, which the aggregator reads, and as a DNS name, which
lets TLS check a peer under its plan name, whatever the address it is reached at.
"""

import datetime as dt
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from collabedit.errors import InputError, KeyFileError

AUTHORITY_LIFETIME_DAYS: Final = 3650
BACKDATING: Final = dt.timedelta(hours=1)
"""How far a certificate starts in the past: a peer whose clock is behind must accept it, too."""

# What a host name may look like (RFC 1123), with underscores for plan names. 64: upper bound of a
# common name (RFC 5280, appendix A.1).
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True, eq=False)
class Authority:
    """A development CA: its self-signed certificate and its private key, both PEM."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class IssuedCertificate:
    """A party's or aggregator's certificate and its private key, both PEM."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)


def create_authority(
    name: str,
    *,
    lifetime_days: int = AUTHORITY_LIFETIME_DAYS,
    now: dt.datetime | None = None,
) -> Authority:
    """Create a CA that can issue end certificates and no further CA.

    Args:
        name: its common name, 1..64 characters.
        lifetime_days: 1 or more.
        now: the moment from which it is valid; the present unless given. Must know its time zone.

    Raises:
        InputError: the name's length is out of range.
    """
    if not 1 <= len(name) <= 64:
        raise InputError("the name of a certificate authority has 1 to 64 characters")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        _builder(key, subject, lifetime_days=lifetime_days, now=now)
        .issuer_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
    )
    certificate = builder.sign(key, SHA256())
    return Authority(certificate.public_bytes(Encoding.PEM), _key_to_pem(key))


def issue_certificate(
    authority: Authority,
    *,
    name: str,
    hosts: Sequence[str],
    lifetime_days: int,
    now: dt.datetime | None = None,
) -> IssuedCertificate:
    """Issue a certificate that serves as TLS server and as TLS client.

    Args:
        authority: the issuer.
        name: the party's name in the plan: common name and first DNS name. Letters, digits, dot,
            hyphen, underscore; at most 64.
        hosts: DNS names and IP addresses under which it will be reached; may be empty for a client.
        lifetime_days: 1 or more, and not beyond the authority's own end.
        now: the moment from which it is valid; the present unless given. Must know its time zone.

    Raises:
        InputError: a name or host is malformed, or the certificate would outlive its authority.
        KeyFileError: the authority's PEMs do not load.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"certificate name {name!r}: use 1 to 64 letters, digits, dots, hyphens or underscores"
        )
    issuer = _load_certificate(authority.certificate_pem, "the authority's certificate")
    issuer_key = _load_key(authority.key_pem, "the authority's key")
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise KeyFileError("the authority's key is not an elliptic-curve key")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    # RFC 5280, 4.2.1.1: the issuer's own identifier, copied, is what a path builder looks for.
    issuer_identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    names = dict.fromkeys([x509.DNSName(name), *(_general_name(host) for host in hosts)])
    certificate = (
        _builder(key, subject, lifetime_days=lifetime_days, now=now)
        .issuer_name(issuer.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_identifier),
            critical=False,
        )
        .sign(issuer_key, SHA256())
    )
    if certificate.not_valid_after_utc > issuer.not_valid_after_utc:
        raise InputError(
            f"a lifetime of {lifetime_days} days goes beyond the end of the authority itself, "
            f"{issuer.not_valid_after_utc:%Y-%m-%d}"
        )
    return IssuedCertificate(certificate.public_bytes(Encoding.PEM), _key_to_pem(key))


def certificate_name(pem: bytes) -> str:
    """Read a certificate's common name. Trust it only once the chain was verified.

    Raises:
        KeyFileError: not a certificate, or it does not have exactly one common name.
    """
    names = _load_certificate(pem, "the certificate").subject.get_attributes_for_oid(
        NameOID.COMMON_NAME
    )
    if len(names) != 1:
        raise KeyFileError(f"the certificate has {len(names)} common names instead of one")
    value = names[0].value
    if not isinstance(value, str):  # a bit string
        raise KeyFileError("the certificate's common name is not text")
    return value


def check_certificate_pair(
    certificate_pem: bytes, key_pem: bytes, authority_pem: bytes, now: dt.datetime
) -> None:
    """Check, before any connection, that certificate, key and authority belong together now.

    Finds what TLS would report late and dimly. Does not replace TLS's own verification of a peer.

    Args:
        certificate_pem: the end certificate; only the first one in the file is looked at.
        key_pem: its private key, unencrypted.
        authority_pem: the certificate of the authority that must have issued it directly.
        now: the present, with time zone.

    Raises:
        KeyFileError: one line that says which of these does not hold.
        ValueError: `now` has no time zone.
    """
    if now.tzinfo is None:
        raise ValueError("`now` must know its time zone")
    certificate = _load_certificate(certificate_pem, "the certificate")
    key = _load_key(key_pem, "the private key")
    authority = _load_certificate(authority_pem, "the authority's certificate")
    if _public_der(key.public_key()) != _public_der(certificate.public_key()):
        raise KeyFileError("the private key does not match the certificate")
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise KeyFileError("the certificate was not issued by this authority") from error
    for what, one in (("the certificate", certificate), ("the authority's certificate", authority)):
        if now < one.not_valid_before_utc:
            raise KeyFileError(
                f"{what} is not valid before {one.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; "
                "check the clock"
            )
        if now > one.not_valid_after_utc:
            raise KeyFileError(
                f"{what} expired at {one.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; issue a new one"
            )


def _builder(
    key: ec.EllipticCurvePrivateKey,
    subject: x509.Name,
    *,
    lifetime_days: int,
    now: dt.datetime | None,
) -> x509.CertificateBuilder:
    if lifetime_days < 1:
        raise ValueError("a lifetime has 1 day or more")
    start = now if now is not None else dt.datetime.now(dt.UTC)
    if start.tzinfo is None:
        raise ValueError("`now` must know its time zone")
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - BACKDATING)
        .not_valid_after(start + dt.timedelta(days=lifetime_days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    # RFC 5280, 4.2.1.3. An ECDSA key in TLS 1.3 signs and does nothing else.
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if len(host) > 253 or not all(_NAME.fullmatch(label) for label in host.split(".")):
        raise InputError(f"host {host!r} is neither a DNS name nor an IP address")
    return x509.DNSName(host)


def _public_der(key: object) -> bytes:
    to_bytes = getattr(key, "public_bytes", None)
    if to_bytes is None:
        raise KeyFileError("a key is of a kind that certificates do not use")
    der: bytes = to_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return der


def _key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load_certificate(pem: bytes, what: str) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        # Parsed on first use only: asked for here, so that what is malformed is found here.
        _ = certificate.subject, certificate.issuer, certificate.public_key()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise KeyFileError(f"{what} is not a certificate in PEM form") from error
    return certificate


def _load_key(pem: bytes, what: str) -> PrivateKeyTypes:
    try:
        return load_pem_private_key(pem, password=None)
    except TypeError as error:
        raise KeyFileError(f"{what} is encrypted with a password; store it unencrypted") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{what} is not a private key in PEM form") from error
