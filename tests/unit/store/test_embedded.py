"""The embedded server: start, stop, kill, the same data afterwards."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import redis as redis_py

from rmq_redis.errors import ConfigError, StoreError
from rmq_redis.store.embedded import EmbeddedServer, find_server_binary


def test_restart_in_same_directory_keeps_data_and_port(tmp_path: Path, embedded_server: EmbeddedServer) -> None:
    server = EmbeddedServer(tmp_path / "data", settings={"appendfsync": "always"})
    with server:
        port = server.port
        with redis_py.Redis.from_url(server.url) as redis:
            redis.set("k", "v")
        server.kill()
        assert server.pid == 0
        server.start()
        assert server.port == port
        with redis_py.Redis.from_url(server.url) as redis:
            assert redis.get("k") == b"v"
        pid = server.pid
        assert pid > 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    server.stop()  # a second time is no error


def test_two_servers_have_two_ports(tmp_path: Path, embedded_server: EmbeddedServer) -> None:
    with EmbeddedServer(tmp_path / "a") as a:
        assert a.port not in (0, embedded_server.port)


def test_server_start_failure_is_a_store_error_with_its_log(tmp_path: Path, embedded_server: EmbeddedServer) -> None:
    (tmp_path / "server.log").write_text("of an earlier run\n")
    server = EmbeddedServer(tmp_path, port=embedded_server.port)
    with pytest.raises(StoreError, match=r"(?s)did not start on port \d+; the end of its log:\n.*listen") as caught:
        server.start()
    assert "earlier run" not in str(caught.value)
    assert server.pid == 0


def test_missing_server_binary_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMQ_REDIS_SERVER_BINARY", "/nonexistent/redis")
    with pytest.raises(ConfigError, match="RMQ_REDIS_SERVER_BINARY"):
        find_server_binary()


def test_a_named_binary_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMQ_REDIS_SERVER_BINARY", "/bin/sh")
    assert find_server_binary() == Path("/bin/sh")
