"""The SDK and the client commands on a system that has less than Linux: what Windows lacks is hidden."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rmq_redis import testing

HIDE = """
import os, signal, sys
for name in ("fcntl", "resource", "uvloop", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("SIGHUP", "SIGUSR1", "SIGALRM", "SIGQUIT"):
    delattr(signal, name)
for name in ("fork", "register_at_fork", "getuid", "geteuid", "O_CLOEXEC", "getpgid", "killpg"):
    delattr(os, name)
import asyncio, socket
del socket.TCP_USER_TIMEOUT
def missing(*arguments):
    raise NotImplementedError
for name in ("add_signal_handler", "remove_signal_handler"):
    setattr(asyncio.SelectorEventLoop, name, missing)
"""

SDK = """
import threading, time
from rmq_redis import *
addr, directory = sys.argv[1:]
options = dict(consume_from_where="CONSUME_FROM_FIRST_OFFSET")
with Producer("P", addr) as producer, Admin(addr) as admin:
    admin.create_topic("T")
    for number in range(5):
        producer.send(Message("T", f"{number}"))
    print("topic", "T" in admin.topic_list())
with SimpleConsumer("S", addr) as simple:
    simple.subscribe("T")
    message, *_ = simple.receive(await_duration_s=20)
    simple.ack(message)
    print("simple", message.topic)
with PullConsumer("L", addr) as pull:
    pull.assign(pull.fetch_subscribe_message_queues("T"))
    print("pull", bool(pull.poll(20)))
for model in ("CLUSTERING", "BROADCASTING"):
    got = []
    consumer = PushConsumer(model, addr, message_model=model, offset_store_path=directory, **options)
    def handle(message):
        got.append(message)
        if len(got) == 5:
            signal.raise_signal(signal.SIGINT) if threading.current_thread() is threading.main_thread() else (
                os.kill(os.getpid(), signal.SIGTERM))
    consumer.subscribe("T", "*", handle)
    consumer.run_forever()
    print(model, len(got))
async def main():
    consumer = AsyncPushConsumer("A", addr, **options)
    got = []
    async def handle(message):
        got.append(message)
        if len(got) == 5:
            os.kill(os.getpid(), signal.SIGINT)
    consumer.subscribe("T", "*", handle)
    await consumer.run_forever()
    print("async", len(got))
asyncio.run(main())
app = App("app", addr)
@app.on_startup
def stop():
    os.kill(os.getpid(), signal.SIGTERM)
app.run()
print("app")
"""

CLI = """
from rmq_redis.cli import main
main()
"""


@pytest.fixture
async def namesrv_addr() -> AsyncIterator[str]:
    async with testing.running_cluster() as address:
        yield address


async def run(program: str, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", HIDE + program, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        input=stdin,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("RMQ_REDIS_")},
    )


async def test_sdk_works_on_a_non_posix_platform(namesrv_addr: str, tmp_path: Path) -> None:
    result = await run(SDK, namesrv_addr, str(tmp_path))
    lines = [line for line in result.stderr.splitlines() if "no file locks" not in line]
    assert (lines, result.returncode) == ([], 0), result.stdout
    assert result.stdout.splitlines() == [
        "topic True",
        "simple T",
        "pull True",
        "CLUSTERING 5",
        "BROADCASTING 5",
        "async 5",
        "app",
    ]
    assert [entry.name for entry in os.scandir(tmp_path)] == ["127.0.0.1@DEFAULT"]


async def test_every_module_of_sdk_and_cli_can_be_imported() -> None:
    result = await run(
        """
import importlib, pkgutil, rmq_redis
for package in ("client", "remoting", "protocol", "cli", "plugins", "idempotent", "testing", "runtime"):
    module = importlib.import_module("rmq_redis." + package)
    for found in pkgutil.walk_packages(getattr(module, "__path__", []), module.__name__ + "."):
        importlib.import_module(found.name)
for name in rmq_redis.__all__:
    getattr(rmq_redis, name)
"""
    )
    assert (result.stderr, result.returncode) == ("", 0)


async def test_client_commands_work_on_a_non_posix_platform(namesrv_addr: str) -> None:
    async def cli(*arguments: str, stdin: str | None = None) -> str:
        result = await run(CLI, *arguments, "--namesrv", namesrv_addr, stdin=stdin)
        assert (result.stderr, result.returncode) == ("", 0), arguments
        return result.stdout

    assert "broker-a queue" in await cli("send", "T", "one")
    assert await cli("send", "T", "--file", "-", stdin="two\nthree\n")
    assert sorted((await cli("consume", "T", "--max", "3")).split()) == ["one", "three", "two"]
    assert "T" in await cli("topic", "list")
    assert await cli("topic", "route", "T")


@pytest.mark.parametrize("command", ["namesrv", "broker", "up", "demo", "bench", "chaos"])
async def test_server_command_error_names_the_required_platform(command: str) -> None:
    result = await run(CLI, command)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: `rmq-redis {command}` needs a POSIX system (Linux, macOS)")
    assert len(result.stderr.splitlines()) == 1
