"""Closing: by a signal, inside a handler, with handlers that hang, while a call waits."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import pytest
from client_fakes import FakeCluster, cluster, threaded_cluster, until

from rmq_redis import (
    App,
    AsyncPullConsumer,
    AsyncPushConsumer,
    AsyncSimpleConsumer,
    ClientError,
    MessageExt,
    PullConsumer,
    PushConsumer,
)
from rmq_redis.client.core.closing import inside_handler
from rmq_redis.client.core.threads import DaemonThreadExecutor
from rmq_redis.codes import RequestCode

FIRST = "CONSUME_FROM_FIRST_OFFSET"
HANGS_S = 120.0


@pytest.fixture
def fake() -> Iterator[FakeCluster]:
    with threaded_cluster() as running:
        yield running


# --- close inside a handler --------------------------------------------------------------------------------------


def _close_directly(consumer: Any, ended: Any) -> Callable[..., Any]:
    async def handle(message: MessageExt) -> None:
        await consumer.close()
        ended(message)

    return handle


def _close_in_a_child_task(consumer: Any, ended: Any) -> Callable[..., Any]:
    async def handle(message: MessageExt) -> None:
        await asyncio.wait_for(asyncio.gather(consumer.close()), HANGS_S)
        ended(message)

    return handle


def _close_from_a_thread(consumer: Any, ended: Any) -> Callable[..., Any]:
    loop = asyncio.get_running_loop()

    def handle(message: MessageExt) -> None:
        asyncio.run_coroutine_threadsafe(consumer.close(), loop).result(HANGS_S)
        ended(message)

    return handle


@pytest.mark.parametrize("orderly", [False, True])
@pytest.mark.parametrize("make", [_close_directly, _close_in_a_child_task, _close_from_a_thread])
async def test_close_inside_a_handler_returns_before_the_consumer_closes(make: Any, orderly: bool) -> None:
    async with cluster() as fake:
        fake.broker.put("T", 0, *(b"%d" % number for number in range(20)))
        consumer = AsyncPushConsumer(
            "G", config=fake.config(), consume_from_where=FIRST, orderly=orderly, concurrency=1, await_termination_s=60
        )
        running_at_the_end: list[bool] = []

        def ended(_message: MessageExt) -> None:
            running_at_the_end.append("G" in consumer._instance._consumers)

        consumer.subscribe("T", "*", make(consumer, ended))
        await consumer.start()
        async with asyncio.timeout(HANGS_S):
            await consumer._closing.begun.wait()
            await consumer.close()  # waits for the first call's end
        assert running_at_the_end == [True]  # of one message, and the group was left after it
        assert fake.broker.offsets["G", "T", 0] == 1
        assert len(fake.broker.of(RequestCode.UNREGISTER_CLIENT)) == 1


async def test_close_by_a_task_of_a_handler_waits_for_the_end() -> None:
    async with cluster() as fake:
        fake.broker.put("T", 0, b"x")
        consumer = AsyncPushConsumer("G", config=fake.config(), consume_from_where=FIRST)
        go_on, tasks = asyncio.Event(), []
        closed: list[bool] = []

        async def supervise() -> None:
            await go_on.wait()
            await consumer.close()
            closed.append("G" not in consumer._instance._consumers)

        async def handle(_message: MessageExt) -> None:
            tasks.append(asyncio.create_task(supervise()))

        consumer.subscribe("T", "*", handle)
        await consumer.start()
        await until(lambda: tasks and len(consumer.service._idle) == consumer.concurrency)
        go_on.set()
        await asyncio.gather(*tasks)
        assert closed == [True]
        assert not inside_handler([consumer.service])


@pytest.mark.parametrize("plain", [True, False])
def test_handler_can_end_run_forever_of_a_sync_consumer(fake: FakeCluster, plain: bool) -> None:
    fake.broker.put("T", 0, *(b"%d" % number for number in range(5)))
    consumer = PushConsumer(
        "G", fake.namesrv_addr, consume_from_where=FIRST, concurrency=1, await_termination_s=60.0, orderly=True
    )
    seen: list[str] = []

    def handle(message: MessageExt) -> None:
        seen.append(message.text())
        consumer.close()

    async def handle_async(message: MessageExt) -> None:
        handle(message)

    consumer.subscribe("T", "*", handle if plain else handle_async)
    thread = threading.Thread(target=consumer.run_forever, daemon=True)
    thread.start()
    thread.join(HANGS_S)
    assert not thread.is_alive()
    assert seen == ["0"]
    assert fake.broker.offsets["G", "T", 0] == 1


@pytest.mark.parametrize("plain", [True, False])
async def test_handler_can_close_its_app(plain: bool) -> None:
    async with cluster() as fake:
        fake.broker.put("T", 0, b"0", b"1")
        app = App("G", fake.namesrv_addr)
        steps: list[str] = []

        def handle(message: MessageExt) -> None:
            app.wait_for(app.close())
            steps.append(message.text())

        async def handle_async(message: MessageExt) -> None:
            await app.close()
            await asyncio.sleep(0.01)
            steps.append(message.text())

        options: dict[str, Any] = {"consume_from_where": FIRST, "concurrency": 1, "await_termination_s": 60.0}
        app.consumer("T", **options)(handle if plain else handle_async)
        app.on_shutdown(lambda: steps.append("shutdown"))
        async with asyncio.timeout(HANGS_S):
            await app.serve()
        assert steps == ["0", "shutdown"]
        assert fake.broker.offsets["G", "T", 0] == 1


# --- signals -----------------------------------------------------------------------------------------------------

_HANDLE = """
import asyncio, signal, sys, threading, time
from rmq_redis import App, AsyncPushConsumer, PushConsumer, stop_signals
seen = []
def handle(message):
    seen.append(message)
    if message.text() == "hang" and len(seen) == 3:
        print("ready", flush=True)
        time.sleep(600)
