"""Options for metrics and status over HTTP, and the servers behind them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from collabedit.api.places import check_address

if TYPE_CHECKING:
    from collabedit.operations.web import Pages

MetricsOption: TypeAlias = Annotated[
    str | None, typer.Option("--metrics", help="HOST:PORT for a Prometheus to scrape.")
]
StatusOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--status", help="HOST:PORT of a page for people; may be that of --metrics."),
]
WebRemoteOption: TypeAlias = Annotated[
    bool,
    typer.Option("--web-remote", help="Let --metrics and --status be reached from elsewhere."),
]
WebNameOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--web-name", help="Name by which those pages may be asked for, beside addresses."
    ),
]


@contextmanager
def served_pages(
    wanted: Mapping[str, tuple[str | None, "Pages"]],
    *,
    names: list[str] | None,
    is_remote: bool,
    observe: Callable[[str, Mapping[str, object]], None],
) -> Iterator[None]:
    """Serve pages while the context lasts; equal addresses share a server.

    Args:
        wanted: by option, its address and its pages; those without an address are left out.
        names: further names of this host.
        is_remote: whether others than this machine may reach them.
        observe: told where each server listens, and of one that others can reach.

    Raises:
        InputError: an address is not HOST:PORT, not of this machine alone, or in use.
    """
    from collabedit.operations.web import WebServer, is_loopback

    together: dict[str, Pages] = {}
    for option, (address, pages) in wanted.items():
        if address is not None:
            check_address(option, address)
            together[address] = {**together.get(address, {}), **pages}
    with ExitStack() as stack:
        for address, pages in together.items():
            server = stack.enter_context(
                WebServer(address, pages, names=names or (), is_remote=is_remote)
            )
            observe("web", {"address": server.address, "pages": sorted(pages)})
            if not is_loopback(address.rpartition(":")[0].strip("[]")):
                observe("web-remote", {"address": server.address})
        yield
