"""Gives pulled messages to the handlers: N workers for a whole consumer, no task per message.

``ConcurrentService`` hands messages out in any order; ``OrderlyService`` hands a queue's messages out one after the
other. Coroutine handlers run in the event loop; plain functions run in threads, several messages per crossing.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import msgspec

from ...background import Every, every
from ...errors import MessageDecodeError
from ...model import DEFAULT_MAX_RECONSUME_TIMES, DELAY_LEVELS_S, ConsumeResult, MessageExt
from ..core.closing import Worker
from ..core.threads import DaemonThreadExecutor
from .process_queue import ProcessQueue

logger = logging.getLogger(__name__)

MessageHandler = Callable[[MessageExt], Any]
"""A function or coroutine function. None, True, SUCCESS: done. False, LATER, an exception: again later."""

_FIRST_RETRY_LEVEL = 3
LOCAL_RETRY_S = 5.0
"""A message that could not be given back to a broker is handled again here after this long."""
_MESSAGES_PER_TURN = 16
_MAX_CHUNK = 64
_LOOKS_PER_TIMEOUT = 10
_CHUNK_TARGET_S = 0.002


class Handler:
    """A user's handler, and how to call it."""

    __slots__ = ("average_s", "function", "is_async")

    def __init__(self, function: MessageHandler) -> None:
        call = getattr(function, "__call__", None)  # noqa: B004  (an object with an async __call__)
        self.function = function
        self.is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)
        self.average_s = _CHUNK_TARGET_S

    @property
    def chunk_size(self) -> int:
        """How many messages to take to a thread at once: about 2 ms of work, so that slow handlers run side by side."""
        return max(1, min(_MAX_CHUNK, int(_CHUNK_TARGET_S / max(self.average_s, 1e-6))))

    def run_in_thread(
        self, messages: Sequence[MessageExt], stop_at_failure: bool, service: ConsumeService
    ) -> list[Any]:
        """Handles messages one after the other, until the service stops or, if wanted, up to the first failure.

        Returns:
            A result or exception of each message that was handled, at least of the first.
        """
        outcomes: list[Any] = []
        began = time.perf_counter()
        function = self.function
        for message in messages:
            if outcomes and service.stopping:
                break
            try:
                outcome = function(message)
            except Exception as error:
                outcome = error
            outcomes.append(outcome)
            if stop_at_failure and not is_success(outcome):
                break
        self.average_s += 0.2 * ((time.perf_counter() - began) / len(outcomes) - self.average_s)
        return outcomes


def is_success(outcome: Any) -> bool:
    """Whether a handler's result means that the message is done."""
    return outcome is None or outcome is True or outcome == ConsumeResult.SUCCESS


def takes_one(handler: Callable[..., Any]) -> bool:
    """Whether it can be called with a message, as far as its signature says."""
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):  # some that are written in C have none
        return True
    try:
        signature.bind(None)
    except TypeError:
        return False
    return True


def _failure(error: BaseException) -> BaseException:
    """What a handler raised, as its outcome; raises it again when it is this task that is being cancelled."""
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
        raise error
    return error


GiveBack = Callable[[MessageExt], Awaitable[bool]]
"""Has a broker deliver the message again later; False when no broker could be told."""


