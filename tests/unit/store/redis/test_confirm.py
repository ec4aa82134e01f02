"""When what was written counts as confirmed, with a connection and a clock that the test moves."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from rmq_redis.codes import ResponseCode
from rmq_redis.errors import StoreError, StoreUnconfirmedError
from rmq_redis.store.redis.confirm import Confirmation
from rmq_redis.store.redis.connection import Arg, Reply

TWO_SECONDS_MS = 2000
REPLICA = [b"master", 0, [[b"127.0.0.1", b"6380", b"0"]]]
ALONE = [b"master", 0, []]


class Server:
    """Takes commands as a connection does; the test answers them, in their order."""

    closed = False

    def __init__(self) -> None:
        self.asked: deque[tuple[tuple[Arg, ...], Reply]] = deque()

    def call(self, reply: Reply, *command: Arg) -> None:
        self.asked.append((command, reply))

    def answers(self, answer: Any, *expected: Arg) -> None:
        command, reply = self.asked.popleft()
        assert command == expected
        reply(answer)


class Clock:
    seconds = 0.0

    def time(self) -> float:
        return self.seconds


class Asked:
    """A confirmation under test, and what was told to whom: a number, and None, the code or another error."""

    def __init__(self, *, replicas: int = 0, flush: bool = False) -> None:
        self.server = Server()
        self.clock = Clock()
        self.told: list[tuple[int, int | StoreError | None]] = []
        self.confirmation = Confirmation(
            self.server,  # type: ignore[arg-type]
            replicas=replicas,
            flush=flush,
            timeout_ms=TWO_SECONDS_MS,
        )
        self.confirmation._loop = self.clock  # type: ignore[assignment]

    def after(self, number: int) -> None:
        def confirmed(error: StoreError | None) -> None:
            self.told.append((number, error.code if isinstance(error, StoreUnconfirmedError) else error))

        self.confirmation.after(confirmed)


async def test_replicas_are_counted_before_waiting_for_them() -> None:
    asked = Asked(replicas=1)
    asked.after(1)
    asked.server.answers(REPLICA, "ROLE")
    asked.server.answers(1, "WAIT", 1, TWO_SECONDS_MS)
    asked.after(2)
    asked.server.answers(1, "WAIT", 1, TWO_SECONDS_MS)
    assert asked.told == [(1, None), (2, None)]
    assert not asked.server.asked


async def test_missing_replicas_are_reported_without_waiting(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING")
    asked = Asked(replicas=1)
    for number in (1, 2):
        asked.after(number)
        asked.server.answers(ALONE, "ROLE")
    assert asked.told == [(1, ResponseCode.SLAVE_NOT_AVAILABLE), (2, ResponseCode.SLAVE_NOT_AVAILABLE)]
    assert caplog.text.count("0 replicas are connected, 1 are required") == 1
    asked.after(3)
    asked.server.answers(REPLICA, "ROLE")
    asked.server.answers(1, "WAIT", 1, TWO_SECONDS_MS)
    assert asked.told[2:] == [(3, None)]
    assert caplog.text.count("1 replicas are connected, 1 are required") == 1


@pytest.mark.parametrize(
    ("modes", "question", "none", "all_of_them", "code"),
    [
        ({"replicas": 1}, ("WAIT", 1), 0, 1, ResponseCode.FLUSH_SLAVE_TIMEOUT),
        ({"flush": True}, ("WAITAOF", 1, 0), [0, 0], [1, 0], ResponseCode.FLUSH_DISK_TIMEOUT),
    ],
)
async def test_each_confirmation_times_out_by_its_own_deadline(
    modes: dict[str, Any], question: tuple[Arg, ...], none: Any, all_of_them: Any, code: ResponseCode
) -> None:
    """One that came while a question was on its way waits neither twice as long, nor less than its time."""
    asked = Asked(**modes)

    def too_late() -> None:
        asked.server.answers(none, *question, asked_ms)
        if "replicas" in modes:
            asked.server.answers(REPLICA, "ROLE")

    asked.after(1)
    if "replicas" in modes:
        asked.server.answers(REPLICA, "ROLE")
    asked.clock.seconds = 0.5
    asked.after(2)
    asked.clock.seconds = 1.75
    asked.after(3)
    asked.clock.seconds, asked_ms = 2.0, TWO_SECONDS_MS
    too_late()
    assert asked.told == [(1, code)]
    asked.clock.seconds, asked_ms = 2.5, 500
    too_late()
    assert asked.told == [(1, code), (2, code)]
    asked.server.answers(all_of_them, *question, 1250)
    assert asked.told == [(1, code), (2, code), (3, None)]
    assert not asked.server.asked


async def test_unsupported_wait_command_fails_all_confirmations() -> None:
    asked = Asked(flush=True)
    asked.after(1)
    asked.after(2)
    asked.server.answers(StoreError("ERR unknown command"), "WAITAOF", 1, 0, TWO_SECONDS_MS)
    asked.server.answers(StoreError("ERR unknown command"), "WAITAOF", 1, 0, TWO_SECONDS_MS)
    assert asked.told == [(1, ResponseCode.FLUSH_DISK_TIMEOUT), (2, ResponseCode.FLUSH_DISK_TIMEOUT)]


async def test_replica_timeout_takes_precedence_over_disk_timeout() -> None:
    asked = Asked(replicas=1, flush=True)
    asked.after(1)
    asked.server.answers([0, 0], "WAITAOF", 1, 0, TWO_SECONDS_MS)
    asked.server.answers(REPLICA, "ROLE")
    asked.clock.seconds = 2.0
    asked.server.answers(1, "WAIT", 1, TWO_SECONDS_MS)
    assert asked.told == [(1, ResponseCode.FLUSH_DISK_TIMEOUT)]
    asked.after(2)
    asked.clock.seconds = 4.0
    asked.server.answers([0, 0], "WAITAOF", 1, 0, TWO_SECONDS_MS)
    asked.server.answers(0, "WAIT", 1, TWO_SECONDS_MS)
    asked.server.answers(REPLICA, "ROLE")
    assert asked.told[1:] == [(2, ResponseCode.FLUSH_SLAVE_TIMEOUT)]


async def test_broken_connection_is_an_error_not_a_status() -> None:
    asked = Asked(replicas=1)
    asked.after(1)
    broken = StoreError("the connection to the store was lost")
    asked.server.answers(broken, "ROLE")
    assert asked.told == [(1, broken)]
