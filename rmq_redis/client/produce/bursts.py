"""Combines the sends of one event-loop turn to one queue into one request; each send keeps its own result.

For a small message, the request (header, frame, system call, response) costs more than the rest of the send. The
messages travel as one batch, which brokers store like single messages with consecutive offsets. A send waits for others
only while the broker is busy (``MAX_UNANSWERED``), or with ``linger_ms``.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections import Counter
from collections.abc import Mapping

from ...errors import ConnectionClosedError, RequestTimeoutError, ResponseError, RmqError, response_error
from ...model import SEND_STATUS_BY_CODE, MessageQueue, SendResult, SendStatus
from ...protocol.command import RemotingCommand
from ...protocol.headers.send import SendMessageResponseHeader
from ...remoting.connection import Connection, Receiver
from .failures import is_retriable
from .outgoing import Outgoing, joined
from .topic import QueueTarget

logger = logging.getLogger(__name__)

MAX_NUMS = 32
"""Maximum number of messages in a burst. The broker starts on it while the rest of a large turn is encoded."""
MAX_BYTES = 64 * 1024
"""Maximum size of a burst's bodies in bytes: far below the limit of any broker."""
MAX_UNANSWERED = 4
"""With this many unanswered requests at a broker, a burst waits for the next response: the broker is busy anyway."""
HOLD_S = 0.001
"""Maximum of that wait in seconds: a response may itself wait for a replica or a disk."""
ALONE_S = 30.0
"""Seconds that messages for a queue are sent one per request after the broker refused a burst."""
_DEADLINE_SPAN = 0.05
"""A burst has the latest deadline of its messages: later than any by at most this share of the timeout."""


Sender = Receiver[SendResult]
"""Receives the result of a send."""


class Burst:
    """The messages of one request. The connection gives it the response, like a future."""

    __slots__ = ("deadline", "joins", "outs", "owner", "senders", "size", "target")

    def __init__(self, owner: Bursts, target: QueueTarget, out: Outgoing, sender: Sender) -> None:
        self.owner = owner
        self.target = target
        self.deadline = out.deadline
        self.joins = out.joins
        self.outs = [out]
        self.senders = [sender]
        self.size = len(out.body)

    def add(self, out: Outgoing, sender: Sender) -> None:
        """Adds a message that joins."""
        self.outs.append(out)
        self.deadline = max(self.deadline, out.deadline)
        self.senders.append(sender)
        self.size += len(out.body)

    def frame(self, opaque: int) -> bytes:
        """The request."""
        out = self.outs[0] if len(self.outs) == 1 else joined(self.outs)
        return out.frame(self.target.batch_head if out.is_batch else self.target.head, opaque)

    def drop_cancelled(self) -> None:
        """Drops messages whose senders were cancelled before the request was written."""
        waiting = [(out, sender) for out, sender in zip(self.outs, self.senders, strict=True) if not sender.done()]
        self.outs = [out for out, _ in waiting]
        self.senders = [sender for _, sender in waiting]

    def done(self) -> bool:
        """Whether no sender needs its result any more."""
        return all(sender.done() for sender in self.senders)

    def set_result(self, answer: RemotingCommand) -> None:
        """Called with the broker's response, whatever its code."""
        status = SEND_STATUS_BY_CODE.get(answer.code)
        if status is None:
            self.set_exception(response_error(answer.code, answer.remark, self.target.address))
            return
        try:
            self._stored(status, answer.header(SendMessageResponseHeader))
        except RmqError as error:
            self._fail(error)
        self.owner.answered(self.target)  # last: the next sends of these senders join the waiting burst

    def set_exception(self, error: BaseException) -> None:
        """Called if the request failed. If the broker rejected a burst for good, each message is sent alone."""
        self._fail(error)
        self.owner.answered(self.target)

    def _fail(self, error: BaseException) -> None:
        if len(self.senders) == 1:
            if not self.senders[0].done():
                self.senders[0].set_exception(error)
        elif isinstance(error, ResponseError) and not is_retriable(error):
            self.owner.send_alone(self, error)
        else:
            for sender in self.senders:
                if not sender.done():
                    sender.set_exception(copy.copy(error))  # each sender needs its own traceback and notes

    def _stored(self, status: SendStatus, fields: SendMessageResponseHeader) -> None:
        queue = self.target.queue
        if fields.queue_id != queue.queue_id:  # the broker chose another one
            queue = MessageQueue(queue.topic, queue.broker_name, fields.queue_id)
        if len(self.senders) > 1:
            self._stored_together(status, queue, fields)
        elif not self.senders[0].done():
            out = self.outs[0]
            self.senders[0].set_result(
                SendResult(
                    status,
                    out.message_id,
                    fields.msg_id,
                    queue,
                    fields.queue_offset,
                    fields.transaction_id or "",
                    out.attempts,
                    fields.recall_handle or "",
                )
            )

    def _stored_together(self, status: SendStatus, queue: MessageQueue, fields: SendMessageResponseHeader) -> None:
        ids = fields.msg_id.split(",")
        if len(ids) != len(self.outs):  # the broker returned one id for the whole batch
            ids = [fields.msg_id] * len(self.outs)
        offset = fields.queue_offset
        for out, sender, offset_msg_id in zip(self.outs, self.senders, ids, strict=True):
            if not sender.done():
                sender.set_result(SendResult(status, out.message_id, offset_msg_id, queue, offset))
            offset += 1


