"""The options of commands that say how a node's bytes travel, by the names that `erl` has for them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from beamnode.errors import UsageError

if TYPE_CHECKING:
    from beamnode.carriers.base import Carrier

PROTO_DISTS = ("inet_tcp", "inet6_tcp", "inet_tls", "inet6_tls")


def add_carrier_arguments(parser: argparse.ArgumentParser) -> None:
    """`--proto-dist` and `--ssl-dist-optfile`."""
    parser.add_argument(
        "--proto-dist",
        choices=PROTO_DISTS,
        metavar="PROTO",
        help=f"{', '.join(PROTO_DISTS[:-1])} or {PROTO_DISTS[-1]}, as all nodes of the cluster (default: inet_tcp)",
    )
    parser.add_argument("--ssl-dist-optfile", metavar="FILE", help="certificates and options of TLS, as erl reads them")


def carrier_of(arguments: argparse.Namespace) -> Carrier | None:
    """What was asked for; None: what nodes have by default. Errors: UsageError."""
    proto, optfile = arguments.proto_dist, arguments.ssl_dist_optfile
    if proto is None and optfile is None:
        return None
    if proto in ("inet_tls", "inet6_tls"):
        from beamnode.carriers.tls import Tls, Tls6

        if optfile is None:
            raise UsageError(
                f"--proto-dist {proto} needs certificates: --ssl-dist-optfile FILE (beamnode certs makes one)"
            )
        return (Tls if proto == "inet_tls" else Tls6).from_optfile(optfile)
    if optfile is not None:
        raise UsageError("--ssl-dist-optfile is for TLS: add --proto-dist inet_tls, or inet6_tls")
    from beamnode.carriers.tcp import Tcp, Tcp6

    return Tcp6() if proto == "inet6_tcp" else Tcp()