options = dict(consume_from_where="CONSUME_FROM_FIRST_OFFSET", await_termination_s=0.2, concurrency=1)
"""
_PROGRAMS = {
    "sync": """
consumer = PushConsumer("G", sys.argv[1], **options)
consumer.subscribe("T", "*", handle)
consumer.run_forever()
""",
    "async": """
consumer = AsyncPushConsumer("G", sys.argv[1], **options)
consumer.subscribe("T", "*", handle)
asyncio.run(consumer.run_forever())
""",
    "async orderly, started": """
async def main():
    consumer = AsyncPushConsumer("G", sys.argv[1], orderly=True, **options)
    consumer.subscribe("T", "*", handle)
    async with consumer:
        await consumer.run_forever()
asyncio.run(main())
""",
    "app": """
app = App("G", sys.argv[1])
app.consumer("T", **options)(handle)
app.run()
""",
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("program", _PROGRAMS)
def test_signal_drains_and_a_stuck_handler_does_not_block_exit(
    fake: FakeCluster, program: str, number: signal.Signals
) -> None:
    fake.broker.put("T", 0, b"0", b"1", b"hang")
    text = _HANDLE + _PROGRAMS[program] + 'print("closed", flush=True)\n'
    with subprocess.Popen(
        [sys.executable, "-c", text, fake.namesrv_addr], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate(timeout=300)
        process.send_signal(number)
        out, errors = process.communicate(timeout=300)
    assert (out, process.returncode) == ("closed\n", 0), errors
    assert fake.broker.offsets["G", "T", 0] == 2  # what was handled is not handled again
    assert fake.broker.of(RequestCode.UNREGISTER_CLIENT)


@pytest.mark.parametrize("program", ["sync", "async", "app"])
def test_second_signal_ends_the_process_at_once(fake: FakeCluster, program: str) -> None:
    fake.broker.put("T", 0, b"0", b"1", b"hang")
    text = _HANDLE.replace("await_termination_s=0.2", "await_termination_s=600.0") + _PROGRAMS[program]
    with subprocess.Popen(
        [sys.executable, "-c", text, fake.namesrv_addr], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate(timeout=300)
        while process.poll() is None:  # how soon it sees the first cannot be told from outside
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
    assert process.returncode == 130


def test_signal_handled_by_the_program_is_left_to_it(fake: FakeCluster) -> None:
    program = """
import os, signal, sys
from rmq_redis import PushConsumer
consumer = PushConsumer("G", sys.argv[1], consume_from_where="CONSUME_FROM_FIRST_OFFSET")
consumer.subscribe("T", "*", lambda message: os.kill(os.getpid(), signal.SIGTERM))
def terminate(*_):
    print("mine", flush=True)
    consumer.close()
signal.signal(signal.SIGTERM, terminate)
consumer.run_forever()
print("closed", signal.getsignal(signal.SIGTERM) is terminate, flush=True)
"""
    fake.broker.put("T", 0, b"x")
    result = subprocess.run(
        [sys.executable, "-c", program, fake.namesrv_addr], capture_output=True, text=True, timeout=300, check=False
    )
    assert (result.stdout, result.returncode) == ("mine\nclosed True\n", 0), result.stderr


async def test_close_ends_run_forever_outside_the_main_thread() -> None:
    async with cluster() as fake:
        fake.broker.put("T", 0, b"x")
        consumer = AsyncPushConsumer("G", config=fake.config(), consume_from_where=FIRST)

        async def handle(_message: MessageExt) -> None:
            await consumer.close()

        consumer.subscribe("T", "*", handle)
        await asyncio.wait_for(asyncio.to_thread(asyncio.run, consumer.run_forever()), HANGS_S)
        assert fake.broker.offsets["G", "T", 0] == 1


@pytest.mark.parametrize("message_model", ["CLUSTERING", "BROADCASTING"])
async def test_replier_can_close_its_consumer(message_model: str, tmp_path: Path) -> None:
    async with cluster() as fake:
        fake.broker.put("T", 0, b"x", b"y")
        consumer = AsyncPushConsumer(
            "G",
            config=fake.config(offset_store_path=str(tmp_path)),
            consume_from_where=FIRST,
            concurrency=1,
            message_model=message_model,
            await_termination_s=60.0,
        )
        loop, seen = asyncio.get_running_loop(), []

        @consumer.replier("T")
        def reply(message: MessageExt) -> None:
            seen.append(message.text())
            asyncio.run_coroutine_threadsafe(consumer.close(), loop).result(HANGS_S)

        await asyncio.wait_for(consumer.run_forever(), HANGS_S)
        assert seen == ["x"]


def test_program_that_prints_in_handlers_exits_without_close(fake: FakeCluster) -> None:
    fake.broker.put("T", 0, *(b"%d" % number for number in range(500)))
    program = """
