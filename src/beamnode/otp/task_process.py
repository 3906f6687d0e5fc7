"""What runs in the process of a task: the handshake with its owner, the function, the reply, the report of a crash.

Whoever starts a task tells it what to run by `{Owner, Ref, ReplyTo, Callers, Work}`, as all releases of Elixir do; the
answer is `{Ref, Result}`, sent to ReplyTo. Source: Elixir's task/supervised.ex.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeAlias, TypeGuard

from beamnode.errors import ProcessExit, Throw, UsageError
from beamnode.etf import Atom, Fun, Pid, Reference, a
from beamnode.etf.shown import shown
from beamnode.node import (
    ANCESTORS,
    CALLERS,
    INITIAL_CALL,
    Asked,
    Origin,
    current_body,
    demonitor,
    error_text,
    from_users_code,
    monitor,
    process_dictionary,
    reason_of,
    reason_text,
    receive,
    report_text,
    run_asked,
    self,
    send,
    spawn_with_dictionary,
    stack_of,
)
from beamnode.otp import proc_lib
from beamnode.otp.supervision import is_orderly
from beamnode.otp.worker import Worker

log = logging.getLogger("beamnode.task")

HANDSHAKE_SECONDS: Final = 5.0  # as Elixir's @ref_timeout

Owner: TypeAlias = tuple[Atom, Pid | Atom, Pid]
"""Of whom a task is: the node, the registered name or else the pid, the pid."""


@dataclass(frozen=True, slots=True)
class Call:
    """A Python function of this node and its arguments. It never travels, so no peer can ask for one."""

    function: Callable[..., Any]
    args: tuple[Any, ...]


Work: TypeAlias = Call | tuple[Atom, Atom, list[Any]]
"""What a task runs: a Python function, or `{Module, Function, Args}`, which the node's policy decides about."""


def work_of(function: Any, args: tuple[Any, ...]) -> Work:
    """From what a program gives: `fn, *args`, or `module, function, [args]`. Errors: UsageError."""
    if isinstance(function, Atom | str):
        if len(args) != 2 or not isinstance(args[0], Atom | str) or not isinstance(args[1], list | tuple):
            raise UsageError("a task runs a Python function with its arguments, or a module, a function and a list")
        return (_atom(function), _atom(args[0]), list(args[1]))
    if not callable(function):
        if inspect.iscoroutine(function):
            function.close()
        raise UsageError(f"a task takes a function and its arguments, as in Task.async_(fetch, 1), not {function!r}")
    return Call(function, args)


def work_for(element: Any, function: Any, args: tuple[Any, ...]) -> Work:
    """`work_of` for an element of a stream, which comes before the other arguments. Errors: UsageError."""
    if isinstance(function, Atom | str) and len(args) == 2 and isinstance(args[1], list | tuple):
        return work_of(function, (args[0], [element, *args[1]]))
    return work_of(function, (element, *args))


def mfa_of(work: Work) -> tuple[Atom, Atom, int]:
    """Module, function and arity, for people."""
    if isinstance(work, Call):
        return proc_lib.call_of(work.function, len(work.args))
    return work[0], work[1], len(work[2])


def own_owner() -> Owner:
    """The current process as the owner of a task."""
    process = current_body().process
    return process.pid.node, process.pid if process.name is None else process.name, process.pid


def own_callers() -> list[Any]:
    """What a task of the current process has as `$callers`: the current one, and its own."""
    process = current_body().process
    own = [] if process.dictionary is None else process.dictionary.get(CALLERS)
    return [process.pid, *(own if isinstance(own, list) else [])]


def is_owner(term: Any) -> TypeGuard[Owner]:
    """Whether a peer's term is the owner of a task."""
    return (
        type(term) is tuple
        and len(term) == 3
        and type(term[0]) is Atom
        and type(term[1]) in (Atom, Pid)
        and type(term[2]) is Pid
    )


def is_mfa(term: Any) -> TypeGuard[tuple[Atom, Atom, list[Any]]]:
    """Whether a peer's term is a module, a function and a list of arguments."""
    return (
        type(term) is tuple
        and len(term) == 3
        and type(term[0]) is Atom
        and type(term[1]) is Atom
        and type(term[2]) is list
    )


def start_reply(owner: Owner, watched: bool, *, link: bool = True) -> Pid:
    """Start a task that answers: its owner says what to run, and where the result goes.

    With `watched` it gives up when the owner ends, or says nothing, before that (a caller on another node, say).
    """
    dictionary = {ANCESTORS: proc_lib.ancestors()}
    # The node's policy decides by who really asks.
    return spawn_with_dictionary(_reply, (owner, watched), dictionary, link=link, tells_origin=True)


def start_noreply(owner: Owner, callers: list[Any], work: Work, node: Atom, *, link: bool = True) -> Pid:
    """Start a task whose result nobody waits for; `node` is who asks for it."""
    dictionary = {**proc_lib.origins(mfa_of(work)), CALLERS: callers}
    return spawn_with_dictionary(_invoke, (owner, work, node), dictionary, link=link)


