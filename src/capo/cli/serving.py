"""What the commands that serve something over HTTP share."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from capo.cli.app import stop

if TYPE_CHECKING:
    from starlette.applications import Starlette

Host = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS", help="Address to listen on; 0.0.0.0 accepts connections from other machines."
    ),
]
Port = Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="Port; 0 chooses a free one.")]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME", help="Another host name under which clients reach this machine. Repeatable."
    ),
]


@contextmanager
def serve_extra(command: str) -> Iterator[None]:
    """Exit with advice if an import needs packages of the extra `serve` that are not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        stop(
            f"Error: `capo {command}` needs the packages of an extra: pip install 'capo-diffusion[serve]'", 1
        )


def run_until_stopped(
    app: "Starlette", listening: socket.socket, most_connections: int | None = None
) -> None:
    """Serve an application until Ctrl-C, and then exit with 130."""
    from capo.rewards.transports.http_serving import build_server

    try:
        build_server(app, most_connections).run(sockets=[listening])
    except KeyboardInterrupt:
        stop("Stopped.", 130)
