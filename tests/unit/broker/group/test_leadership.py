"""Which broker is the master: takeovers that end early, at duties and a lease that only record what is called."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from rmq_redis.broker.group.duties import Duties
from rmq_redis.broker.group.leadership import Leadership
from rmq_redis.broker.office import Office, State
from rmq_redis.config import BrokerConfig
from rmq_redis.errors import StoreFencedError
from rmq_redis.store.keys import GroupKeys

LONG_S = 3600.0


class Lease:
    """A free lease. Its release takes ``release_s`` seconds."""

    address = "127.0.0.1:10911"

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.release_s = 0.0

    async def take(self) -> int:
        self.calls.append("take")
        return 7

    async def renew(self) -> None:
        self.calls.append("renew")

    async def release(self) -> None:
        await asyncio.sleep(self.release_s)
        self.calls.append("release")

    async def claim_slave_id(self) -> tuple[int, str, int]:
        return 1, "", 7


class Group:
    """A leadership over fakes."""

    def __init__(self, promote: Callable[[], Awaitable[None]]) -> None:
        config = BrokerConfig(broker_name="broker-a", store="redis://localhost", broker_id=0, lease_s=LONG_S)
        self.office = Office(config)
        self.ended_writing = 0
        store = SimpleNamespace(
            keys=GroupKeys("t", "broker-a"),
            begin_writing=lambda epoch: None,
            end_writing=self._end_writing,
            current=lambda: None,
            epoch=7,
        )
        self.demoted = 0
        duties = SimpleNamespace(promote=promote, demote=self._demote, restore=promote)
        state: Any = SimpleNamespace(config=config, office=self.office, queue_store=store, address=Lease.address)
        self.leadership = Leadership(state, duties)  # type: ignore[arg-type]
        self.lease = Lease()
        self.leadership._lease = self.lease  # type: ignore[assignment]

    def _end_writing(self) -> None:
        self.ended_writing += 1

    async def _demote(self) -> None:
        self.demoted += 1


async def test_stop_during_takeover_ends_the_promotion_and_steps_down() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def promote() -> None:
        started.set()
        try:
            await asyncio.sleep(LONG_S)
        finally:
            ended.set()

    group = Group(promote)
    group.lease.release_s = 0.3  # longer than a loop that is closed waits until it cancels again
    group.leadership._looking.start()
    group.leadership._looking.wake()
    await started.wait()
    assert group.office.state is State.TAKING_OVER
    await group.leadership.stop()
    assert ended.is_set()
    assert (group.office.state, group.ended_writing) == (State.SLAVE, 1)


async def test_failed_takeover_releases_the_lease_while_its_epoch_is_set() -> None:
    group: Group

    async def promote() -> None:
        raise KeyError("a bug")

    group = Group(promote)
    with pytest.raises(KeyError):
        await group.leadership._look()
    assert group.lease.calls == ["take", "release"]
    assert (group.office.state, group.ended_writing) == (State.SLAVE, 1)


async def test_step_down_cancels_a_restore_that_was_due() -> None:
    async def restore() -> None:
        raise StoreFencedError("FENCED")

    group = Group(restore)
    group.office.take_over()
    group.leadership._restore_due = True
    await group.leadership._look()
    assert (group.office.state, group.demoted) == (State.SLAVE, 1)
    assert not group.leadership._restore_due


class Loop:
    def __init__(self) -> None:
        self.is_running = True

    def start(self) -> None:
        self.is_running = True

    def cancel(self) -> None:
        self.is_running = False


async def test_promotion_that_raises_keeps_following_the_master() -> None:
    async def read_from(*, replica: bool) -> None:
        raise KeyError("a bug")

    config = BrokerConfig(broker_name="broker-a", store="redis://localhost")
    state: Any = SimpleNamespace(config=config, queue_store=SimpleNamespace(read_from=read_from))
    nothing: Any = None
    duties = Duties(state, nothing, [], nothing, nothing)
    following = Loop()
    duties._following = (following, following)  # type: ignore[assignment]
    with pytest.raises(KeyError):
        await duties.promote()
    assert following.is_running
