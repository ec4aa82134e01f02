"""Handling once, over fakeredis, Valkey and Redis."""

from __future__ import annotations

import asyncio
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from helpers import eventually

from rmq_redis.client.blocking.loop import background_loop
from rmq_redis.errors import ConfigError
from rmq_redis.idempotent import RENEWAL, _Marks, idempotent
from rmq_redis.model import ConsumeResult, MessageExt

HOST = "127.0.0.1:1"


def message(key: str) -> MessageExt:
    return MessageExt("T", b"x", {"UNIQ_KEY": key}, 0, 0, 0, 0, 0, 0, HOST, 0, HOST, 0, 0, 1)


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex


async def outcome_of(handler: Any, *arguments: Any) -> Any:
    """Of a plain handler in a thread, as a consumer calls it, or of a coroutine function."""
    if asyncio.iscoroutinefunction(handler):
        return await handler(*arguments)
    return await asyncio.to_thread(handler, *arguments)


def handler_of(store_url: str, name: str, body: Any, is_async: bool, **options: Any) -> Any:
    if not is_async:
        return idempotent(store_url, name=name, **options)(body)

    async def handle(got: MessageExt) -> Any:
        await asyncio.sleep(0)
        return body(got)

    return idempotent(store_url, name=name, **options)(handle)


both = pytest.mark.parametrize("is_async", [False, True])


@both
async def test_handled_message_is_not_handled_again(store_url: str, name: str, is_async: bool) -> None:
    calls: list[str] = []
    handle = handler_of(store_url, name, lambda got: calls.append(got.msg_id), is_async)
    for key in ("a", "a", "b", "a"):
        assert await outcome_of(handle, message(key)) is None
    assert calls == ["a", "b"]
    with redis.Redis.from_url(store_url) as client:
        assert 0 < client.pttl(f"rmq:idempotent:{name}:a") <= 24 * 3600 * 1000
        assert client.get(f"rmq:idempotent:{name}:a") == b"done"


@both
@pytest.mark.parametrize("failure", [ValueError("no"), False, ConsumeResult.LATER])
async def test_failure_releases_the_key_at_once(store_url: str, name: str, is_async: bool, failure: Any) -> None:
    outcomes = [failure, None]

    def body(_got: MessageExt) -> Any:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    handle = handler_of(store_url, name, body, is_async, lease_s=3600.0)
    if isinstance(failure, Exception):
        with pytest.raises(ValueError, match="no"):
            await outcome_of(handle, message("a"))
    else:
        assert await outcome_of(handle, message("a")) == failure
    assert await outcome_of(handle, message("a")) is None
    assert outcomes == []


async def test_concurrent_duplicate_is_retried_later_or_waits(store_url: str, name: str) -> None:
    began, finish = threading.Event(), threading.Event()
    calls: list[str] = []

    def body(got: MessageExt) -> None:
        calls.append(got.msg_id)
        began.set()
        assert finish.wait(30)

    def never(got: MessageExt) -> None:
        raise AssertionError(got)

    first = idempotent(store_url, name=name)(body)
    impatient = idempotent(store_url, name=name)(never)
    patient = idempotent(store_url, name=name, wait_s=30.0)(never)
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(first, message("a"))
        await asyncio.to_thread(began.wait, 30)
        assert impatient(message("a")) == ConsumeResult.LATER
        waiting = pool.submit(patient, message("a"))
        finish.set()
        assert running.result(30) is None
        assert waiting.result(30) is None
    assert calls == ["a"]


async def test_dead_handler_blocks_only_until_its_lease_expires(store_url: str, name: str) -> None:
    with redis.Redis.from_url(store_url) as client:  # what a process that was killed in its handler leaves
        client.set(f"rmq:idempotent:{name}:a", "token-of-the-dead", px=60_000)
        calls: list[str] = []
        handle = idempotent(store_url, name=name, lease_s=0.2)(lambda got: calls.append(got.msg_id))
        assert handle(message("a")) == ConsumeResult.LATER
        client.pexpire(f"rmq:idempotent:{name}:a", 1)
        await eventually(lambda: handle(message("a")) is None)
        assert calls == ["a"]


