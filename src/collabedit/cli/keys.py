"""`collabedit keys`: identity keys, and certificates of a development authority."""

from pathlib import Path
from typing import Annotated

import typer

from collabedit.cli.console import say
from collabedit.crypto.certificates import Authority, create_authority, issue_certificate
from collabedit.crypto.rng import SystemRandomness
from collabedit.crypto.signing import SigningKey, read_private, read_signing_key, write_private
from collabedit.errors import KeyFileError

app = typer.Typer(help="Identity keys and TLS certificates.", no_args_is_help=True)


@app.command("new")
def new(
    out: Annotated[Path, typer.Argument(help="File for the private key; must not exist.")],
) -> None:
    """Make an Ed25519 identity key. Prints the public key, which goes into the plan."""
    key = SigningKey.generate(SystemRandomness())
    out.parent.mkdir(parents=True, exist_ok=True)
    write_private(out, key.to_pem())
    say(f"wrote {out} (private: never leaves this machine)")
    typer.echo(key.verify_key.to_bytes().hex())


def _check_new(*paths: Path) -> None:
    # Both halves of a pair, before either is written: a new key beside an old certificate is no
    # pair, and whoever trusts the old authority would not trust what a new one signs.
    for path in paths:
        if path.exists():
            raise KeyFileError(f"{path}: exists already; move it away first")


@app.command("show")
def show(identity: Annotated[Path, typer.Argument(help="An identity key file.")]) -> None:
    """Print the public key of an identity key."""
    typer.echo(read_signing_key(identity).verify_key.to_bytes().hex())


@app.command("ca")
def ca(
    out: Annotated[Path, typer.Argument(help="Directory for ca.pem and ca-key.pem.")],
    name: Annotated[str, typer.Option(help="Name of the authority.")] = "CollabEdit development CA",
) -> None:
    """Make a certificate authority for development and closed federations."""
    _check_new(out / "ca.pem", out / "ca-key.pem")
    authority = create_authority(name)
    out.mkdir(parents=True, exist_ok=True)
    write_private(out / "ca-key.pem", authority.key_pem)
    (out / "ca.pem").write_bytes(authority.certificate_pem)
    say(f"wrote {out / 'ca.pem'} (public) and {out / 'ca-key.pem'} (private)")


@app.command("certificate")
def certificate(
    name: Annotated[str, typer.Argument(help="The party's or aggregator's name in the plan.")],
    ca_dir: Annotated[Path, typer.Option("--ca", help="Directory that `keys ca` made.")],
    out: Annotated[Path, typer.Option(help="Directory for NAME.pem and NAME-key.pem.")],
    host: Annotated[
        list[str] | None, typer.Option(help="Host name or address of a server; repeatable.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, help="Lifetime.")] = 365,
) -> None:
    """Issue a TLS certificate (ECDSA P-256) for a party or the aggregator."""
    _check_new(out / f"{name}.pem", out / f"{name}-key.pem")
    try:
        authority = Authority((ca_dir / "ca.pem").read_bytes(), read_private(ca_dir / "ca-key.pem"))
    except OSError as error:
        raise KeyFileError(f"{ca_dir / 'ca.pem'}: {error.strerror}") from error
    issued = issue_certificate(authority, name=name, hosts=host or [], lifetime_days=days)
    out.mkdir(parents=True, exist_ok=True)
    write_private(out / f"{name}-key.pem", issued.key_pem)
    (out / f"{name}.pem").write_bytes(issued.certificate_pem)
    say(f"wrote {out / f'{name}.pem'} and {out / f'{name}-key.pem'} (private)")
