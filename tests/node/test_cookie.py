"""The cookie: its file, read and made as OTP does, and with real `erl`s; the wrapper that does not show it."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from beamnode.errors import CookieError
from beamnode.etf.terms import Atom
from beamnode.node import cookie as module
from beamnode.node.cookie import Cookie, cookie_paths, create, load_or_create, read

NOT_ROOT = 65534


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "own"
    folder.mkdir()
    return folder


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / ".erlang.cookie"


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for a file to settle."""
    monkeypatch.setattr(module, "_SETTLING_SECONDS", -1.0)


def put(path: Path, content: bytes, mode: int = 0o400) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- the wrapper ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["secret", b"secret", Atom("secret"), Cookie("secret")])
def test_a_given_cookie(given: Any) -> None:
    cookie = Cookie(given)
    assert cookie.value == b"secret"
    assert cookie == Cookie("secret")
    assert hash(cookie) == hash(Cookie("secret"))
    assert cookie != Cookie("other")
    assert cookie != "secret"


def test_latin_1() -> None:
    assert Cookie("\xe4\xff").value == b"\xe4\xff"
    assert Cookie("x" * 255).value == b"x" * 255


def test_it_does_not_show() -> None:
    cookie = Cookie("secret")
    for text in (repr(cookie), str(cookie), f"{cookie}", f"{[cookie]}"):
        assert "secret" not in text


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("", "cannot be empty"),
        (b"", "cannot be empty"),
        ("secret\u20ac", "Latin-1 characters only"),
        ("secret" * 43, "at most 255"),
        (17, "not int"),
        (bytearray(b"secret"), "not bytearray"),
        (None, "not NoneType"),
    ],
)
def test_cookies_that_cannot_be(given: Any, says: str) -> None:
    with pytest.raises(CookieError, match=says) as caught:
        Cookie(given)
    assert "secret" not in str(caught.value)
    assert caught.value.__context__ is None, "a UnicodeEncodeError would show it"


def test_random_cookies_are_twenty_capital_letters() -> None:
    cookies = {Cookie.random().value for _ in range(100)}
    assert len(cookies) == 100
    for value in cookies:
        assert len(value) == 20
        assert value.decode("ascii").isalpha()
        assert value.isupper()


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"ABC", b"ABC"),
        (b"ABC\n", b"ABC"),
        (b"ABC\r\n", b"ABC"),
        (b"ABC\n\r\n  \n", b"ABC"),
        (b"ABC \n", b"ABC "),
        (b"  A B~!\n", b"  A B~!"),
        (b"x" * 255 + b"\n", b"x" * 255),
    ],
)
def test_content(path: Path, content: bytes, value: bytes) -> None:
    put(path, content)
    cookie = read(path)
    assert cookie is not None
    assert cookie.value == value


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\n", "has no cookie in it"),
        (b"\n\n \r", "has no cookie in it"),
        (b"ABC\nDEF\n", "bad characters"),
        (b"AB\tC", "bad characters"),
        (b"\xff\xfe", "bad characters"),
        (b"ABC\0", "bad characters"),
        (b"x" * 256, "longer than 255"),
        (b"x" * 100_000, "longer than 255"),
    ],
)
def test_content_that_cannot_be(path: Path, content: bytes, says: str) -> None:
    put(path, content)
    with pytest.raises(CookieError, match=says) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "ABC" not in str(caught.value)


def test_no_file_is_none(path: Path) -> None:
    assert read(path) is None


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o700, 0o4400])
def test_modes_of_the_owner_alone(path: Path, mode: int) -> None:
    put(path, b"ABC", mode)
    assert read(path) == Cookie("ABC")


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("mode", [0o440, 0o404, 0o420, 0o401, 0o410, 0o644, 0o666])
def test_modes_that_let_others_in(path: Path, mode: int) -> None:
    put(path, b"ABC", mode)
    with pytest.raises(CookieError) as caught:  # as root, too
        read(path)
    assert f"its mode is {mode:04o}: chmod 400 {path}" in str(caught.value)


@pytest.mark.usefixtures("hasty")
def test_empty(path: Path) -> None:
    put(path, b"")
    with pytest.raises(CookieError, match=r"is empty: write a cookie"):
        read(path)


def test_not_a_regular_file(folder: Path) -> None:
    (folder / "directory").mkdir(mode=0o700)
    os.mkfifo(folder / "pipe", 0o600)
    for name in ("directory", "pipe"):
        with pytest.raises(CookieError, match="not a regular file"):
            read(folder / name)


def test_a_link_is_followed(folder: Path, path: Path) -> None:
    put(folder / "real", b"ABC")
    path.symlink_to("real")
    assert read(path) == Cookie("ABC")


