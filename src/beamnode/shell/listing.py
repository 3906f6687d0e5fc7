"""`i()`, `pinfo(pid)` and `tree()` of the shell: the processes of a node in lines, and its supervisors as trees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePath
from typing import Any, Final

import beamnode.sync as sync
from beamnode.errors import BeamnodeError, ProcessExit, UsageError
from beamnode.etf import Atom, Pid, a
from beamnode.etf.shown import shown
from beamnode.etf.terms import on_one_line
from beamnode.node import whereis
from beamnode.node.introspection import Line
from beamnode.shell.looks import ORIGIN, SECONDS, Looks, Seen

PROCESSES_MAX: Final = 500  # that `i` shows, unless it is told otherwise
CHILDREN_MAX: Final = 50  # of one supervisor that are shown
DEPTH_MAX: Final = 50
LABEL_MAX: Final = 60  # characters

Show = Callable[[Any], str]


class Listing:
    """What the shell of `node` prints; `show` makes the text of a term."""

    def __init__(self, node: sync.Node, show: Show) -> None:
        self._node = node
        self._looks = Looks(node)
        self._show = show

    def i(self, node: Atom | str | None = None, *, limit: int | None = PROCESSES_MAX) -> None:
        """List the processes of this node, or of another: i("iex@host"); at most `limit` of them, the oldest first.

        Each with what it runs or its label, its name, the messages that wait, on nodes of Erlang's its reductions, and
        the line of code that it is at.
        """
        pids = self._looks.pids(self._node.name if node is None else node)
        seen = self._looks.some(pids[:limit])
        counted = any(one.reductions is not None for one in seen)
        rows = [["Pid", "Label or initial call", "Name", "Messages", "Reductions", "Status", "At"]]
        for one in seen:
            name = "" if one.name is None else _plain(one.name)
            row = [self._show(one.pid), self._what(one), name, str(one.messages), str(one.reductions or 0), one.status]
            rows.append([*row, _place(one.place)])
        if not counted:
            for row in rows:
                del row[4]
        print("\n".join(_in_columns(rows)))
        rest = 0 if limit is None else max(len(pids) - limit, 0)
        more = f", {rest} of them not shown: i(limit=None) shows all" if rest else ""
        print(f"processes: {len(seen) + rest}{more}; messages waiting: {sum(one.messages for one in seen)}", flush=True)

    def pinfo(self, pid: Pid | Atom | str) -> None:
        """Show all that is known of a process: of a pid or name of this node, or of a pid of another."""
        at = self._pid(pid)
        info = self._looks.everything(at)
        if info is None:
            print(f"{self._show(at)} has ended", flush=True)
            return
        for name, value in info.items():
            print(f"{name}: {self._value(value)}", flush=True)

    def tree(self, root: Pid | Atom | str | tuple[Atom | str, Atom | str] | None = None) -> None:
        """Show the supervisors of this node, with their children, as trees.

        Supervisors are known by their `$initial_call`; others are not asked, whom the question would end.
        `tree(pid)`, `tree("name")` and `tree(("name", node))` show one, `tree("iex@host")` those of another node.
        """
        if root is None or (isinstance(root, Atom | str) and "@" in str(root)):
            node = self._node.name if root is None else root
            roots = _roots(self._looks.some(self._looks.pids(node), ORIGIN))
            if not roots:
                print(f"there is no supervisor on {node}", flush=True)
        else:
            pid = self._pid(root)
            roots = self._looks.some([pid], ORIGIN)
            if not roots:
                print(f"{self._show(pid)} has ended", flush=True)
        for one in roots:
            print("\n".join(self._tree(one)), flush=True)

    # --- Trees --------------------------------------------------------------------------------------------------------

    def _tree(self, root: Seen) -> Iterable[str]:
        yield self._described(root, None)
        if root.is_supervisor:
            yield from self._branches(root.pid, "", {root.pid})
        else:
            yield "└── (it is no supervisor)"

    def _branches(self, supervisor: Pid, indent: str, above: set[Pid]) -> Iterable[str]:
        """The lines of what is below a supervisor; `above`: those that lead to it, lest one be its own child."""
        try:
            told = sync.GenServer.call(supervisor, a.which_children, SECONDS)
        except (ProcessExit, TimeoutError) as error:
            yield f"{indent}└── (it does not tell its children: {_first_line(error)})"
            return
        children = [child for child in told if _is_child(child)] if isinstance(told, list) else []
        if any(child[0] not in (None, a.undefined) for child in children):
            children.reverse()  # a supervisor that knows its children by ids tells the last one first
        kept, rest = children[:CHILDREN_MAX], len(children) - CHILDREN_MAX
        seen = self._seen([child[1] for child in kept])
        for index, (id, where, kind, modules) in enumerate(kept):
            last = index == len(kept) - 1 and rest <= 0
            yield f"{indent}{'└── ' if last else '├── '}{self._child(id, where, modules, seen)}"
            if kind in (a.supervisor, "supervisor") and isinstance(where, Pid) and where not in above:
                below = indent + ("    " if last else "│   ")
                if len(above) < DEPTH_MAX:
                    yield from self._branches(where, below, {*above, where})
        if rest > 0:
            yield f"{indent}└── and {rest} more"

    def _seen(self, wheres: Iterable[Any]) -> dict[Pid, Seen]:
        """What is to see of children, which may live on several nodes."""
        of_nodes: dict[Atom, list[Pid]] = {}
        for pid in wheres:
            if isinstance(pid, Pid):
                of_nodes.setdefault(pid.node, []).append(pid)
        seen: dict[Pid, Seen] = {}
        for pids in of_nodes.values():
            try:
                seen |= {one.pid: one for one in self._looks.some(pids, ORIGIN)}
            except (BeamnodeError, TimeoutError):  # a node that does not tell: the pids are known all the same
                continue
        return seen

    def _child(self, id: Any, where: Any, modules: Any, seen: dict[Pid, Seen]) -> str:
        called = None if id is a.undefined or id is None else _text_of_id(id, self._show)
        if isinstance(where, Pid):
            one = seen.get(where)
            return f"{called or '-'} {self._show(where)}" if one is None else self._described(one, called)
        state = "not running" if where is None else str(where).replace("undefined", "not running")
        return f"{called or _modules(modules)} ({state})"

    def _described(self, one: Seen, called: str | None) -> str:
        name = None if one.name is None else _plain(one.name)
        words = [called] if called else []
        if name is not None and name != called:
            words.append(name)
        words += [self._show(one.pid), self._what(one)]
        if one.messages:
            words.append(f"[messages waiting: {one.messages}]")
        return " ".join(words)

    # --- Texts --------------------------------------------------------------------------------------------------------

    def _what(self, one: Seen) -> str:
        """Its label, or what it began with."""
        if one.label not in (None, a.undefined):
            return _text_of_label(one.label)
        match one.initial_call:
            case (a.supervisor, module, _):
                return f"supervisor {_plain(module)}"
            case (module, function, arity):
                return f"{_plain(module)}.{function}/{arity}"
        return shown(one.initial_call)

    def _value(self, value: Any) -> str:
        if isinstance(value, Line):
            return str(value)
        if isinstance(value, list) and value and all(isinstance(item, Line) for item in value):
            return "".join(f"\n    {line}" for line in value)
        return self._show(value)

    def _pid(self, named: Any) -> Pid:
        """Errors: UsageError when nobody has that name."""
        if isinstance(named, Pid):
            return named
        if isinstance(named, tuple) and len(named) == 2 and not self._looks.is_own(named[1]):
            name, node = named
            found = self._node.rpc(node, "erlang", "whereis", [Atom(str(name))], timeout=SECONDS)
        else:
            found = whereis(named[0] if isinstance(named, tuple) else named)
        if not isinstance(found, Pid):
            raise UsageError(f"no process is registered as {named!r}")
        return found


def _is_child(told: Any) -> bool:
    """Whether it is what `which_children` tells of one: `{Id, Pid, Type, Modules}`."""
    return isinstance(told, tuple) and len(told) == 4


def _roots(seen: Sequence[Seen]) -> list[Seen]:
    """The supervisors that none of them has started."""
    supervisors = [one for one in seen if one.is_supervisor]
    known = {one.pid for one in supervisors} | {one.name for one in supervisors if one.name is not None}
    return [one for one in supervisors if not any(above in known for above in one.ancestors)]


def _in_columns(rows: list[list[str]]) -> Iterable[str]:
    """The last column is as wide as it is."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        yield "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[-1]]).rstrip()


def _place(line: Line | None) -> str:
    if line is None:
        return ""
    if not line.file:
        return f"{_plain(line.module)}.{line.function}/{line.arity}"
    return f"{PurePath(line.file).name}:{line.line} in {line.function}"


def _plain(module: Any) -> str:
    """A module or a name, those of Elixir as people write them there."""
    return str(module).removeprefix("Elixir.")


def _text_of_id(id: Any, show: Show) -> str:
    if isinstance(id, type):
        return id.__qualname__
    return _plain(id) if isinstance(id, Atom | str) else show(id)


def _text_of_label(label: Any) -> str:
    """A text as it is, on one line."""
    text = label.decode("utf-8", "replace") if isinstance(label, bytes) else label
    return on_one_line(text[:LABEL_MAX]) if isinstance(text, str) else shown(label)


def _modules(modules: Any) -> str:
    return ", ".join(_plain(module) for module in modules) if isinstance(modules, list) else "-"


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