async def test_expired_lease_does_not_remove_marks_of_others(
    store_url: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    with redis.Redis.from_url(store_url) as client:

        def slow(_got: MessageExt) -> None:
            client.set(f"rmq:idempotent:{name}:a", "token-of-another", px=60_000)

        def fails(_got: MessageExt) -> bool:
            slow(_got)
            return False

        idempotent(store_url, name=name)(slow)(message("a"))
        assert client.get(f"rmq:idempotent:{name}:a") == b"token-of-another"
        assert "lost its claim, and another call has the key" in caplog.text
        client.delete(f"rmq:idempotent:{name}:a")
        idempotent(store_url, name=name)(fails)(message("a"))
        assert client.get(f"rmq:idempotent:{name}:a") == b"token-of-another"


class Running:
    """A handler at its work until ``end``, under a lease of a minute that is renewed every 10 ms."""

    def __init__(self, store_url: str, name: str, is_async: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("rmq_redis.idempotent._RENEWALS_PER_LEASE", 6000)
        self.key = f"rmq:idempotent:{name}:a"
        self.store = redis.Redis.from_url(store_url)
        self._began, self._finish = threading.Event(), threading.Event()
        self.outcome: Any = None

        def handle(_got: MessageExt) -> Any:
            self._began.set()
            assert self._finish.wait(60)
            return self.outcome

        async def handle_async(_got: MessageExt) -> Any:
            return await asyncio.to_thread(handle, _got)

        self.handle = idempotent(store_url, name=name, lease_s=60.0)(handle_async if is_async else handle)
        self.task = asyncio.ensure_future(outcome_of(self.handle, message("a")))

    async def begins(self) -> None:
        await eventually(self._began.is_set, "the handler is called")
        assert self.store.get(self.key)

    async def is_renewed(self) -> None:
        """Waits until the lease, which the test makes longer, is one of a minute again."""
        self.store.pexpire(self.key, 3_600_000)
        await eventually(lambda: 0 < self.store.pttl(self.key) <= 60_000, "the lease is renewed")

    async def end(self, outcome: Any = None) -> None:
        self.outcome = outcome
        self._finish.set()
        assert await self.task == outcome
        await eventually(self.has_no_renewal, "the renewal ends with its claim")

    @staticmethod
    async def has_no_renewal() -> bool:
        async def count() -> int:
            return sum(task.get_name() == RENEWAL for task in asyncio.all_tasks())

        return not await count() and not await asyncio.wrap_future(background_loop().submit(count()))


@both
async def test_claim_is_renewed_only_while_its_handler_runs(
    store_url: str, name: str, is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Running(store_url, name, is_async, monkeypatch)
    with running.store:
        await running.begins()
        for _ in range(3):
            await running.is_renewed()
            assert await outcome_of(running.handle, message("a")) == ConsumeResult.LATER
        await running.end()
        assert running.store.get(running.key) == b"done"
        assert running.store.pttl(running.key) > 60_000


@both
@pytest.mark.parametrize("failure", [False, ConsumeResult.LATER])
async def test_failure_ends_the_renewal(
    store_url: str, name: str, is_async: bool, failure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Running(store_url, name, is_async, monkeypatch)
    with running.store:
        await running.begins()
        await running.end(failure)
        assert running.store.get(running.key) is None


@both
@pytest.mark.parametrize("other", [b"token-of-another", None])
async def test_lost_claim_is_noticed_while_the_handler_runs(
    store_url: str,
    name: str,
    is_async: bool,
    other: bytes | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("WARNING")
    running = Running(store_url, name, is_async, monkeypatch)
    with running.store:
        await running.begins()
        if other is None:
            running.store.delete(running.key)
        else:
            running.store.set(running.key, other, px=3_600_000)
        await eventually(lambda: "the claim was lost while its handler runs" in caplog.text)
        assert not running.task.done()
        await eventually(running.has_no_renewal)
        await running.end()
        assert running.store.get(running.key) == (other or b"done")
        assert running.store.pttl(running.key) > 60_000  # neither renewed nor taken
        assert ("another call has the key" in caplog.text) is (other is not None)
        assert caplog.text.count("the claim was lost") == 1


@both
async def test_failed_renewal_is_retried(
    store_url: str,
    name: str,
    is_async: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("WARNING")
    running = Running(store_url, name, is_async, monkeypatch)
    with running.store, monkeypatch.context() as away:
        await running.begins()

        async def fail(*_arguments: Any) -> None:
            raise redis.ConnectionError("away")

        away.setattr(_Marks, "call_async", fail)
        await eventually(lambda: "the claim cannot be renewed while its handler runs: away" in caplog.text)
        away.undo()
        await running.is_renewed()
        await running.end()
        assert running.store.get(running.key) == b"done"
        assert "the claim was lost" not in caplog.text


async def test_cancelled_handler_ends_its_renewal(store_url: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    running = Running(store_url, name, True, monkeypatch)
    with running.store:
        await running.begins()
        running.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running.task
        await eventually(running.has_no_renewal)
        assert running.store.get(running.key) is None
        running._finish.set()


async def test_business_key_is_computed_from_the_value(store_url: str, name: str) -> None:
    calls: list[Any] = []

    @idempotent(store_url, name=name, key=lambda value: str(value["id"]))
    async def handle(value: dict[str, int]) -> None:
        calls.append(value)

    await handle({"id": 7})
    await handle({"id": 7, "again": 1})
    assert calls == [{"id": 7}]
    without_key = idempotent(store_url, name=name)(lambda value: None)
    with pytest.raises(ConfigError, match="last argument is a dict, no message: give key="):
        without_key({"id": 7})


async def test_handler_is_not_called_without_redis(name: str, unused_tcp_port: int) -> None:
    handle = idempotent(f"redis://127.0.0.1:{unused_tcp_port}/0", name=name)(lambda got: pytest.fail("called"))
    with pytest.raises(redis.ConnectionError):
        handle(message("a"))


@pytest.mark.parametrize("wrong", [{"ttl_s": 0}, {"lease_s": -1.0}, {"wait_s": -1.0}])
def test_invalid_times_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="idempotent: "):
        idempotent("redis://127.0.0.1:1/0", **wrong)
