"""QUERY_ASSIGNMENT (400) and SET_MESSAGE_REQUEST_MODE (401): the broker shares out a topic's queues.

For clients that leave rebalancing to the server (``clientRebalance=false``), and for groups that use POP.
Source: RocketMQ 5.3 ``QueryAssignmentProcessor``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from ...codes import RequestCode
from ...errors import (
    InvalidParameterError,
    NoPermissionError,
    TopicNotExistError,
)
from ...model import RETRY_PREFIX, MessageModel, MessageQueue, TopicRouteData, subscribe_queues
from ...plugins.defaults.allocate import allocate_averagely, allocate_averagely_by_circle
from ...plugins.hookspecs import AllocateStrategy
from ...protocol.bodies.base import dumps
from ...protocol.bodies.clients import Assignment, AssignmentQuery, Assignments, RequestModeChange
from ...protocol.command import RemotingCommand, response
from ...remoting.connection import Connection
from ...remoting.dispatch import Processor
from ...store.group.config import RequestMode
from ..group.clients import ClientManager
from ..group.state import GroupState

_STRATEGIES: dict[str, AllocateStrategy] = {
    "AVG": allocate_averagely,
    "AVG_BY_CIRCLE": allocate_averagely_by_circle,
}


class AssignmentProcessor:
    """Answers from the NameServers' route and the members that this broker knows.

    A mode is set on the master; a slave answers with its own data.
    """

    def __init__(
        self, state: GroupState, clients: ClientManager, route_of: Callable[[str], Awaitable[TopicRouteData | None]]
    ) -> None:
        self._office = state.office
        self._topics = state.topics
        self._auto_creation = state.auto_creation
        self._configs = state.configs
        self._clients = clients
        self._route_of = route_of

    def processors(self) -> dict[int, Processor]:
        return {RequestCode.QUERY_ASSIGNMENT: self._query, RequestCode.SET_MESSAGE_REQUEST_MODE: self._set_mode}

    async def _query(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        query = AssignmentQuery.decode(command.body)
        mode = RequestMode()
        if not query.topic.startswith(RETRY_PREFIX):
            mode = await self._configs.request_mode(query.consumer_group, query.topic)
        queues = await self._assigned(query, mode)
        if queues is None:
            return response(command, body=dumps(Assignments()))
        assignments = [Assignment(message_queue=queue, mode=mode.mode) for queue in queues]
        return response(command, body=dumps(Assignments(assignments)))

    async def _assigned(self, query: AssignmentQuery, mode: RequestMode) -> Sequence[MessageQueue] | None:
        group, client_id = query.consumer_group, query.client_id
        route = await self._route_of(query.topic)
        if route is None:
            return None
        mq_all = subscribe_queues(query.topic, route)
        if query.message_model == MessageModel.BROADCASTING:
            return mq_all
        members = self._clients.consumer_groups.get(group)
        cid_all = [] if members is None else members.client_ids()
        name = query.strategy_name or "AVG"
        strategy = _STRATEGIES.get(name)
        if strategy is None:
            raise InvalidParameterError(f"strategy {name!r:.60} is unknown; there are: {', '.join(_STRATEGIES)}")
        if not cid_all or not mq_all:
            return None
        if mode.mode == "POP":
            return share_for_pop(strategy, group, client_id, mq_all, cid_all, mode.pop_share_queue_num)
        return strategy(group, client_id, mq_all, cid_all)

    async def _set_mode(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        self._office.require_master()
        change = RequestModeChange.decode(command.body)
        topic, group = change.topic, change.consumer_group
        if topic.startswith(RETRY_PREFIX):
            raise NoPermissionError(f"the retry topic {topic!r} is always pulled")
        if topic not in self._topics.topics:
            raise TopicNotExistError(f"the topic {topic!r} does not exist on this broker")
        await self._auto_creation.ensure_group(group, retry=False)
        await self._configs.put_request_mode(
            group, topic, RequestMode(mode=change.mode, pop_share_queue_num=change.pop_share_queue_num)
        )
        return response(command)


def share_for_pop(
    strategy: AllocateStrategy,
    group: str,
    client_id: str,
    mq_all: Sequence[MessageQueue],
    cid_all: Sequence[str],
    share_nums: int,
) -> list[MessageQueue]:
    """Queues that a member pops from: all (queue id -1), or its own and those of the ``share_nums`` after it."""
    if share_nums <= 0 or share_nums >= len(cid_all) - 1:
        return [MessageQueue(mq_all[0].topic, name, -1) for name in dict.fromkeys(q.broker_name for q in mq_all)]
    if client_id not in cid_all:
        return []
    index = cid_all.index(client_id)
    if len(cid_all) > len(mq_all):
        return [mq_all[index % len(mq_all)]]
    queues: dict[MessageQueue, None] = {}
    for step in range(share_nums + 1):
        member = cid_all[(index + step) % len(cid_all)]
        queues.update(dict.fromkeys(strategy(group, member, mq_all, cid_all)))
    return list(queues)
