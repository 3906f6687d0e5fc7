"""`net_kernel`: the process that `net_adm:ping/1` asks whether it is among friends, and some who ask about the node.

Source: net_kernel.erl, `handle_call`.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from beamnode.etf import Pid, a
from beamnode.etf.shown import shown
from beamnode.node import Node, receive
from beamnode.otp import gen

log = logging.getLogger("beamnode.net_kernel")

NO_REPLY: Final = object()


async def run(node: Node) -> None:
    """Answer calls for as long as the node is up; what OTP's net_kernel does not know gets no answer, there as here."""
    while True:
        match await receive():
            case (gen.CALL, (Pid(), _) as sender, request):
                answer = _answer(node, request)
                if answer is NO_REPLY:
                    log.info("net_kernel was asked for %s, and does not know it", shown(request))
                else:
                    gen.reply(sender, answer)
            case (gen.CAST, _):
                pass
            case other:
                log.info("net_kernel got %s", shown(other))


def _answer(node: Node, request: Any) -> Any:
    match request:
        case (a.is_auth, _):
            return a.yes
        case a.longnames:
            return node.long_names
        case a.nodename:
            return node.name
        case a.ticktime:
            return int(node.net_ticktime)
        case a.get_state:
            domain = a.longnames if node.long_names else a.shortnames
            return {a.started: a.static, a.name_type: a.static, a.name: node.name, a.name_domain: domain}
    return NO_REPLY