class ConsumeService(ABC):
    """Workers that hand messages to handlers.

    Args:
        handler_of: topic -> handler; None for a topic that is not subscribed (any more).
        give_back: what to do with a message whose handler failed.
    """

    def __init__(
        self,
        name: str,
        concurrency: int,
        handler_of: Callable[[str], Handler | None],
        give_back: GiveBack,
    ) -> None:
        self._name = name
        self._concurrency = concurrency
        self._handler_of = handler_of
        self._give_back = give_back
        self._workers: list[asyncio.Task[None]] = []
        self._idle: list[asyncio.Future[None]] = []
        self._pool: DaemonThreadExecutor | None = None
        self.stopping = False
        """No more messages are handed out; set by ``close``."""
        self.cut_off = False
        """Handlers did not end in time and were cancelled: those in threads may still be at work."""

    def start(self) -> None:
        """Starts the workers in the running event loop."""
        loop = asyncio.get_running_loop()
        self._workers = [loop.create_task(self._work()) for _ in range(self._concurrency)]

    async def stop(self, timeout_s: float) -> bool:
        """Hands out no more messages and waits for the handlers that run; False when some had to be cancelled."""
        self.stopping = True
        for waiter in self._idle:
            if not waiter.done():
                waiter.set_result(None)
        late: set[asyncio.Task[None]] = set()
        if self._workers:
            _, late = await asyncio.wait(self._workers, timeout=timeout_s)
            self.cut_off = bool(late)
            for worker in late:
                worker.cancel()
            if late:
                logger.warning("%s: %d handlers did not end within %g s", self._name, len(late), timeout_s)
                await asyncio.wait(late, timeout=1.0)
        if self._pool is not None:
            # Not waited for: that would stop the event loop, and a thread that a broker asked for may need it.
            self._pool.shutdown(wait=False, cancel_futures=True)
        return not late

    @abstractmethod
    def submit(self, process_queue: ProcessQueue, messages: Sequence[MessageExt]) -> None:
        """Hands messages that were pulled to the workers."""

    @abstractmethod
    async def _work(self) -> None: ...

    async def handle_one(self, message: MessageExt) -> Any:
        """Handles one message now, outside of any queue; the handler's result, or its exception."""
        handler = self._handler_of(message.topic)
        if handler is None:
            return LookupError(f"no handler for topic {message.topic!r}")
        if message.body_error is not None:
            return MessageDecodeError(message.body_error)
        if not handler.is_async:
            return (await self._in_thread(handler, [message], False))[0]
        try:
            return await handler.function(message)
        except (Exception, asyncio.CancelledError) as error:
            return _failure(error)

    async def call(self, handler: Handler, message: MessageExt) -> Any:
        """A handler's result for one message; raises what it raises."""
        if handler.is_async:
            return await handler.function(message)
        outcome = (await self._in_thread(handler, [message], False))[0]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def _in_thread(self, handler: Handler, messages: Sequence[MessageExt], stop_at_failure: bool) -> list[Any]:
        if self._pool is None:
            mark = Worker(self, busy=True).enter  # these threads run nothing but handlers
            self._pool = DaemonThreadExecutor(self._concurrency, f"rmq-{self._name}", mark)
        outcomes = await asyncio.get_running_loop().run_in_executor(
            self._pool, handler.run_in_thread, messages, stop_at_failure, self
        )
        for index, outcome in enumerate(outcomes):
            if not is_success(outcome) and inspect.isawaitable(outcome):  # a plain function that returned a coroutine
                try:
                    outcomes[index] = await outcome
                except (Exception, asyncio.CancelledError) as error:
                    outcomes[index] = _failure(error)
        return outcomes

    async def _wait_for_work(self, worker: Worker) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle.append(waiter)
        worker.busy = False
        await waiter
        worker.busy = True

    def _new_worker(self) -> Worker:
        worker = Worker(self, busy=True)
        worker.enter()
        return worker

    def _wake_one(self) -> None:
        idle = self._idle
        while idle:
            waiter = idle.pop()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _log_failure(self, message: MessageExt, outcome: Any) -> None:
        if message.body_error is not None:
            which = f"{message.msg_id} of {message.queue}, attempt {message.reconsume_times + 1}"
            logger.warning("%s: not handled, goes to the retries: %s, %s", self._name, message.body_error, which)
            return
        which = f"{message.msg_id} of {message.queue}, {self._attempt_text(message.reconsume_times)}"
        if isinstance(outcome, MessageDecodeError):
            logger.warning("%s: not handled: %s, %s", self._name, outcome, which)
        elif isinstance(outcome, BaseException):
            logger.warning("%s: handler failed for %s", self._name, which, exc_info=outcome)
        elif outcome is not False and outcome != ConsumeResult.LATER:
            logger.error(
                "%s: handler returned %r, which is no ConsumeResult: taken as LATER: %s", self._name, outcome, which
            )
        else:
            logger.debug("%s: handler wants it later: %s", self._name, which)

    @abstractmethod
    def _attempt_text(self, reconsume_times: int) -> str:
        """Which attempt of a message failed, and what comes next."""


