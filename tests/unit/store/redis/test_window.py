"""What is held while a store does not answer, what is refused, and in which order the rest goes out."""

from __future__ import annotations

import asyncio

from helpers import eventually

from rmq_redis.errors import StoreBusyError, StoreError
from rmq_redis.store.redis.window import AppendWindow


class Commits:
    def __init__(self, *, max_wait_s: float = 60.0, busy_s: float = 60.0) -> None:
        self.sent: list[int] = []
        self.refused: list[tuple[int, StoreError]] = []
        self.window = AppendWindow(
            self.sent.append, lambda c, e: self.refused.append((c, e)), max_wait_s=max_wait_s, busy_s=busy_s
        )
        self.next = 0

    def offer(self) -> int:
        self.next += 1
        self.window.offer(self.next)
        return self.next

    async def stall(self) -> None:
        """Offers until something is held."""

        def held() -> bool:
            self.offer()
            return self.window.held > 0

        await eventually(held)


async def test_responsive_store_gets_commits_at_once() -> None:
    commits = Commits()
    for _ in range(100):
        commits.offer()
        commits.window.answered()
    assert commits.sent == list(range(1, 101))
    assert (commits.window.held, commits.window.head_wait_ms, commits.window.busy) == (0, 0, False)


async def test_held_commits_are_sent_in_order_after_first_reply() -> None:
    commits = Commits()
    await commits.stall()
    sent = len(commits.sent)
    for _ in range(5):
        commits.offer()
    assert (len(commits.sent), commits.window.held) == (sent, 6)
    commits.window.answered()
    assert commits.sent == list(range(1, commits.next + 1))
    commits.offer()
    assert commits.sent[-1] == commits.next


async def test_commit_held_too_long_is_refused_and_never_sent() -> None:
    commits = Commits(max_wait_s=0.05)
    await commits.stall()
    await eventually(lambda: commits.refused)
    number, error = commits.refused[0]
    assert isinstance(error, StoreBusyError)
    assert str(error).startswith("[TIMEOUT_CLEAN_QUEUE]")
    assert number not in commits.sent
    await eventually(lambda: not commits.window.held)
    commits.window.answered()
    assert number not in commits.sent
    assert len(commits.sent) + len(commits.refused) == commits.next


async def test_silent_store_is_busy_until_it_replies() -> None:
    commits = Commits(max_wait_s=0.01, busy_s=0.1)
    await commits.stall()
    await eventually(lambda: commits.window.busy)
    commits.window.answered()
    assert not commits.window.busy


async def test_allowed_pause_holds_no_commits() -> None:
    commits = Commits()
    commits.window.allow_pauses(60.0)
    commits.offer()
    await asyncio.sleep(0.1)  # twice the usual limit: nothing may happen
    commits.offer()
    assert commits.sent == [1, 2]


async def test_failing_releases_do_not_recurse() -> None:
    """The connection broke: every release is answered at once."""
    sent: list[int] = []

    def send(commit: int) -> None:
        sent.append(commit)
        if broken:
            window.answered()

    window: AppendWindow[int] = AppendWindow(send, lambda *_: None, max_wait_s=60, busy_s=60)
    broken = False
    await eventually(lambda: window.offer(0) or window.held)
    for number in range(5000):
        window.offer(number)
    broken = True
    window.answered()
    assert (sent[-1], window.held) == (4999, 0)
