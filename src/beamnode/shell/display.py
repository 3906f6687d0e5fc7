"""How the shell shows results: as Python, but pids as in Erlang: `<0.85.0>` here, another first number there."""

from __future__ import annotations

from typing import Any, Final

from beamnode.etf import Atom, Pid, Port, Reference

WIDTH: Final = 100  # a container whose text is wider is broken into lines
DEPTH_MAX: Final = 50  # of containers in containers; what is deeper is shown by Python
_OPENING: Final[dict[type, tuple[str, str]]] = {tuple: ("(", ")"), list: ("[", "]"), dict: ("{", "}")}


class Display:
    """Shows terms; remembers which number stands for which node, for as long as the shell lives."""

    def __init__(self, this_node: Atom) -> None:
        self._numbers: dict[Atom, int] = {this_node: 0}

    def show(self, value: Any) -> str:
        """The text of `value`; containers of the plain kinds are walked, everything else is its `repr`."""
        return self._text(value, 0, ())

    def _text(self, value: Any, indent: int, around: tuple[int, ...]) -> str:
        """`around` are the containers that `value` is in: one may hold itself."""
        match value:
            case Pid(node=node, id=number, serial=serial):
                return f"<{self._number(node)}.{number}.{serial}>"
            case Reference(node=node, words=words):
                return f"#Ref<{self._number(node)}.{'.'.join(str(word) for word in reversed(words))}>"
            case Port(node=node, id=number):
                return f"#Port<{self._number(node)}.{number}>"
        kind = type(value)
        if kind not in _OPENING or len(around) >= DEPTH_MAX:
            return repr(value)
        opening, closing = _OPENING[kind]
        if id(value) in around:
            return f"{opening}...{closing}"
        items = value.items() if kind is dict else value
        texts = [self._item(kind, item, indent + 1, (*around, id(value))) for item in items]
        if kind is tuple and len(texts) == 1:
            texts[0] += ","
        line = opening + ", ".join(texts) + closing
        if indent + len(line) <= WIDTH and "\n" not in line:
            return line
        return opening + (",\n" + " " * (indent + 1)).join(texts) + closing

    def _item(self, kind: type, item: Any, indent: int, around: tuple[int, ...]) -> str:
        if kind is dict:
            return f"{self._text(item[0], indent, around)}: {self._text(item[1], indent + 2, around)}"
        return self._text(item, indent, around)

    def _number(self, node: Atom) -> int:
        return self._numbers.setdefault(node, len(self._numbers))