class ConcurrentService(ConsumeService):
    """Messages of all queues side by side. A message whose handler fails goes back to its broker.

    Args:
        give_up: sends a message that was tried here, while no broker took it back, to the retry topic with its count.
        consume_timeout_s: a message whose handler takes longer goes back too, so that its queue's offset can go on;
            None: it may take for ever.
        process_queues: the queues that the consumer has now.
        max_reconsume_times: further tries of a message here while no broker takes it back; None: 16.
    """

    def __init__(
        self,
        name: str,
        concurrency: int,
        handler_of: Callable[[str], Handler | None],
        give_back: GiveBack,
        give_up: GiveBack,
        consume_timeout_s: float | None,
        process_queues: Callable[[], Iterable[ProcessQueue]],
        max_reconsume_times: int | None = None,
    ) -> None:
        super().__init__(name, concurrency, handler_of, give_back)
        self._give_up = give_up
        self._handing_back: set[asyncio.Future[None]] = set()
        self._limit = DEFAULT_MAX_RECONSUME_TIMES if max_reconsume_times is None else max_reconsume_times
        self._ready: deque[tuple[ProcessQueue, MessageExt]] = deque()
        self._timeout_s = consume_timeout_s
        self._process_queues = process_queues
        self._watch: Every | None = None
        self._seen: dict[ProcessQueue, tuple[int, float]] = {}

    def _attempt_text(self, reconsume_times: int) -> str:
        attempt = f"attempt {reconsume_times + 1} of {self._limit + 1}"
        if reconsume_times >= self._limit:
            return f"{attempt}, it becomes a dead letter"
        level = min(_FIRST_RETRY_LEVEL + reconsume_times, len(DELAY_LEVELS_S))
        return f"{attempt}, next in {DELAY_LEVELS_S[level - 1]} s unless its group is configured otherwise"

    def start(self) -> None:
        super().start()
        if self._timeout_s is not None:
            period_s = self._timeout_s / _LOOKS_PER_TIMEOUT
            self._watch = every(period_s, self._give_stuck_back, f"{self._name}: looking for handlers that hang")

    async def stop(self, timeout_s: float) -> bool:
        if self._watch is not None:
            await self._watch.close()
        return await super().stop(timeout_s)

    async def _give_stuck_back(self) -> None:
        """Gives the oldest message of a queue back whose handler takes too long.

        Looking now and then costs a message nothing. Source: ConsumeMessageConcurrentlyService.cleanExpireMsg.
        """
        assert self._timeout_s is not None
        now = asyncio.get_running_loop().time()
        before, self._seen = self._seen, {}
        for process_queue in list(self._process_queues()):
            oldest = process_queue.commit_offset()
            message = process_queue.pending.get(oldest)
            if message is None:
                continue
            offset, since = before.get(process_queue, (-1, now))
            if offset != oldest or self._is_ready(process_queue, oldest):
                since = now
            self._seen[process_queue] = (oldest, since)
            if now - since < self._timeout_s:
                continue
            logger.warning(
                "%s: the handler of %s of %s does not end within %g s; the message is given back",
                self._name,
                message.msg_id,
                message.queue,
                self._timeout_s,
            )
            if await self._give_back(message):
                process_queue.done(message)

    def _is_ready(self, process_queue: ProcessQueue, offset: int) -> bool:
        """Whether the message still waits for a worker, which is none of its handler's fault."""
        return any(queue is process_queue and message.queue_offset == offset for queue, message in self._ready)

    def submit(self, process_queue: ProcessQueue, messages: Sequence[MessageExt]) -> None:
        self._ready.extend(zip(itertools.repeat(process_queue), messages))
        if self._idle:
            self._wake_one()

    async def _work(self) -> None:
        ready, handler_of = self._ready, self._handler_of
        worker = self._new_worker()
        turn = 0
        message: MessageExt | None
        while not self.stopping:
            if not ready:
                message = None  # an idle worker would keep its last message, which may be large
                await self._wait_for_work(worker)
                continue
            process_queue, message = ready.popleft()
            if ready and self._idle:
                self._wake_one()  # it wakes the next: nobody is woken for what this one does without a pause
            if process_queue.dropped:
                continue
            handler = handler_of(message.topic)
            if message.body_error is not None:
                await self._failed(process_queue, message, MessageDecodeError(message.body_error))
            elif handler is not None and handler.is_async:
                outcome: Any
                try:
                    outcome = await handler.function(message)
                except (Exception, asyncio.CancelledError) as error:
                    outcome = _failure(error)
                if outcome is None or outcome is True or outcome == ConsumeResult.SUCCESS:
                    process_queue.done(message)
                else:
                    await self._failed(process_queue, message, outcome)
                turn += 1
                if not turn % _MESSAGES_PER_TURN:
                    await asyncio.sleep(0)
            elif handler is not None:
                await self._work_in_thread(handler, process_queue, message)
            else:
                await self._failed(process_queue, message, LookupError(f"no handler for topic {message.topic!r}"))

    async def _work_in_thread(self, handler: Handler, process_queue: ProcessQueue, message: MessageExt) -> None:
        ready = self._ready
        queues, messages = [process_queue], [message]
        for _ in range(handler.chunk_size - 1):
            if not ready or ready[0][1].body_error is not None or self._handler_of(ready[0][1].topic) is not handler:
                break
            process_queue, message = ready.popleft()
            if not process_queue.dropped:
                queues.append(process_queue)
                messages.append(message)
        outcomes = await self._in_thread(handler, messages, False)
        for process_queue, message, outcome in zip(queues, messages, outcomes, strict=False):  # fewer: it was closed
            if is_success(outcome):
                process_queue.done(message)
            else:
                await self._failed(process_queue, message, outcome)

    async def _failed(self, process_queue: ProcessQueue, message: MessageExt, outcome: Any) -> None:
        self._log_failure(message, outcome)
        if process_queue.dropped:  # never committed: whoever has the queue now gets the message again
            return
        if message.queue_offset not in process_queue.pending:  # it took too long and was given back
            return
        await self._hand_back(process_queue, message)

    async def _hand_back(self, process_queue: ProcessQueue, message: MessageExt) -> None:
        """Gives a message back; one that was tried here since it was pulled is sent with its count instead.

        While no broker takes it, it is tried here, as often as its limit allows; then it only waits for a broker.
        """
        was_tried_here = process_queue.pending.get(message.queue_offset) is not message
        if await (self._give_up if was_tried_here else self._give_back)(message):
            process_queue.done(message)
            return
        loop = asyncio.get_running_loop()
        if message.reconsume_times < self._limit:
            again = msgspec.structs.replace(message, reconsume_times=message.reconsume_times + 1)
            loop.call_later(LOCAL_RETRY_S, self._again, process_queue, again)
        else:
            copy = msgspec.structs.replace(message)  # another object: it counts as tried here
            loop.call_later(LOCAL_RETRY_S, self._hand_back_later, process_queue, copy)

    def _hand_back_later(self, process_queue: ProcessQueue, message: MessageExt) -> None:
        if not self.stopping and not process_queue.dropped and message.queue_offset in process_queue.pending:
            task = asyncio.ensure_future(self._hand_back(process_queue, message))
            self._handing_back.add(task)
            task.add_done_callback(self._handing_back.discard)

    def _again(self, process_queue: ProcessQueue, message: MessageExt) -> None:
        if not self.stopping and not process_queue.dropped and message.queue_offset in process_queue.pending:
            self.submit(process_queue, [message])