import sys, threading
from rmq_redis import PushConsumer
consumer = PushConsumer("G", sys.argv[1], consume_from_where="CONSUME_FROM_FIRST_OFFSET")
began = threading.Event()
def handle(message):
    began.set()
    for _ in range(100):
        print("x" * 1000, flush=True)
consumer.subscribe("T", "*", handle)
consumer.start()
began.wait(60)
"""
    result = subprocess.run(
        [sys.executable, "-c", program, fake.namesrv_addr], capture_output=True, text=True, timeout=300, check=False
    )
    assert (result.stderr, result.returncode) == ("", 0)


# --- close while a call waits ------------------------------------------------------------------------------------


async def test_close_ends_a_poll_and_an_iteration() -> None:
    async with cluster() as fake:
        for iterate in (False, True):
            consumer = AsyncPullConsumer("G", config=fake.config())
            await consumer.start()
            consumer.assign([fake.queue(0), fake.queue(1)])

            async def read(iterate: bool = iterate, consumer: AsyncPullConsumer = consumer) -> None:
                if not iterate:
                    await consumer.poll(HANGS_S)
                async for _ in consumer:
                    pass

            task = asyncio.create_task(read())
            await until(lambda consumer=consumer: consumer._polls)
            await consumer.close()
            async with asyncio.timeout(HANGS_S):
                (outcome,) = await asyncio.gather(task, return_exceptions=True)
            assert outcome is None if iterate else isinstance(outcome, ClientError) and "closed" in str(outcome)


def test_close_ends_the_iteration_of_another_thread(fake: FakeCluster) -> None:
    consumer = PullConsumer("G", fake.namesrv_addr)
    consumer.start()
    consumer.assign([fake.queue(0)])
    fake.broker.put("T", 0, b"x")
    first = threading.Event()

    def read() -> None:
        for _ in consumer:
            first.set()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    assert first.wait(HANGS_S)
    consumer.close()
    thread.join(HANGS_S)
    assert not thread.is_alive()


async def test_close_ends_a_receive_with_a_client_error() -> None:
    async with cluster("broker-a", "broker-b") as fake:
        consumer = AsyncSimpleConsumer("G", config=fake.config())
        consumer.subscribe("T")
        await consumer.start()
        receiving = asyncio.create_task(consumer.receive())
        await until(lambda: all(broker.of(RequestCode.NOTIFICATION) for broker in fake.brokers))
        await consumer.close()
        with pytest.raises(ClientError, match="closed"):
            await receiving


async def test_closed_client_cannot_be_started() -> None:
    consumer = AsyncPullConsumer("G")
    await consumer.close()
    with pytest.raises(ClientError, match="closed"):
        await consumer.start()


# --- threads of handlers -----------------------------------------------------------------------------------------


def test_executor_starts_threads_on_demand_and_reuses_them() -> None:
    executor = DaemonThreadExecutor(2, "test")
    go_on = threading.Event()
    try:
        assert [executor.submit(str, number).result(HANGS_S) for number in range(5)] == list("01234")
        assert len(executor._threads) <= 2
        waiting = [executor.submit(go_on.wait, HANGS_S) for _ in range(3)]
        assert len(executor._threads) == 2
        assert all(thread.daemon for thread in executor._threads)
        with pytest.raises(ZeroDivisionError):
            _after(go_on, executor.submit(lambda: 1 / 0)).result(HANGS_S)
        assert all(future.result(HANGS_S) for future in waiting)
    finally:
        executor.shutdown()
    assert not any(thread.is_alive() for thread in executor._threads)
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.submit(str)


def test_executor_cancels_calls_that_have_not_started() -> None:
    executor = DaemonThreadExecutor(1, "test")
    began, go_on = threading.Event(), threading.Event()

    def wait() -> bool:
        began.set()
        return go_on.wait(HANGS_S)

    running, queued = executor.submit(wait), executor.submit(str)
    assert began.wait(HANGS_S)
    executor.shutdown(wait=False, cancel_futures=True)
    go_on.set()
    assert running.result(HANGS_S)
    with pytest.raises(CancelledError):
        queued.result(HANGS_S)


def test_threads_of_an_unreferenced_executor_end() -> None:
    executor = DaemonThreadExecutor(1, "test")
    executor.submit(str).result(HANGS_S)
    (thread,) = executor._threads
    del executor
    thread.join(HANGS_S)
    assert not thread.is_alive()


def _after(event: threading.Event, future: Future[Any]) -> Future[Any]:
    event.set()
    return future
