"""The output of a call that a C node made with `send_stdout_to_caller` (`erl_call -fetch_stdout`).

A group leader whose output goes to the caller: `{rex_stdout, Binary}` for each write, then `{rex, Result}`, in order.
Source: rpc.erl, `cnode_call_group_leader_loop`.
"""

from __future__ import annotations

from typing import Any

from beamnode.etf import Pid, a
from beamnode.node import receive, send
from beamnode.services.io_format import chardata_text


async def run(client: Pid) -> None:
    """Pass on what is printed until `end`."""
    while True:
        match await receive():
            case (a.io_request, Pid() as asker, reply_as, request):
                send(asker, (a.io_reply, reply_as, _serve(client, request)))
            case (a.ended, result):
                send(client, (a.rex, result))
                return


def end(output: Pid, result: Any) -> None:
    """Nothing more will be printed: the caller gets the result."""
    send(output, (a.ended, result))


def _serve(client: Pid, request: Any) -> Any:
    """The reply to an io request. Nobody is there to be asked anything."""
    match request:
        case (a.put_chars, (a.unicode | a.latin1) as encoding, characters):
            return _put(client, characters, "latin-1" if encoding is a.latin1 else "utf-8")
        case (a.put_chars, characters):
            return _put(client, characters, "latin-1")
        case (a.requests, list() as requests):
            answer: Any = a.ok
            for each in requests:
                answer = _serve(client, each)
                if answer is not a.ok:
                    break
            return answer
        case a.getopts:
            return [(a.encoding, a.unicode), (a.binary, False)]
        case (a.setopts, _):
            return a.ok
        case (a.get_until | a.get_chars | a.get_line | a.get_password, *_):
            return a.eof
    return (a.error, a.request)


def _put(client: Pid, characters: Any, encoding: str) -> Any:
    try:
        send(client, (a.rex_stdout, chardata_text(characters, encoding).encode("utf-8", "replace")))
    except ValueError:
        return (a.error, a.badarg)
    return a.ok
