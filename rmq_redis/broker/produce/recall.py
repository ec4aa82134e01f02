"""RECALL_MESSAGE (370): removes a delayed message before it is due.

Source: RocketMQ 5.3 ``RecallMessageProcessor``. There a recall is a mark that takes effect when the message is due, and
always succeeds; here the message is removed at once, so SUCCESS means that it will not be delivered. With
``recall_absent_succeeds`` a message that is absent is answered with SUCCESS, too.
"""

from __future__ import annotations

import time

from ...codes import RequestCode, ResponseCode
from ...errors import RemoteProtocolError, ResponseError, TopicNotExistError
from ...protocol.command import RemotingCommand, response
from ...protocol.headers.send import RecallMessageRequestHeader, RecallMessageResponseHeader
from ...protocol.recall_handle import decode_recall_handle
from ...remoting.connection import Connection
from ...remoting.dispatch import Processor
from ..group.schedule import ScheduleService
from ..group.state import GroupState


class RecallProcessor:
    """Recalls messages that are not due yet."""

    def __init__(self, state: GroupState, schedule: ScheduleService) -> None:
        self._office = state.office
        self._broker_name = state.config.broker_name
        self._absent_succeeds = state.config.recall_absent_succeeds
        self._topics = state.topics
        self._schedule = schedule

    def processors(self) -> dict[int, Processor]:
        return {RequestCode.RECALL_MESSAGE: self._recall}

    async def _recall(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(RecallMessageRequestHeader)
        self._office.require_master("recall failed, ")
        if header.topic not in self._topics.topics:
            raise TopicNotExistError(f"recall failed, the topic[{header.topic}] not exist")
        try:
            handle = decode_recall_handle(header.recall_handle)
        except RemoteProtocolError as error:
            raise _illegal(str(error)) from None
        if handle.topic != header.topic:
            raise _illegal(f"recall failed, topic not match: the handle is of {handle.topic!r}, not {header.topic!r}")
        if handle.broker_name != self._broker_name:
            raise _illegal(
                f"recall failed, broker service not available: the handle is of {handle.broker_name!r}, "
                f"this is {self._broker_name!r}"
            )
        now_ms = int(time.time() * 1000)
        if handle.deliver_ms <= now_ms:
            raise _illegal(f"recall failed, timestamp invalid: due since {now_ms - handle.deliver_ms} ms")
        recalled = await self._schedule.recall(handle.topic, handle.unique_key)
        if not recalled and not self._absent_succeeds:
            raise _illegal(
                f"recall failed, no message {handle.unique_key} of topic {handle.topic!r} waits: it was recalled before"
            )
        return response(command, ResponseCode.SUCCESS, RecallMessageResponseHeader(handle.unique_key))


def _illegal(remark: str) -> ResponseError:
    return ResponseError(remark, code=ResponseCode.ILLEGAL_OPERATION)
