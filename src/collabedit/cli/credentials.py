"""Options that name the plan, key and certificate files."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

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
