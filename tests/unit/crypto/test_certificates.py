import base64
import datetime as dt
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import PolicyBuilder, Store

from collabedit.crypto.certificates import (
    Authority,
    IssuedCertificate,
    certificate_name,
    check_certificate_pair,
    create_authority,
    issue_certificate,
)
from collabedit.errors import InputError, KeyFileError

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)
CA = create_authority("Test authority", now=NOW)
OTHER_CA = create_authority("Test authority", now=NOW)
LEAF = issue_certificate(
    CA, name="hospital-a", hosts=["localhost", "127.0.0.1", "::1"], lifetime_days=30, now=NOW
)
OTHER_LEAF = issue_certificate(CA, name="hospital-b", hosts=[], lifetime_days=30, now=NOW)


def check(
    certificate: bytes = LEAF.certificate_pem,
    key: bytes = LEAF.key_pem,
    authority: bytes = CA.certificate_pem,
    now: dt.datetime = NOW,
) -> None:
    check_certificate_pair(certificate, key, authority, now)


def test_a_good_pair_passes_until_its_end() -> None:
    check()
    check(now=NOW + 29 * DAY)


def test_the_name_is_common_name_and_dns_name_and_hosts_follow() -> None:
    certificate = x509.load_pem_x509_certificate(LEAF.certificate_pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert certificate_name(LEAF.certificate_pem) == "hospital-a"
    assert names.get_values_for_type(x509.DNSName) == ["hospital-a", "localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"key": OTHER_LEAF.key_pem}, "private key does not match"),
        ({"authority": OTHER_CA.certificate_pem}, "not issued by this authority"),
        ({"authority": LEAF.certificate_pem}, "not issued by this authority"),
        ({"now": NOW + 31 * DAY}, "the certificate expired"),
        ({"now": NOW - DAY}, "not valid before"),
        ({"certificate": b"nonsense"}, "the certificate is not a certificate in PEM form"),
        ({"authority": b""}, "the authority's certificate is not a certificate in PEM form"),
        ({"key": b"nonsense"}, "not a private key in PEM form"),
    ],
)
def test_what_does_not_belong_together_is_named(
    changed: dict[str, bytes | dt.datetime], message: str
) -> None:
    with pytest.raises(KeyFileError, match=message) as caught:
        check(**changed)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_an_expired_authority_is_named() -> None:
    short = create_authority("short", lifetime_days=1, now=NOW)
    leaf = issue_certificate(short, name="a", hosts=[], lifetime_days=1, now=NOW)
    with pytest.raises(KeyFileError, match="expired"):
        check_certificate_pair(
            leaf.certificate_pem, leaf.key_pem, short.certificate_pem, NOW + 2 * DAY
        )


def test_a_moment_without_time_zone_is_a_programming_error() -> None:
    naive = NOW.replace(tzinfo=None)
    with pytest.raises(ValueError, match="time zone"):
        check(now=naive)
    with pytest.raises(ValueError, match="time zone"):
        create_authority("x", now=naive)


@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "Zürich", "a" * 65, "a\n"])
def test_names_that_tls_cannot_carry_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="certificate name"):
        issue_certificate(CA, name=name, hosts=[], lifetime_days=1)


@pytest.mark.parametrize("host", ["", "a b", "*.example.org", "256.1.1.1:80", "a..b", "a" * 254])
def test_hosts_that_are_none_are_refused(host: str) -> None:
    with pytest.raises(InputError, match="neither a DNS name nor an IP address"):
        issue_certificate(CA, name="a", hosts=[host], lifetime_days=1)


def test_a_certificate_does_not_outlive_its_authority() -> None:
    with pytest.raises(InputError, match="beyond the end of the authority"):
        issue_certificate(CA, name="a", hosts=[], lifetime_days=4000, now=NOW)


def test_a_lifetime_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="1 day"):
        issue_certificate(CA, name="a", hosts=[], lifetime_days=0)


@pytest.mark.parametrize("name", ["", "a" * 65])
def test_an_authority_needs_a_name(name: str) -> None:
    with pytest.raises(InputError, match="1 to 64"):
        create_authority(name)


def test_a_strict_path_validator_accepts_it_as_server_and_as_client() -> None:
    store = Store([x509.load_pem_x509_certificate(CA.certificate_pem)])
    leaf = x509.load_pem_x509_certificate(LEAF.certificate_pem)
    policy = PolicyBuilder().store(store).time(NOW.replace(tzinfo=None))
    chain = policy.build_server_verifier(x509.DNSName("hospital-a")).verify(leaf, [])
    assert len(chain) == 2
    assert policy.build_client_verifier().verify(leaf, []).subjects is not None


def _context(
    purpose: ssl.Purpose, folder: Path, certificate: IssuedCertificate, authority: Authority
) -> ssl.SSLContext:
    pem = folder / "pair.pem"
    pem.write_bytes(certificate.certificate_pem + certificate.key_pem)
    context = ssl.create_default_context(purpose, cadata=authority.certificate_pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_cert_chain(pem)
    return context


def _handshake(client: ssl.SSLContext, server: ssl.SSLContext) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname="hospital-a"),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    for end in ends:
        assert end.version() == "TLSv1.3"
        assert end.getpeercert()


def test_two_ends_shake_hands_in_strict_mode_and_a_stranger_does_not(tmp_path: Path) -> None:
    server = _context(ssl.Purpose.CLIENT_AUTH, tmp_path, LEAF, CA)
    _handshake(_context(ssl.Purpose.SERVER_AUTH, tmp_path, OTHER_LEAF, CA), server)
    stranger = issue_certificate(OTHER_CA, name="hospital-b", hosts=[], lifetime_days=3, now=NOW)
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate"):
        _handshake(_context(ssl.Purpose.SERVER_AUTH, tmp_path, stranger, CA), server)


def test_a_certificate_without_a_name_is_refused() -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding

    key = ec.generate_private_key(ec.SECP256R1())
    nameless = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + DAY)
        .sign(key, SHA256())
    )
    with pytest.raises(KeyFileError, match="0 common names"):
        certificate_name(nameless.public_bytes(Encoding.PEM))


def test_a_certificate_with_a_malformed_name_is_refused() -> None:
    der = x509.load_pem_x509_certificate(CA.certificate_pem).public_bytes(Encoding.DER)
    text_tag = b"\x55\x04\x03\x0c"  # id-at-commonName and the tag of its UTF8String
    at = der.rindex(text_tag) + 3
    altered = base64.encodebytes(der[:at] + b"\xeb" + der[at + 1 :])
    pem = b"-----BEGIN CERTIFICATE-----\n" + altered + b"-----END CERTIFICATE-----\n"
    with pytest.raises(KeyFileError, match="not a certificate"):
        certificate_name(pem)
    with pytest.raises(KeyFileError, match="not a certificate"):
        check(authority=pem)
