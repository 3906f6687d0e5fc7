"""The cookie: the secret that the nodes of a cluster share.

A value given by the program, or the file that OTP and we both read and, where there is none, create:

1. `$HOME/.erlang.cookie`
2. `$XDG_CONFIG_HOME/erlang/.erlang.cookie` (or `$HOME/.config/erlang/.erlang.cookie`)

It must be a regular file that only its owner can access. Line ends behind the cookie are dropped; spaces before a line
end belong to it. Source: auth.erl (`read_cookie`, `check_attributes`, `check_cookie`, `create_cookie`).
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import os
import secrets
import stat
import string
import sys
import time
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

from beamnode.errors import CookieError
from beamnode.etf.terms import Atom

FILE_NAME = ".erlang.cookie"
LETTERS = 20  # of a cookie that is created, A to Z: 94 bits
CHARACTERS_MAX = 255  # a cookie is an atom

# OTP creates the file open to all, writes it, and then takes the rights away. A file that is younger than this and not
# right yet is looked at again, for as long.
_SETTLING_SECONDS = 1.0
_POLL_SECONDS = 0.02
_READ_BYTES_MAX = 4096

# What `link` says on a file system that has no hard links.
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


class Cookie:
    """A cookie that does not show: neither `repr` nor `str` tell it, only `value` does. Equal when the values are."""

    __slots__ = ("_value",)

    def __init__(self, value: str | bytes | Atom | Cookie) -> None:
        """Take a cookie that a program gives: 1 to 255 characters of Latin-1. Raises `CookieError`."""
        self._value: bytes = _checked(value)

    @property
    def value(self) -> bytes:
        """The secret, as the digests of the handshake use it."""
        return self._value

    @classmethod
    def random(cls) -> Cookie:
        """A new one, as OTP makes them: 20 capital letters."""
        return cls("".join(secrets.choice(string.ascii_uppercase) for _ in range(LETTERS)))

    def __repr__(self) -> str:
        return "Cookie(...)"

    def __eq__(self, other: object) -> bool:
        return hmac.compare_digest(self._value, other._value) if isinstance(other, Cookie) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> Any:
        raise TypeError("a cookie is not pickled or copied: hand on its value, if that is meant")


def conceal(options: MutableMapping[str, Any]) -> None:
    """Put a `Cookie` in the place of each cookie among the options of a node (`cookie`, `cookies`).

    Nothing of what was given is in the traceback of an error. Errors: CookieError.
    """
    try:
        if options.get("cookie") is not None:
            options["cookie"] = Cookie(options["cookie"])
        if options.get("cookies") is not None:
            if not isinstance(options["cookies"], Mapping):
                kind = type(options["cookies"]).__name__
                raise CookieError(f"cookies has the cookies of single nodes, by name: {{'b@host': ...}}, no {kind}")
            options["cookies"] = {node: Cookie(each) for node, each in options["cookies"].items()}
    except CookieError as error:
        options["cookie"] = options["cookies"] = None
        raise error.with_traceback(None) from None


def load_or_create(environ: Mapping[str, str] | None = None) -> Cookie:
    """The cookie of this user: read from its file, or put there.

    `environ` (default: the process's) says where HOME is. Raises `CookieError`, naming the file and what to do.
    Reads and writes files, and may wait up to a second for another program that is creating the file.
    """
    home_path, config_path = cookie_paths(os.environ if environ is None else environ)
    for path in (home_path, config_path):
        cookie = path and read(path)
        if cookie:
            return cookie
    path = home_path or config_path
    if path is None:
        raise CookieError(
            "no place for a cookie file: HOME is not set; set it, or give a cookie (cookie=..., --cookie)"
        )
    return create(path)


def cookie_paths(environ: Mapping[str, str]) -> tuple[Path | None, Path | None]:
    """Where the file may be: in HOME, and in the user's configuration directory. None where the environment is mute."""
    home = environ.get("HOME")
    config = environ.get("XDG_CONFIG_HOME") if sys.platform != "darwin" else None
    home_path = Path(home) / FILE_NAME if home else None
    if config:
        return home_path, Path(config) / "erlang" / FILE_NAME
    if home:
        below = "Library/Application Support" if sys.platform == "darwin" else ".config"
        return home_path, Path(home) / below / "erlang" / FILE_NAME
    return home_path, None


def read(path: Path) -> Cookie | None:
    """The cookie in that file, or None when there is no such file. Raises `CookieError` when it cannot be used."""
    while True:
        try:
            return _read_once(path)
        except _NotSettled as problem:
            if problem.age_seconds > _SETTLING_SECONDS:
                raise CookieError(str(problem)) from None
            time.sleep(_POLL_SECONDS)


def create(path: Path) -> Cookie:
    """Put a random cookie into a new file of mode 0400; when another program was faster, the result is its cookie.

    The file appears whole (where the file system has hard links), and never with other rights. Raises `CookieError`.
    """
    cookie = Cookie.random()
    try:
        created = _create_whole(path, cookie)
    except OSError as error:
        raise CookieError(
            f"cannot create cookie file {path}: {os.strerror(error.errno or 0)}; "
            "make its directory writable, or give a cookie (cookie=..., --cookie)"
        ) from error
    if created:
        return cookie
    theirs = read(path)
    if theirs is None:
        raise CookieError(f"cookie file {path} is created and removed by another program: create it yourself")
    return theirs


class _NotSettled(Exception):
    """The file is not right, which may be because another program is creating it this moment."""

    def __init__(self, text: str, status: os.stat_result) -> None:
        super().__init__(text)
        self.age_seconds = abs(time.time() - status.st_ctime)  # a clock that was set back: old, too


def _read_once(path: Path) -> Cookie | None:
    try:
        # Not blocking: should it be a pipe, opening it must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CookieError(_unreadable_text(path, error)) from error
    try:
        status = os.fstat(descriptor)
        _check_status(path, status)
        try:
            content = os.read(descriptor, _READ_BYTES_MAX)
        except OSError as error:
            raise CookieError(_unreadable_text(path, error)) from error
    finally:
        os.close(descriptor)
    if not content:
        raise _NotSettled(f"cookie file {path} is empty: write a cookie into it, or remove it to have one made", status)
    problem, end = _problem_with(path, content)
    if problem:
        del content  # not to be seen in a traceback
        raise CookieError(problem)
    return Cookie(content[:end])


def _check_status(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise CookieError(f"cookie file {path} is not a regular file")
    if status.st_mode & 0o077:
        raise _NotSettled(
            f"cookie file {path} must be accessible by its owner only, but its mode is "
            f"{stat.S_IMODE(status.st_mode):04o}: chmod 400 {path}",
            status,
        )


def _unreadable_text(path: Path, error: OSError) -> str:
    text = f"cannot read cookie file {path}: {os.strerror(error.errno or 0)}"
    with contextlib.suppress(OSError):
        owner = path.stat().st_uid
        if owner != os.geteuid():
            return f"{text}; it belongs to user {owner}, and this is user {os.geteuid()}: start as its owner"
    return f"{text}; its owner must be able to read it: chmod 400 {path}"


def _problem_with(path: Path, content: bytes) -> tuple[str, int]:
    """What keeps the content from being a cookie, if something does; and where the cookie ends.

    It is the printable characters that the file begins with; behind them only line ends and spaces may follow.
    """
    end = next((place for place, byte in enumerate(content) if not 0x20 <= byte <= 0x7E), len(content))
    if content[end:].strip(b"\r\n "):
        return f"cookie file {path} has bad characters: a cookie is one line of printable ASCII", end
    if not end:
        return f"cookie file {path} has no cookie in it: write one, or remove the file to have one made", end
    if end > CHARACTERS_MAX:
        return f"the cookie in {path} is longer than {CHARACTERS_MAX} characters: shorten it", end
    return "", end


def _create_whole(path: Path, cookie: Cookie) -> bool:
    """Write a file beside it, then link it to its name, which fails when the name is taken: False."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    _write_new(draft, cookie)
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        try:  # not whole at once then: a reader may find it empty, which `read` knows to wait for
            _write_new(path, cookie)
        except FileExistsError:
            return False
    finally:
        os.unlink(draft)
    return True


def _write_new(path: Path, cookie: Cookie) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
    try:
        os.fchmod(descriptor, 0o400)  # whatever the umask says
        os.write(descriptor, cookie.value)
        os.fsync(descriptor)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)


def _checked(value: str | bytes | Atom | Cookie) -> bytes:
    if isinstance(value, Cookie):
        return value.value
    if isinstance(value, Atom):
        value = value.name
    if isinstance(value, str):
        if max(value, default="") > "\xff":  # not by trying: a UnicodeEncodeError shows the value
            raise CookieError("a cookie consists of Latin-1 characters only; this one has others")
        value = value.encode("latin-1")
    if not isinstance(value, bytes):
        raise CookieError(f"a cookie is a str, bytes or an Atom, not {type(value).__name__}")
    if not value:
        raise CookieError("a cookie cannot be empty; leave it out to use the one in ~/.erlang.cookie")
    if len(value) > CHARACTERS_MAX:
        raise CookieError(f"a cookie has at most {CHARACTERS_MAX} characters; this one has {len(value)}")
    return value
