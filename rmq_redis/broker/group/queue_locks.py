"""LOCK_BATCH_MQ (41), UNLOCK_BATCH_MQ (42): an orderly consumer locks a queue before it reads it."""

from __future__ import annotations

from ...codes import RequestCode, ResponseCode
from ...errors import InvalidParameterError, ServiceNotAvailableError
from ...model import MessageQueue, group_name_error, topic_name_error
from ...protocol.bodies.base import dumps
from ...protocol.bodies.clients import LockedQueues, LockRequest
from ...protocol.command import RemotingCommand, response
from ...remoting.connection import Connection
from ...remoting.dispatch import Processor
from ...store.group.locks import LockKey
from .state import GroupState

MAX_LOCKED_QUEUES = 4096
"""Queues of one LOCK_BATCH_MQ or UNLOCK_BATCH_MQ."""


class QueueLockProcessor:
    """Grants and releases queue locks, which the store keeps."""

    def __init__(self, state: GroupState) -> None:
        self._broker_name = state.config.broker_name
        self._office = state.office
        self._locks = state.locks

    def processors(self) -> dict[int, Processor]:
        return {RequestCode.LOCK_BATCH_MQ: self._lock, RequestCode.UNLOCK_BATCH_MQ: self._unlock}

    async def _lock(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        """Grants queues that are free, held by this client, or whose lock was not renewed in time (60 s)."""
        client_id, queues = self._lock_body(command)
        granted = await self._locks.lock(client_id, queues)
        return response(command, body=dumps(LockedQueues([queues[key] for key in granted])))

    async def _unlock(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        client_id, queues = self._lock_body(command)
        await self._locks.unlock(client_id, queues)
        return response(command, ResponseCode.SUCCESS)

    def _lock_body(self, command: RemotingCommand) -> tuple[str, dict[LockKey, MessageQueue]]:
        """(client id, queues by what is locked of them). A slave does not know who has which."""
        body = LockRequest.decode(command.body)
        group, client_id, wanted = body.consumer_group, body.client_id, body.mq_set
        if len(wanted) > MAX_LOCKED_QUEUES:
            raise InvalidParameterError(
                f"a lock request for {len(wanted)} queues; at most {MAX_LOCKED_QUEUES} are allowed; split it"
            )
        queues = {LockKey(group, queue.topic, queue.queue_id): queue for queue in wanted}
        errors = [group_name_error(group), *(topic_name_error(key.topic) for key in queues)]
        for error in filter(None, errors):
            raise InvalidParameterError(error)
        if not self._office.is_master:
            raise ServiceNotAvailableError(
                f"broker {self._broker_name} is a slave; request queue locks from the master"
            )
        return client_id, queues
