"""How a message gets to a broker: one way for all that a producer sends, and one loop over the attempts."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TypeVar

import tenacity

from ...codes import ResponseCode
from ...errors import (
    ClientError,
    RemotingConnectError,
    RemotingError,
    ResponseError,
    RmqError,
    RouteNotFoundError,
)
from ...model import Message, SendResult
from ...remoting.connection import Connection
from ..core.arguments import seconds_of
from ..core.instance import MQClientInstance
from .bursts import Bursts, Sender
from .checks import check_message, check_topic
from .choice import ANYWHERE, Destination, QueueChoice
from .failures import AWAY_CODES, StopAtDeadline, StopWhen, is_away, is_retriable
from .outgoing import Encode, Outgoing
from .topic import MOST_PAUSE_S, RETRY_PAUSE_S, PublishTopic, PublishTopics, QueueAwayError, QueueTarget

logger = logging.getLogger(__name__)

AVOID_BROKER_S = 5.0
"""How long the queues of a broker that could not be reached are passed over, if there are others."""
AVOID_BUSY_BROKER_S = 1.0
"""The same of a broker that is busy."""
LEAST_ATTEMPT_S = 0.005
"""With less time than this left no further attempt begins: not even a broker on this machine would answer in time."""
_ONEWAYS_PER_TURN = 64
"""Oneway sends until others get a turn of the event loop; their frames leave in two system calls."""

R = TypeVar("R")
Attempt = Callable[[Outgoing, QueueTarget], Awaitable[R]]
"""Sends to a target."""


class _Begun:
    """Receives the result of the first attempt of a send without a coroutine; further attempts run in a task."""

    __slots__ = ("_delivery", "_out", "_sender", "_target")

    def __init__(self, delivery: Delivery, out: Outgoing, target: QueueTarget, sender: Sender) -> None:
        self._delivery = delivery
        self._out = out
        self._target = target
        self._sender = sender

    def done(self) -> bool:
        return self._sender.done()

    def set_result(self, result: SendResult) -> None:
        self._sender.set_result(result)

    def set_exception(self, exception: BaseException) -> None:
        if isinstance(exception, RmqError) and is_retriable(exception):
            delivery = self._delivery
            delivery.spawn(self._sender, delivery.repeat(self._out, self._target, delivery.ask, exception))
        else:
            self._sender.set_exception(exception)


class Delivery:
    """Chooses a queue, encodes, sends, and retries until a broker has stored the message or its timeout expires."""

    def __init__(self, group: str, instance: MQClientInstance, publish: PublishTopics, choice: QueueChoice) -> None:
        self._group = group
        self._instance = instance
        self._publish = publish
        self._topics = publish.topics
        self._choice = choice
        self._sending: Callable[..., None] | None = getattr(choice.select, "sending", None)
        self._report: Callable[..., None] | None = getattr(choice.select, "report", None)
        self.ask: Attempt[SendResult] = self._ask if self._sending is self._report is None else self._ask_measured
        """The attempt that waits until the broker has stored the message."""
        config = instance.config
        self._timeout_s = config.send_timeout_s
        self._retries = config.retry_times_when_send_failed
        self._compress_over_bytes = config.compress_over_bytes or config.max_message_bytes + 1
        self._connections: dict[str, Connection] = {}
        self._loop: asyncio.AbstractEventLoop
        self._bursts: Bursts
        self._oneways = 0
        self.is_running = False

    def start(self) -> None:
        """Uses the instance, which has started."""
        self._loop = asyncio.get_running_loop()
        self._connections = self._instance.remoting.connections
        self._bursts = Bursts(
            self._connections, self._instance.config.linger_ms / 1000, keeps_queue=self._choice.per_turn
        )
        self.is_running = True

    def close(self) -> None:
        """Refuses all further sends and attempts."""
        self.is_running = False
        self._topics.clear()

    async def deliver(
        self,
        messages: Sequence[Message],
        encode: Encode,
        attempt: Attempt[R],
        where: Destination,
        timeout_s: float | timedelta | None = None,
    ) -> R:
        """Delivers the messages of one request; what the attempt that succeeded returned.

        Args:
            attempt: ``ask`` or ``hand_over``.
            timeout_s: seconds for all attempts together; None: ``send_timeout_s``.

        Raises:
            RmqError: as ``AsyncProducer.send``.
        """
        message = messages[0]
        timeout_s = self._timeout_s if timeout_s is None else seconds_of("timeout_s", timeout_s)
        try:
            name = message.topic
        except AttributeError:
            check_message(message)
            raise
        topic = self._topics.get(name) or await self.topic(name, timeout_s)
        deadline = self._loop.time() + timeout_s
        try:
            target = self._target(topic, message, where)
        except QueueAwayError as error:
            target = await self._publish.wait_for(error.queue, timeout_s)
        out = self._encoded(messages, encode, where, topic, deadline)
        out.timeout_s = timeout_s
        if len(out.body) >= self._compress_over_bytes and not out.is_batch:
            await out.compress()
        try:
            return await attempt(out, target)
        except RmqError as error:
            if not is_retriable(error):
                raise
            failure = error
        return await self.repeat(out, target, attempt, failure)

    def begin(
        self, message: Message, encode: Encode, where: Destination, timeout_s: float | timedelta | None, sender: Sender
    ) -> bool:
        """Sends a message as ``deliver`` with ``ask``, but without a coroutine: for many callers of other threads.

        Returns:
            whether it did; False if something has to be waited for first, or attempts are measured.

        Raises:
            RmqError: as ``deliver``, for what is found before anything is sent.
        """
        timeout_s = self._timeout_s if timeout_s is None else seconds_of("timeout_s", timeout_s)
        topic = self._topics.get(getattr(message, "topic", ""))
        if topic is None or self._sending or self._report:
            return False
        deadline = self._loop.time() + timeout_s
        try:
            target = self._target(topic, message, where)
        except QueueAwayError:
            return False
        if target.address not in self._connections:
            return False
        out = self._encoded((message,), encode, where, topic, deadline)
        out.timeout_s = timeout_s
        if len(out.body) >= self._compress_over_bytes:
            return False
        self._bursts.add(out, target, _Begun(self, out, target, sender))
        return True

    def _target(self, topic: PublishTopic, message: Message, where: Destination) -> QueueTarget:
        """Where a message goes: with others of this turn, if it may go anywhere. Raises as ``QueueChoice.target``."""
        kept = self._bursts.kept.get(message.topic) if where is ANYWHERE else None
        return kept or self._choice.target(topic, message, where)

    def _encoded(
        self, messages: Sequence[Message], encode: Encode, where: Destination, topic: PublishTopic, deadline: float
    ) -> Outgoing:
        out = encode(messages, where.key)
        out.deadline = deadline
        out.is_fixed = where is not ANYWHERE or (topic.is_strict and self._choice.by_key)
        return out

    async def topic(self, name: str, timeout_s: float | timedelta | None = None) -> PublishTopic:
        """The queues of a topic.

        Raises:
            RouteNotFoundError, RemotingError: as ``PublishTopics.find``.
            ClientError: not started, closed, or inherited by a fork.
        """
        self._check_running()
        found = self._topics.get(name)
        if found is not None:
            return found
        check_topic(name)
        timeout_s = self._timeout_s if timeout_s is None else seconds_of("timeout_s", timeout_s)
        return await self._publish.find(name, timeout_s)

    def spawn(self, sender: Sender, sending: Awaitable[SendResult]) -> None:
        """Awaits a send in a task and passes its result to the sender."""
        self._instance.spawn(self._tell(sender, sending))

    async def _tell(self, sender: Sender, sending: Awaitable[SendResult]) -> None:
        try:
            result = await sending
        except asyncio.CancelledError:
            sender.set_exception(ClientError(f"producer {self._group!r} was closed"))
            raise
        except Exception as error:
            sender.set_exception(error)
        else:
            sender.set_result(result)

    def _check_running(self) -> None:
        self._instance.check_process()
        if not self.is_running:
            raise ClientError(f"producer {self._group!r} is not started, or closed")

    # --- one attempt ---------------------------------------------------------------------------------------------

    def _ask(self, out: Outgoing, target: QueueTarget) -> Awaitable[SendResult]:
        if target.address not in self._connections:
            return self._connect_and_ask(out, target)
        result: asyncio.Future[SendResult] = self._loop.create_future()
        self._bursts.add(out, target, result)
        return result

    async def _connect_and_ask(self, out: Outgoing, target: QueueTarget) -> SendResult:
        await self._connect(out, target)
        result: asyncio.Future[SendResult] = self._loop.create_future()
        self._bursts.add(out, target, result)
        return await result

    async def _ask_measured(self, out: Outgoing, target: QueueTarget) -> SendResult:
        """``_ask``, of which the load balancer hears."""
        began = self._loop.time()
        failure: BaseException | None = None
        if self._sending is not None:
            self._sending(target.queue)
        try:
            return await self._ask(out, target)
        except BaseException as error:
            failure = error
            raise
        finally:
            if self._report is not None:
                self._report(target.queue, self._loop.time() - began, failure)

    async def hand_over(self, out: Outgoing, target: QueueTarget) -> None:
        """Writes a message that the broker does not answer."""
        connection = self._connections.get(target.address) or await self._connect(out, target)
        self._bursts.leave(target)
        connection.write(out.frame(target.oneway_head, connection.next_opaque()))
        await connection.drain()
        self._oneways += 1
        if not self._oneways % _ONEWAYS_PER_TURN:
            await asyncio.sleep(0)  # nothing else here waits: without this a loop of sends would never reach the socket

    async def _connect(self, out: Outgoing, target: QueueTarget) -> Connection:
        """Opens the connection. A send that may go elsewhere leaves time for that."""
        self._check_running()
        timeout_s = max(out.deadline - self._loop.time(), 0.001)
        if not out.is_fixed:
            timeout_s /= 1 + max(self._retries, 0)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._instance.remoting.connect(target.address)
        except TimeoutError:
            raise RemotingConnectError(f"cannot connect to {target.address}: no answer in {timeout_s:g} s") from None

    # --- further attempts ----------------------------------------------------------------------------------------

    async def repeat(self, out: Outgoing, target: QueueTarget, attempt: Attempt[R], error: RmqError) -> R:
        """Further attempts after ``error``, which the first one ended with; raises the last attempt's error."""
        self._note_failure(out.topic, target, error)
        retries = self._retries
        if attempt == self.hand_over:
            retries = max(retries, 1)  # it only fails to connect, so nothing was sent
        if retries <= 0 or self._loop.time() >= out.deadline:
            raise error
        out.joins = False  # the others may be to blame
        counted = 0  # of these, those at brokers that were there
        first = error

        async def further() -> R:
            nonlocal target, counted, error
            target, error = await self._next_target(out, target, error, out.attempts)
            out.attempts += 1
            try:
                return await attempt(out, target)
            except RmqError as failure:
                error = failure
                counted += not is_away(failure)
                if is_retriable(failure):
                    self._note_failure(out.topic, target, failure)
                raise

        policy = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(is_retriable),
            stop=StopWhen(lambda: counted >= retries) | StopAtDeadline(out.deadline - LEAST_ATTEMPT_S),
            sleep=asyncio.sleep,
            reraise=True,
        )
        try:
            return await policy(further)
        except RmqError as last:
            if out.attempts > 1:
                last.add_note(
                    f"attempt {out.attempts} of sending to topic {out.topic!r}; the first one failed with: {first}"
                )
            raise

    async def _next_target(
        self, out: Outgoing, failed: QueueTarget, error: RmqError, attempts: int
    ) -> tuple[QueueTarget, RmqError]:
        """Where the next attempt goes, and the error so far: the broker's, until the routes show that it is offline.

        With nowhere else to go it pauses first, and waits until the broker group has a master again.

        Raises:
            ``error``, when there is not enough time for another attempt.
        """
        pause_s = min(RETRY_PAUSE_S * 4 ** min(attempts - 1, 3), MOST_PAUSE_S)
        target: QueueTarget | None = None
        while target is None:
            try:
                target = await self._target_of_retry(out, failed)
            except (RouteNotFoundError, RemotingError) as failure:
                error = failure
                self._instance.routes.refresh_soon(out.topic)
            if target is None or target.queue.broker_name == failed.queue.broker_name:
                await asyncio.sleep(min(pause_s, max(out.deadline - self._loop.time(), 0.0)))
            if out.deadline - self._loop.time() < LEAST_ATTEMPT_S:
                raise error
        return target, error

    async def _target_of_retry(self, out: Outgoing, failed: QueueTarget) -> QueueTarget:
        topic = self._topics.get(out.topic)
        if topic is None:
            topic = await self.topic(out.topic, max(out.deadline - self._loop.time(), 0.001))
        if out.is_fixed:
            target = topic.targets.get(failed.queue)
            if target is None:
                raise QueueAwayError(failed.queue)
            return target
        broker_name = failed.queue.broker_name
        others = [queue for queue in topic.active if queue.broker_name != broker_name]
        others = others or [queue for queue in topic.queues if queue.broker_name != broker_name] or topic.queues
        return topic.targets[random.choice(others)]

    def _note_failure(self, name: str, target: QueueTarget, error: RmqError) -> None:
        """Passes the broker over for a while if that makes sense, and has the route looked up."""
        logger.debug("send to %s at %s failed: %s", target.queue, target.address, error)
        if not self.is_running:
            return
        self._instance.routes.refresh_soon(name)
        code = error.code if isinstance(error, ResponseError) else None
        if isinstance(error, RemotingError) or code in AWAY_CODES:
            self._publish.avoid(target.queue.broker_name, AVOID_BROKER_S)
        elif code == ResponseCode.SYSTEM_BUSY:
            self._publish.avoid(target.queue.broker_name, AVOID_BUSY_BROKER_S)
