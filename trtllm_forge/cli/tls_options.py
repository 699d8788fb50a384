"""Options of ``forge serve``: TLS of its gRPC service."""

from __future__ import annotations

from typing import Annotated

import typer

from trtllm_forge.cli.options import SERVING

GrpcTlsCertOption = Annotated[
    str | None,
    typer.Option(
        "--grpc-tls-cert",
        metavar="FILE",
        help="Certificate of the gRPC service, in PEM; without it gRPC is in plain text.",
        show_default=False,
        rich_help_panel=SERVING,
    ),
]
GrpcTlsKeyOption = Annotated[
    str | None,
    typer.Option(
        "--grpc-tls-key",
        metavar="FILE",
        help="Private key of that certificate, in PEM and without a passphrase.",
        show_default=False,
        rich_help_panel=SERVING,
    ),
]
GrpcTlsCaOption = Annotated[
    str | None,
    typer.Option(
        "--grpc-tls-ca",
        metavar="FILE",
        help="Authorities of the certificates that gRPC clients then have to show.",
        show_default=False,
        rich_help_panel=SERVING,
    ),
]
