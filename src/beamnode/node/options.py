"""The options of `Node`, and what they may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from beamnode.core.connections import AutoConnect
from beamnode.errors import UsageError
from beamnode.etf import Atom
from beamnode.limits import Limits
from beamnode.node.cookie import Cookie
from beamnode.node.epmd_discovery import Discovery
from beamnode.node.exposed import Policy, PolicyHook
from beamnode.node.guard import Guard
from beamnode.node.network import NetworkOptions
from beamnode.node.routes import Carriers

Name = Atom | str


class NodeOptions(TypedDict, total=False):
    """The options of `Node`, which explains them."""

    cookie: str | bytes | Atom | Cookie | None
    hidden: bool
    carrier: Carriers | None
    listen: bool
    discovery: Discovery | None
    dist_auto_connect: AutoConnect | str
    net_ticktime: float
    net_tickintensity: int
    net_setuptime: float
    blocked_warning: float | None
    dist_buf_busy_limit: int
    strings: bool
    limits: Limits
    policy: Policy | PolicyHook | str
    guard: Guard | None
    allowed: Sequence[Name] | None
    cookies: Mapping[Name, str | bytes | Atom | Cookie] | None
    call_threads: int | None
    call_processes: int | None
    handle_sigterm: bool


def network_options(
    *,
    hidden: bool,
    dist_auto_connect: AutoConnect | str,
    net_ticktime: float,
    net_tickintensity: int,
    net_setuptime: float,
    blocked_warning: float | None,
    dist_buf_busy_limit: int,
    strings: bool,
) -> NetworkOptions:
    """Those that are the network's. Errors: UsageError."""
    return NetworkOptions(
        hidden=hidden,
        dist_auto_connect=_auto_connect(dist_auto_connect),
        net_ticktime=_positive("net_ticktime", net_ticktime),
        net_tickintensity=_tick_intensity(net_tickintensity),
        net_setuptime=_positive("net_setuptime", net_setuptime),
        blocked_warning=None if blocked_warning is None else _positive("blocked_warning", blocked_warning),
        dist_buf_busy_limit=_busy_limit(dist_buf_busy_limit),
        strings=strings,
    )


def _auto_connect(policy: AutoConnect | str) -> AutoConnect:
    try:
        return AutoConnect(policy)
    except ValueError:
        raise UsageError(f"dist_auto_connect is 'always', 'once' or 'never', not {policy!r}") from None


def _positive(what: str, seconds: float) -> float:
    if not isinstance(seconds, int | float) or not seconds > 0:
        raise UsageError(f"{what} must be more than 0 s, not {seconds!r}")
    return float(seconds)


def _busy_limit(value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1024:
        raise UsageError(f"dist_buf_busy_limit is a number of bytes, 1024 or more, not {value!r}")
    return value


def _tick_intensity(intensity: int) -> int:
    if not 4 <= intensity <= 1000:
        raise UsageError(f"net_tickintensity must lie in 4..1000, not {intensity!r}")
    return intensity