def refusal(work: Any) -> tuple[Any, list[Any]] | None:
    """Why a peer's task cannot run here whatever the policy, as an Elixir exception and a stack; None when it can."""
    match work:
        case (a.erlang, a.apply, [Fun() as fun, *_]):
            text = (
                f"{self().node} is a Python node: it cannot run {shown(fun)}, whose code is on your node. Name a "
                "function that is exposed there instead, by module, function and arguments"
            )
        case _ if isinstance(work, Call) or is_mfa(work):
            return None
        case _:
            text = f"a task runs a module, a function and a list of arguments, not {shown(work)}"
    exception = {
        Atom("__struct__"): Atom("Elixir.ArgumentError"),
        Atom("__exception__"): True,
        Atom("message"): text.encode(),
    }
    return exception, [(a.erlang, a.apply, 2, [])]


# --- Running it -------------------------------------------------------------------------------------------------------


async def _reply(owner: Owner, watched: bool) -> None:
    process = current_body().process
    reference = monitor(owner[2]) if watched else None

    def is_for_task(message: Any) -> bool:
        message = _plain(message)
        if type(message) is not tuple or len(message) != 5:
            return False
        return message[0] == owner[2] or (message[0] is a.DOWN and message[1] == reference)

    try:
        message = await receive(is_for_task, timeout=HANDSHAKE_SECONDS if watched else None)
    except TimeoutError:
        raise ProcessExit(a.timeout) from None
    node = message.node if type(message) is Origin else process.pid.node
    first, tag, reply_to, callers, work = _plain(message)
    if first is a.DOWN:
        raise ProcessExit((a.shutdown, work))
    if reference is not None:
        demonitor(reference, flush=True)
    if not isinstance(reply_to, Pid | Reference):
        raise ProcessExit((a.badarg, (a.reply_to, reply_to)))
    process_dictionary()[CALLERS] = callers
    _end_origins()
    await _invoke(owner, work, node, lambda result: send(reply_to, (tag, result)))


async def _invoke(owner: Owner, work: Work, node: Atom, then: Callable[[Any], object] | None = None) -> None:
    """Run it and hand over the result; a crash is reported, and ends the process as it would one of Elixir."""
    process = current_body().process
    refused = refusal(work)
    if refused is not None:
        raise ProcessExit(refused)
    process_dictionary()[INITIAL_CALL] = mfa_of(work)
    try:
        result = await _run(work, node)
        if then is not None:
            then(result)
    except ProcessExit as ended:
        if not process.alive or is_orderly(ended.reason):
            raise
        _crash(owner, work, ended, ended.reason)
    except Throw as thrown:
        _crash(owner, work, thrown, ((a.nocatch, thrown.value), stack_of(from_users_code(thrown.__traceback__))))
    except (Exception, SystemExit) as error:
        _crash(owner, work, error, reason_of(error.with_traceback(from_users_code(error.__traceback__))))


async def _run(work: Work, node: Atom) -> Any:
    if not isinstance(work, Call):
        return await run_asked(Asked(node, *work))
    if inspect.iscoroutinefunction(work.function):
        return await work.function(*work.args)
    worker = Worker(f"beamnode {self()!r}")
    try:
        result = await worker.run(work.function, work.args)
    finally:
        worker.close()
    return await result if inspect.isawaitable(result) else result  # of a lambda around an async def


def _crash(owner: Owner, work: Work, error: BaseException, reason: Any) -> NoReturn:
    """Report it, and end with the reason that it has on the wire."""
    process = current_body().process
    module, function, arity = mfa_of(work)
    is_exit = isinstance(error, ProcessExit)
    also = [
        ("Started from", _starter(owner)),
        ("Function", f"{module}.{function}/{arity}"),
        ("Arguments", shown(list(work.args if isinstance(work, Call) else work[2]))),
    ]
    what = f"Task {process.pid!r} has ended: {reason_text(reason) if is_exit else error_text(error)}"
    log.error("%s", report_text(what, process, None if is_exit else error, also))
    raise ProcessExit(reason) from None


def _starter(owner: Owner) -> str:
    node, who, pid = owner
    if isinstance(who, Pid) or node is self().node:
        return str(who) if isinstance(who, Atom) else repr(who)
    return f"{who} of {node} ({pid!r})"


def _end_origins() -> None:
    """The function gets messages as they were sent, also those that came early."""
    process = current_body().process
    process.tells_origin = False
    mailbox = process.mailbox
    if mailbox:
        plain = [_plain(message) for message in mailbox]
        mailbox.clear()
        mailbox.extend(plain)
        mailbox.restart()


def _plain(message: Any) -> Any:
    return message.message if type(message) is Origin else message


def _atom(name: Atom | str) -> Atom:
    return name if isinstance(name, Atom) else Atom(name)
