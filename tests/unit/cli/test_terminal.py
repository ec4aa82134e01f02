"""Text of all commands in every encoding, with undecodable arguments, closed streams and control characters."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from cli_commands import commands_of

from rmq_redis import cli
from rmq_redis.cli import create_app
from rmq_redis.cli.output import note, print_json, print_table, say
from rmq_redis.cli.terminal import argument_bytes, decode_arguments, is_text, visible, visible_lines

app = create_app()

PATHS = sorted(path for path, _ in commands_of(typer.main.get_command(app)))
ENCODINGS = ["ascii", "latin-1", "utf-8"]


class Screen(io.TextIOWrapper):
    """A terminal of an encoding, which remembers the bytes it was given."""

    def __init__(self, encoding: str, *, terminal: bool = True) -> None:
        self.file = io.BytesIO()
        super().__init__(self.file, encoding=encoding, errors="backslashreplace")
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    @property
    def shown(self) -> bytes:
        self.flush()
        return self.file.getvalue()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_help_of_every_command_is_shown_in_every_encoding(
    path: tuple[str, ...], encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen(encoding, terminal=False)
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "argv", ["rmq-redis", *path, "--help"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert b"Usage:" in screen.shown


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_undecodable_arguments_are_refused_by_every_command(
    path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen("ascii", terminal=False)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(sys, "argv", ["rmq-redis", *path, "--no-such-option", "t\udcff\udcfe"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert b"internal error" not in screen.shown


@pytest.mark.parametrize(
    "arguments",
    [
        ["send", "t\udcff", "x"],
        ["send", "t", "x", "--tags", "\udcff"],
        ["send", "t", "x", "--keys", "\udcff"],
        ["send", "t", "x", "--sharding-key", "\udcff"],
        ["send", "t", "x", "--property", "a=\udcff"],
        ["consume", "\udcff"],
        ["consume", "t", "--filter", "a = '\udcff'"],
        ["topic", "create", "\udcff"],
        ["group", "delete", "\udcff", "--yes"],
        ["offset", "show", "g", "--topic", "\udcff"],
        ["message", "query", "t", "--key", "\udcff"],
        ["message", "show", "\udcff"],
        ["dlq", "resend", "g", "--msg-id", "\udcff"],
        ["broker", "--name", "\udcff"],
        ["broker", "drain", "\udcff"],
        ["namesrv", "--registry", "redis://\udcff"],
        ["topic", "list", "--namesrv", "\udcff:1"],
        ["plugin", "new", "\udcff"],
        ["run", "\udcff:app"],
        ["--plugin", "\udcff.py", "topic", "list"],
    ],
    ids=lambda arguments: " ".join(arguments[:3]).encode(errors="replace").decode(),
)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_non_utf_8_argument_is_a_usage_error(
    arguments: list[str], encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen(encoding, terminal=False)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(sys, "argv", ["rmq-redis", *arguments])
    monkeypatch.setenv("RMQ_REDIS_PLUGIN", "")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert b"internal error" not in screen.shown
    assert screen.shown


def test_arguments_are_utf_8_if_the_locale_cannot_decode_them() -> None:
    in_ascii = "grüße".encode().decode("ascii", "surrogateescape")
    assert decode_arguments(["send", in_ascii, "\udcff", "x"]) == ["send", "grüße", "\udcff", "x"]
    assert argument_bytes("grüße") == "grüße".encode()
    assert argument_bytes("a\udcff") == b"a\xff"
    assert not is_text("a\udcff")


def test_control_characters_are_escaped() -> None:
    hostile = "a\x1b[31mb\x07\x9b2J\r\n\tc\u202ed"
    assert visible(hostile) == "a\\x1b[31mb\\x07\\x9b2J\\r\\n\\tc\\u202ed"
    assert visible_lines(hostile) == "a\\x1b[31mb\\x07\\x9b2J\\x0d\n\tc\\u202ed".replace("\\x0d", "\\r")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_terminal_gets_no_control_characters_from_messages(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    out, err = Screen(encoding), Screen(encoding)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    hostile = "漢 é \x1b]0;title\x07 \x9b2J \udcff"
    say(hostile)
    note(hostile)
    print_json({"name": hostile})
    print_table(["<name"], [(hostile,)])
    for shown in (out.shown, err.shown):
        assert not {0x1B, 0x07} & set(shown)
        assert "\x9b" not in shown.decode(encoding)
    (line,) = [line for line in out.shown.decode(encoding).splitlines() if line.startswith("{")]
    assert "title" in json.loads(line.replace("\\x", "\\\\x"))["name"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_json_is_valid_in_every_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Screen(encoding, terminal=False)
    monkeypatch.setattr(sys, "stdout", out)
    print_json({"body": "grüße 漢 \x1b[0m"})
    assert json.loads(out.shown.decode(encoding)) == {"body": "grüße 漢 \x1b[0m"}


def test_table_too_wide_for_the_terminal_is_shown_as_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "25")  # without both, rich takes 80 columns for a dumb terminal
    monkeypatch.setenv("TERM", "dumb")
    out = Screen("utf-8")
    monkeypatch.setattr(sys, "stdout", out)
    long_name = "a-topic-with-a-name-that-is-rather-long"
    print_table(["<topic", "<broker", "lag"], [(long_name, "broker-a", "1"), (long_name, "broker-b", "")])
    assert out.shown.decode() == (
        f"topic   {long_name}\nbroker  broker-a\nlag     1\n\ntopic   {long_name}\nbroker  broker-b\n"
    )


COMMAND_LINES = ["topic list", "send t x", "send t", "consume t --max 1", "plugin list", "--help"]

FORKS = """
import gc, json, os, signal, sys
try:
    import uvloop