class Bursts:
    """Collects the sends of an event-loop turn.

    Attributes:
        kept: target by topic, for further messages of the turn that may go to any queue; they join its burst.
    """

    def __init__(self, connections: Mapping[str, Connection], linger_s: float, *, keeps_queue: bool) -> None:
        """
        Args:
            connections: the open ones, by address.
            linger_s: seconds that a burst waits for more messages; 0: until the end of the turn.
            keeps_queue: whether to fill ``kept``.
        """
        self._keeps_queue = keeps_queue
        self.kept: dict[str, QueueTarget] = {}
        self._connections = connections
        self._linger_s = linger_s
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[QueueTarget, Burst] = {}
        self._unanswered: Counter[str] = Counter()
        self._has_flush = False
        self._has_timer = False

    def add(self, out: Outgoing, target: QueueTarget, sender: Sender) -> None:
        """Sends a message at the end of the turn, or after the next response of a busy broker."""
        if target.alone_until and target.alone_until > self._loop.time():
            out.joins = False
        burst = self._waiting.get(target)
        if burst is not None:
            span_s = out.timeout_s * _DEADLINE_SPAN + self._linger_s
            if out.joins and burst.joins and abs(out.deadline - burst.deadline) <= span_s:
                burst.add(out, sender)
                if len(burst.outs) >= MAX_NUMS or burst.size >= MAX_BYTES:
                    self._leave(target)
                return
            self._leave(target)  # first, so that the order stays
        self._waiting[target] = Burst(self, target, out, sender)
        if self._keeps_queue and out.joins and not out.is_fixed:
            self.kept[out.topic] = target
        if self._linger_s:
            self._flush_later(self._linger_s)
        else:
            self._flush_soon()

    def leave(self, target: QueueTarget) -> None:
        """Sends the waiting burst of a queue now, before the caller writes to the connection itself."""
        if target in self._waiting:
            self._leave(target)

    def _flush_soon(self) -> None:
        if not self._has_flush:
            self._has_flush = True
            self._loop.call_soon(self._flush)

    def _flush_later(self, pause_s: float) -> None:
        if not self._has_timer:
            self._has_timer = True
            self._loop.call_later(pause_s, self._flush_all)

    def _flush(self) -> None:
        """Sends the bursts of brokers that are not busy."""
        self._has_flush = False
        for target, burst in list(self._waiting.items()):
            if self._unanswered[target.address] < MAX_UNANSWERED or not burst.joins:
                self._leave(target)
                self._to_socket(target)
            else:
                self._flush_later(HOLD_S)

    def _flush_all(self) -> None:
        self._has_timer = False
        for target in list(self._waiting):
            self._leave(target)
            self._to_socket(target)

    def _to_socket(self, target: QueueTarget) -> None:
        connection = self._connections.get(target.address)
        if connection is not None:
            connection.flush()

    def _leave(self, target: QueueTarget) -> None:
        burst = self._waiting.pop(target)
        self.kept.pop(target.queue.topic, None)
        if any(sender.done() for sender in burst.senders):
            burst.drop_cancelled()
        if burst.outs:
            self._send(burst)

    def _send(self, burst: Burst) -> None:
        address = burst.target.address
        connection = self._connections.get(address)
        self._unanswered[address] += 1
        if connection is None:
            burst.set_exception(ConnectionClosedError(f"the connection to {address} is closed"))
        elif burst.deadline <= self._loop.time():
            burst.set_exception(RequestTimeoutError(f"sending to {address}: the time is used up"))
        else:
            opaque = connection.next_opaque()
            try:
                frame = burst.frame(opaque)
            except RmqError as error:  # larger than a frame
                burst.set_exception(error)
            else:
                connection.send_request(frame, opaque, burst.deadline, burst)

    def answered(self, target: QueueTarget) -> None:
        """Notes that a request was answered or failed. Waiting bursts are sent after the next sends of its senders."""
        self._unanswered[target.address] -= 1
        if self._waiting and not self._linger_s:
            self._flush_soon()

    def send_alone(self, burst: Burst, error: ResponseError) -> None:
        """Sends the messages of a rejected burst one by one: one may be invalid, or the broker accepts no batches."""
        logger.debug("%s refused %d messages in one request: %s", burst.target.address, len(burst.outs), error)
        burst.target.alone_until = self._loop.time() + ALONE_S
        for out, sender in zip(burst.outs, burst.senders, strict=True):
            if not sender.done():
                self._send(Burst(self, burst.target, out, sender))