class OrderlyService(ConsumeService):
    """One message of a queue at a time, in the queue's order. A message whose handler fails holds its queue up.

    Args:
        suspend_s: seconds until a message whose handler failed is handled again.
        max_reconsume_times: a message that fails again after so many further tries is given up (``give_back``); None:
            never. Every try raises its ``reconsume_times``.
        is_locked: whether this consumer may handle messages of the queue now.
    """

    def __init__(
        self,
        name: str,
        concurrency: int,
        handler_of: Callable[[str], Handler | None],
        give_back: GiveBack,
        *,
        is_locked: Callable[[ProcessQueue], bool],
        suspend_s: float = 1.0,
        max_reconsume_times: int | None = None,
    ) -> None:
        super().__init__(name, concurrency, handler_of, give_back)
        self._ready: deque[ProcessQueue] = deque()
        self._is_locked = is_locked
        self._suspend_s = suspend_s
        self._max_reconsume_times = max_reconsume_times

    def _attempt_text(self, reconsume_times: int) -> str:
        limit = self._max_reconsume_times
        if limit is None:
            return f"attempt {reconsume_times + 1}, next in {self._suspend_s:g} s"
        after = "it becomes a dead letter" if reconsume_times >= limit else f"next in {self._suspend_s:g} s"
        return f"attempt {reconsume_times + 1} of {limit + 1}, {after}"

    def submit(self, process_queue: ProcessQueue, messages: Sequence[MessageExt]) -> None:
        process_queue.waiting.extend(messages)
        if not process_queue.scheduled:
            process_queue.scheduled = True
            self._schedule(process_queue)

    def _schedule(self, process_queue: ProcessQueue) -> None:
        self._ready.append(process_queue)
        if self._idle:
            self._wake_one()

    async def _work(self) -> None:
        ready = self._ready
        worker = self._new_worker()
        while not self.stopping:
            if not ready:
                await self._wait_for_work(worker)
                continue
            process_queue = ready.popleft()
            if ready and self._idle:
                self._wake_one()
            pause_s = 0.0
            process_queue.running = True
            try:
                pause_s = await self._handle_some(process_queue)
            finally:
                process_queue.handled()
            if process_queue.dropped or not process_queue.waiting:
                process_queue.scheduled = False
            elif pause_s:
                asyncio.get_running_loop().call_later(pause_s, self._schedule, process_queue)
            else:
                ready.append(process_queue)
                await asyncio.sleep(0)

    async def _handle_some(self, process_queue: ProcessQueue) -> float:
        """Handles messages of one queue for a while; returns the seconds until it wants to go on."""
        waiting = process_queue.waiting
        for _ in range(_MESSAGES_PER_TURN):
            if not waiting or process_queue.dropped or self.stopping:
                return 0.0
            if not self._is_locked(process_queue):
                return self._suspend_s
            message = waiting[0]
            chunk = [message]
            handler = self._handler_of(message.topic)
            if handler is None:
                outcomes: list[Any] = [LookupError(f"no handler for topic {message.topic!r}")]
            elif message.body_error is not None:
                outcomes = [MessageDecodeError(message.body_error)]
            elif handler.is_async:
                try:
                    outcomes = [await handler.function(message)]
                except (Exception, asyncio.CancelledError) as error:
                    outcomes = [_failure(error)]
            else:
                for following in itertools.islice(waiting, 1, handler.chunk_size):
                    if following.body_error is not None or self._handler_of(following.topic) is not handler:
                        break
                    chunk.append(following)
                outcomes = await self._in_thread(handler, chunk, True)
            for message, outcome in zip(chunk, outcomes, strict=False):  # a failure or close ends the outcomes
                if process_queue.dropped:  # meanwhile: what was handled is not to be handled by the next owner
                    if not is_success(outcome):
                        self._log_failure(message, outcome)
                        return 0.0
                    process_queue.done(message)
                elif is_success(outcome) or await self._gave_up(process_queue, message, outcome):
                    waiting.popleft()
                    process_queue.done(message)
                else:
                    return self._suspend_s
        return 0.0

    async def _gave_up(self, process_queue: ProcessQueue, message: MessageExt, outcome: Any) -> bool:
        self._log_failure(message, outcome)
        if process_queue.dropped:
            return False
        # A body that cannot be decompressed stays so: no message of its queue need wait until it can.
        limit = self._max_reconsume_times if message.body_error is None else 0
        while limit is not None and message.reconsume_times >= limit:
            if await self._give_back(message):
                return not process_queue.dropped
            if self.stopping or process_queue.dropped:
                return False
            await asyncio.sleep(self._suspend_s)  # its tries are used up: it only waits for a broker
        if process_queue.waiting:
            process_queue.waiting[0] = msgspec.structs.replace(message, reconsume_times=message.reconsume_times + 1)
        return False