except ImportError:  # not everywhere
    pass
from rmq_redis import *
from rmq_redis.cli import create_app, main

for needed in (["plugin", "list"], ["--help"]):  # these import the rest
    create_app()(needed, standalone_mode=False)
if hasattr(gc, "freeze"):
    gc.freeze()  # a child would copy all of it when it ends
errors, lines, closings = sys.argv[1], *map(json.loads, sys.argv[2:])
for line in lines:
    children = {}
    for closed in closings:
        case = f"{line}, closed: {closed}"
        pid = os.fork()
        if not pid:
            signal.alarm(200)
            sys.argv[1:] = line.split()
            os.dup2(os.open(f"{errors}/{case}", os.O_WRONLY | os.O_CREAT), sys.stderr.fileno())
            for number in closed:  # as Python starts with a closed stream
                os.close(number)
                name = ("stdin", "stdout", "stderr")[number]
                setattr(sys, name, None)
                setattr(sys, f"__{name}__", None)
            main()
        children[pid] = case
    for pid, case in children.items():
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps([case, code]), file=sys.__stdout__, flush=True)
"""
"""Runs command lines with closed streams in forks of one process, which has imported what they need."""


def environ_without_cluster() -> dict[str, str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RMQ_REDIS_")}
    return environ | {"RMQ_REDIS_NAMESRV_ADDR": "127.0.0.1:1"}


def check_not_aborted(code: int, error: bytes) -> None:
    assert code in (0, 1, 2), error
    assert b"internal error" not in error
    assert b"Traceback" not in error
    assert b"Assertion" not in error


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_closing_all_streams_does_not_abort_a_command(line: str, tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", f"exec {sys.executable} -m rmq_redis {line} <&- >&- 2>&-"],
        env=environ_without_cluster(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=300,
        cwd=tmp_path,
        check=False,
    )
    check_not_aborted(done.returncode, done.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_closing_some_streams_does_not_abort_a_command(tmp_path: Path) -> None:
    closings = [[0], [1], [2], [0, 1], [1, 2]]
    errors, work = tmp_path / "errors", tmp_path / "work"
    errors.mkdir()
    work.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", FORKS, str(errors), json.dumps(COMMAND_LINES), json.dumps(closings)],
        env=environ_without_cluster(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=300,
        cwd=work,
        check=True,
    )
    codes = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"[")]
    assert len(codes) == len(COMMAND_LINES) * len(closings)
    for case, code in codes:
        check_not_aborted(code, case.encode() + b": " + (errors / case).read_bytes())
    assert list(work.iterdir()) == []


@pytest.mark.parametrize(
    "variables", [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}]
)
def test_no_locale_causes_an_internal_error(variables: dict[str, str]) -> None:
    for command in (
        ["--help"],
        ["send", "t", "grüße"],
        ["simulate", "--duration", "1", "--rate", "10", "--producers", "1"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "rmq_redis", *command],
            env=os.environ | {"RMQ_REDIS_NAMESRV_ADDR": "127.0.0.1:1", "PYTHONCOERCECLOCALE": "0"} | variables,
            capture_output=True,
            timeout=300,
            check=False,
        )
        assert b"internal error" not in done.stderr, done.stderr
        assert done.returncode == (1 if command[0] == "send" else 0), done.stderr
