"""An error is one line with what to do next, and exit code 1, or 2 for wrong input; never a traceback."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rmq_redis import cli
from rmq_redis.cli.output import fail, number, what_next
from rmq_redis.errors import (
    ConfigError,
    RemotingConnectError,
    RouteNotFoundError,
    ServiceNotAvailableError,
    StoreError,
    SystemBusyError,
)
from rmq_redis.plugins import installed_plugins
from rmq_redis.runtime import setup_logging
from rmq_redis.store.embedded import free_port

Run = Callable[..., str]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process; the line that it fails with."""

    def run(*arguments: str, code: int = 1) -> str:
        monkeypatch.setattr(sys, "argv", ["rmq-redis", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == code
        out, error = capsys.readouterr()
        assert out == ""
        [line] = error.splitlines()
        assert line.startswith("error: ")
        return line

    return run


@pytest.mark.parametrize(
    "arguments", [["topic", "list"], ["send", "t", "x"], ["consume", "t"], ["topic", "delete", "t", "--yes"]]
)
def test_missing_namesrv_error_tells_how_to_start_one(failing: Run, arguments: list[str]) -> None:
    line = failing(*arguments, "--namesrv", f"127.0.0.1:{free_port()}")
    assert "no NameServer answers" in line
    assert "`rmq-redis up`" in line
    assert "RMQ_REDIS_NAMESRV_ADDR" in line


def test_missing_redis_option_error_tells_what_to_give(failing: Run) -> None:
    assert "--store redis://host:port/db (or RMQ_REDIS_STORE)" in failing("broker", code=2)
    assert "--registry redis://host:port/db (or RMQ_REDIS_REGISTRY)" in failing("namesrv", code=2)


def test_invalid_addresses_and_names_are_refused(failing: Run) -> None:
    assert "is not host:port" in failing("topic", "list", "-n", "nowhere:port", code=2)
    assert "log level 'loud' is unknown" in failing("topic", "list", "--log-level", "loud", code=2)
    assert "may only have letters" in failing("broker", "--store", "redis://127.0.0.1:1/0", "--name", "a b", code=2)
    assert "No such file or directory: /no/such" in failing("send", "t", "--file", "/no/such", code=2)


def test_data_directory_that_cannot_be_created_is_an_error(
    failing: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("builtins.print", lambda *args, file=None, **more: file and file.write(f"{args[0]}\n"))
    line = failing(
        "up", "--data-dir", str(tmp_path / "file" / "below"), "--namesrv-port", "0", "--broker-port", "0", code=2
    )
    assert "cannot be used" in line


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (ConfigError("x"), ""),
        (RemotingConnectError("no NameServer answers (...)"), "rmq-redis up"),
        (RemotingConnectError("cannot connect to 10.0.0.1:10911"), "is that server running"),
        (RouteNotFoundError("no NameServer knows a route of topic 'x'"), "rmq-redis topic create"),
        (RouteNotFoundError("no broker 'x'; there are: broker-a"), ""),
        (StoreError("x"), "is Redis running there"),
        (StoreError("the store at redis://h refused the connection: WRONGPASS"), "check user, password"),
        (ServiceNotAvailableError("x"), "try again in a moment"),
        (SystemBusyError("x"), "try again"),
    ],
)
def test_errors_tell_what_to_do_next(error: Exception, hint: str) -> None:
    assert hint in what_next(error)
    assert bool(hint) == bool(what_next(error))


def test_bug_is_reported_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging("error")
    with pytest.raises(SystemExit):
        fail(ZeroDivisionError("by\nzero"))
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: internal error: ZeroDivisionError: by zero (please report it")


def test_plugin_that_cannot_be_loaded_is_an_error(failing: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMQ_REDIS_PLUGIN", "")
    assert "--plugin needs a value: MODULE" in failing("topic", "list", "--plugin", code=2)
    assert "plugin no_such_module cannot be loaded" in failing("--plugin", "no_such_module", "topic", "list", code=2)
    installed_plugins.cache_clear()


def test_invalid_port_and_port_in_use_are_errors(failing: Run) -> None:
    registry = ["namesrv", "--registry", f"redis://127.0.0.1:{free_port()}/0", "--log-level", "error"]
    assert "port 99999 is not between 0 and 65535" in failing(*registry, "--port", "99999", code=2)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        line = failing(*registry, "--host", "127.0.0.1", "--port", port, code=2)
    assert line == f"error: cannot listen on 127.0.0.1:{port}: it is in use; choose another port or stop what uses it"
    assert "this machine has no such address" in failing(*registry, "--host", "203.0.113.1", "--port", "0", code=2)
    assert failing("namesrv", "--registry", "nowhere", code=2).startswith(
        "error: registry: 'nowhere' is not a Redis URL: "
    )


def test_flags_are_shown_without_a_value_in_the_help(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["rmq-redis", "consume", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    for line in capsys.readouterr().out.splitlines():
        assert not ("--json" in line or "--verbose" in line) or "bool" not in line.lower()


def test_error_line_includes_the_notes(capsys: pytest.CaptureFixture[str]) -> None:
    error = ConfigError("broken")
    error.add_note("line 3")
    with pytest.raises(SystemExit):
        fail(error)
    assert capsys.readouterr().err == "error: broken; line 3\n"


def test_numbers_are_shown_with_few_digits() -> None:
    assert [number(value) for value in (12345.6, 12.34, 0.4711)] == ["12,346", "12.3", "0.47"]