def as_another_user(question: Callable[[], str]) -> str:
    """The answer of a child process that is not root (or of this one, where it is not)."""
    if os.geteuid() != 0:
        return question()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOT_ROOT)
            os.setuid(NOT_ROOT)
            os.write(writing, question().encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as answer:
        return answer.read()


def error_of(call: Callable[[], object]) -> str:
    try:
        return f"no error but {call()!r}"
    except CookieError as error:
        return str(error)


def test_unreadable(folder: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(path, b"ABC", 0o000)
    folder.chmod(0o755)
    monkeypatch.chdir(folder)  # the other user cannot walk there
    here = Path(path.name)
    text = as_another_user(lambda: error_of(lambda: read(here)))
    assert f"cannot read cookie file {here}: Permission denied" in text
    if os.geteuid() == 0:
        assert f"it belongs to user 0, and this is user {NOT_ROOT}" in text
        shutil.chown(path, NOT_ROOT)
        text = as_another_user(lambda: error_of(lambda: read(here)))
    assert text.endswith(f"its owner must be able to read it: chmod 400 {here}")


def test_a_path_through_a_file(path: Path) -> None:
    put(path, b"ABC")
    with pytest.raises(CookieError, match="Not a directory"):
        read(path / "below")


# --- creating ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_create(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        cookie = create(path)
    finally:
        os.umask(before)
    assert path.read_bytes() == cookie.value
    assert len(cookie.value) == 20
    assert mode_of(path) == 0o400
    assert read(path) == cookie
    assert os.listdir(path.parent) == [path.name], "nothing is left beside it"


def test_create_takes_what_is_there(path: Path) -> None:
    put(path, b"THEIRS")
    assert create(path) == Cookie("THEIRS")
    assert os.listdir(path.parent) == [path.name]


def test_create_where_there_are_no_hard_links(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    cookie = create(path)
    assert read(path) == cookie == create(path)
    assert mode_of(path) == 0o400
    assert os.listdir(path.parent) == [path.name]


def test_create_where_it_cannot(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CookieError, match=r"cannot create cookie file .*: No such file or directory"):
        create(folder / "missing" / ".erlang.cookie")
    folder.chmod(0o555)
    monkeypatch.chdir(folder)
    text = as_another_user(lambda: error_of(lambda: create(Path(".erlang.cookie"))))
    assert "cannot create cookie file .erlang.cookie: Permission denied; make its directory writable" in text


def test_a_full_disk_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CookieError, match="No space left on device"):
        create(path)
    assert os.listdir(path.parent) == []


_CREATOR = """
import sys
from beamnode.node.cookie import load_or_create
print("ready", flush=True)
sys.stdin.readline()
sys.stdout.buffer.write(load_or_create({"HOME": sys.argv[1]}).value)
"""


def test_many_creators_agree(folder: Path) -> None:
    command = [sys.executable, "-c", _CREATOR, str(folder)]
    creators = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(8)]
    for creator in creators:
        assert creator.stdout is not None
        assert creator.stdout.readline() == b"ready\n"
    for creator in creators:
        assert creator.stdin is not None
        creator.stdin.write(b"\n")
        creator.stdin.flush()
    values = {creator.communicate(timeout=60)[0] for creator in creators}
    assert values == {(folder / ".erlang.cookie").read_bytes()}
    assert os.listdir(folder) == [".erlang.cookie"]


def test_a_creator_that_is_not_atomic_is_waited_for(path: Path) -> None:
    """OTP makes the file open to all and empty, then writes, then takes the rights away."""
    put(path, b"", 0o644)

    def finish() -> None:
        time.sleep(0.1)
        path.write_bytes(b"THEIRS")
        time.sleep(0.1)
        path.chmod(0o400)

    other = threading.Thread(target=finish)
    other.start()
    assert read(path) == Cookie("THEIRS")
    other.join()


def test_waiting_has_an_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SETTLING_SECONDS", 0.1)
    put(path, b"", 0o600)
    before = time.monotonic()
    with pytest.raises(CookieError, match="is empty"):
        read(path)
    assert time.monotonic() - before < 1


# --- where it is ------------------------------------------------------------------------------------------------------


def test_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    home = Path("/h/.erlang.cookie")
    assert cookie_paths({"HOME": "/h"}) == (home, Path("/h/.config/erlang/.erlang.cookie"))
    assert cookie_paths({"HOME": "/h", "XDG_CONFIG_HOME": ""}) == cookie_paths({"HOME": "/h"})
    assert cookie_paths({"HOME": "/h", "XDG_CONFIG_HOME": "/c"}) == (home, Path("/c/erlang/.erlang.cookie"))
    assert cookie_paths({"XDG_CONFIG_HOME": "/c"}) == (None, Path("/c/erlang/.erlang.cookie"))
    assert cookie_paths({"HOME": ""}) == (None, None)
    monkeypatch.setattr("sys.platform", "darwin")
    expected = Path("/h/Library/Application Support/erlang/.erlang.cookie")
    assert cookie_paths({"HOME": "/h", "XDG_CONFIG_HOME": "/c"}) == (home, expected)
    assert cookie_paths({}) == (None, None)


def test_load_prefers_home_then_configuration_then_creates_in_home(folder: Path) -> None:
    environ = {"HOME": str(folder)}
    put(folder / ".config/erlang/.erlang.cookie", b"CONFIGURED\n")
    assert load_or_create(environ) == Cookie("CONFIGURED")
    assert not (folder / ".erlang.cookie").exists()
    put(folder / ".erlang.cookie", b"HOME\n")
    assert load_or_create(environ) == Cookie("HOME")
    (folder / ".erlang.cookie").unlink()
    (folder / ".config/erlang/.erlang.cookie").unlink()
    made = load_or_create(environ)
    assert read(folder / ".erlang.cookie") == made == load_or_create(environ)


@pytest.mark.usefixtures("hasty")
def test_a_bad_file_in_home_is_an_error_not_a_reason_to_look_further(folder: Path) -> None:
    put(folder / ".erlang.cookie", b"HOME", 0o644)
    put(folder / ".config/erlang/.erlang.cookie", b"CONFIGURED")
    with pytest.raises(CookieError, match="chmod 400"):
        load_or_create({"HOME": str(folder)})


def test_without_home(folder: Path) -> None:
    with pytest.raises(CookieError, match="HOME is not set"):
        load_or_create({})
    (folder / "erlang").mkdir()
    made = load_or_create({"XDG_CONFIG_HOME": str(folder)})
    assert read(folder / "erlang/.erlang.cookie") == made


def test_the_environment_of_this_process(home: Path) -> None:
    assert read(home / ".erlang.cookie") is None
    assert load_or_create() == read(home / ".erlang.cookie")


# --- with real peers --------------------------------------------------------------------------------------------------


@pytest.fixture
def otp_home(otp: Any) -> Iterator[Path]:
    folder = otp.make_directory()
    yield folder
    shutil.rmtree(folder)


def cookie_of_erl(otp: Any, home: Path, *, fails: bool = False) -> str:
    """What `erlang:get_cookie()` says on a node whose HOME that is; it needs no epmd, for it does not listen."""
    program = 'io:format("~ts", [erlang:get_cookie()]), halt().'
    options = ["-name", "cookie@127.0.0.1", "-dist_listen", "false", "-noinput", "-eval", program]
    done = subprocess.run(
        ["env", f"HOME={otp.inside(home)}", *otp.command("erl"), *options],
        env={"PATH": os.environ["PATH"], "ERL_EPMD_PORT": "1", "ERL_CRASH_DUMP_SECONDS": "0"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode != 0) is fails, done.stdout + done.stderr
    return done.stdout


def test_erl_reads_what_we_made(otp: Any, otp_home: Path) -> None:
    made = load_or_create({"HOME": str(otp_home)})
    assert cookie_of_erl(otp, otp_home).encode() == made.value


def test_we_read_what_erl_made(otp: Any, otp_home: Path) -> None:
    made = cookie_of_erl(otp, otp_home)
    assert len(made) == 20
    assert load_or_create({"HOME": str(otp_home)}) == Cookie(made)


@pytest.mark.parametrize("content", [b"ABC\r\n", b"ABC \n", b" A B\n  \n"])
def test_erl_and_we_strip_alike(otp: Any, otp_home: Path, content: bytes) -> None:
    put(otp_home / ".erlang.cookie", content)
    assert load_or_create({"HOME": str(otp_home)}) == Cookie(cookie_of_erl(otp, otp_home))


@pytest.mark.parametrize(("content", "mode"), [(b"ABC", 0o640), (b"A\nB", 0o400), (b"\n", 0o400), (b"", 0o400)])
@pytest.mark.usefixtures("hasty")
def test_erl_and_we_refuse_alike(otp: Any, otp_home: Path, content: bytes, mode: int) -> None:
    put(otp_home / ".erlang.cookie", content, mode)
    cookie_of_erl(otp, otp_home, fails=True)
    with pytest.raises(CookieError):
        load_or_create({"HOME": str(otp_home)})
