"""Fixtures of all tests: Redis-compatible servers, one per session, and a key prefix per test."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import os
import re
import shutil
import signal
import subprocess
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from rmq_redis.errors import ConfigError
from rmq_redis.store.embedded import EmbeddedServer
from rmq_redis.testing import fake_redis

try:
    import uvloop
except ImportError:  # pragma: no cover
    uvloop = None  # type: ignore[assignment]

pytest.register_assert_rewrite("helpers")

# Timing is never asserted: a slow machine is no failure.
settings.register_profile(
    "rmq", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("rmq")

IN_CI = bool(os.environ.get("CI"))
ON_UVLOOP = re.compile(r"unit/(remoting|store|broker)/|integration/test_(store|broker)_")
TEST_TIMEOUT_S = 600.0


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what it runs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)  # else what the tests start would ignore it, too
    # What a failed test leaves open: as an error, this warning keeps uvloop's close() from ever ending.
    config.addinivalue_line("filterwarnings", r"ignore:unclosed resource <.*(Transport|Server):ResourceWarning")


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Sockets are tried on both event loops, brokers and stores on the one of production."""
    if uvloop is None or not _is_on_uvloop(item):
        return {"asyncio": asyncio.new_event_loop}
    if "unit/remoting/" in item.path.as_posix():
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"uvloop": uvloop.new_event_loop}


def _is_on_uvloop(item: pytest.Item) -> bool:
    return ON_UVLOOP.search(item.path.as_posix()) is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that hangs on uvloop must fail: the signal of pytest-timeout does not get through to it."""
    for item in items:
        if not isinstance(item, pytest.Function) or not _is_on_uvloop(item):
            continue
        if inspect.iscoroutinefunction(item.obj) and not hasattr(item.obj, "hypothesis"):
            item.obj = _bounded(item.obj)


def _bounded(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def bounded(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(TEST_TIMEOUT_S):
            await test(*args, **kwargs)

    return bounded


@pytest.fixture(scope="session")
def embedded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """The embedded Valkey, one for the session. Tests keep apart by ``key_prefix``."""
    server = EmbeddedServer(tmp_path_factory.mktemp("valkey"), settings={"appendonly": "no"})
    try:
        server.start()
    except ConfigError as error:
        if IN_CI:
            pytest.fail(str(error))
        pytest.skip(str(error))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def fakeredis_url() -> Iterator[str]:
    """fakeredis behind a TCP port."""
    with fake_redis() as url:
        yield url


@pytest.fixture(autouse=True)
def _local_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What members of broadcasting groups remember goes to a directory of the test, not to the home of the person."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.getbasetemp() / f"data-{uuid.uuid4().hex}"))


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """A command that a test runs in this process sets the log level: the next test must not inherit it."""
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


def system_redis_binary() -> Path:
    """redis-server on PATH, 7.0 or newer; else the test is skipped and says why."""
    path = shutil.which("redis-server")
    if path is None:
        pytest.skip("no redis-server on PATH")
    text = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"v=(\d+)\.(\d+)", text)
    if version is None or (int(version[1]), int(version[2])) < (7, 0):
        pytest.skip(f"redis-server on PATH is not 7.0 or newer: {text.strip()}")
    return Path(path)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """The system's own redis-server."""
    binary = system_redis_binary()
    with EmbeddedServer(tmp_path_factory.mktemp("redis"), binary=binary, settings={"appendonly": "no"}) as server:
        yield server


@pytest.fixture(scope="session")
def server_without_functions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """The embedded Valkey without the FUNCTION command: the store takes its EVAL path."""
    settings = {"appendonly": "no", "rename-command FUNCTION": "gone"}
    with EmbeddedServer(tmp_path_factory.mktemp("valkey-eval"), settings=settings) as server:
        yield server


@pytest.fixture(params=["fakeredis", "valkey", "eval", "redis"])
def store_url(request: pytest.FixtureRequest) -> str:
    """Redis URL of each kind of server in turn."""
    if request.param == "fakeredis":
        url: str = request.getfixturevalue("fakeredis_url")
        return url
    name = {"valkey": "embedded_server", "eval": "server_without_functions", "redis": "redis_server"}[request.param]
    server: EmbeddedServer = request.getfixturevalue(name)
    return server.url


@pytest.fixture
def key_prefix() -> str:
    """First part of all keys of one test, so that tests share a server without seeing each other."""
    return f"t{uuid.uuid4().hex[:12]}"
