"""QUERY_ASSIGNMENT (400) and SET_MESSAGE_REQUEST_MODE (401): the broker shares out a topic's queues.

For clients that leave rebalancing to the server (``clientRebalance=false``), and where a group is to use POP.
Source: RocketMQ 5.3 ``QueryAssignmentProcessor``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ...codes import RequestCode
from ...errors import (
    InvalidParameterError,
    NoPermissionError,
    RemoteProtocolError,
    TopicNotExistError,
)
from ...model import RETRY_PREFIX, MessageQueue, TopicRouteData, subscribe_queues
from ...plugins.defaults.allocate import allocate_averagely, allocate_averagely_by_circle
from ...plugins.hookspecs import AllocateStrategy
from ...protocol.body import dumps, object_body
from ...protocol.command import RemotingCommand, response
from ...remoting.connection import Connection
from ...remoting.server import Processor
from ...store.group.config import ConfigStore, RequestMode
from ..group.clients import ClientManager
from ..group.topics import TopicTable
from ..office import Office

_STRATEGIES: dict[str, AllocateStrategy] = {
    "AVG": allocate_averagely,
    "AVG_BY_CIRCLE": allocate_averagely_by_circle,
}
MODES = ("PULL", "POP")


class AssignmentProcessor:
    """Answers from the route that the NameServers have and the members that this broker knows.

    A mode is set at the master; a slave answers what it knows.
    """

    def __init__(
        self,
        office: Office,
        topics: TopicTable,
        configs: ConfigStore,
        clients: ClientManager,
        route_of: Callable[[str], Awaitable[TopicRouteData | None]],
    ) -> None:
        self._office = office
        self._topics = topics
        self._configs = configs
        self._clients = clients
        self._route_of = route_of

    def processors(self) -> dict[int, Processor]:
        return {RequestCode.QUERY_ASSIGNMENT: self._query, RequestCode.SET_MESSAGE_REQUEST_MODE: self._set_mode}

    async def _query(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        body = object_body(command.body)
        topic, group, client_id = (_text(body, name) for name in ("topic", "consumerGroup", "clientId"))
        mode = RequestMode() if topic.startswith(RETRY_PREFIX) else await self._configs.request_mode(group, topic)
        queues = await self._assigned(body, topic, group, client_id, mode)
        if queues is None:  # a client keeps what it has
            return response(command, body=dumps({}))
        assignments = [{"messageQueue": queue, "mode": mode.mode} for queue in queues]
        return response(command, body=dumps({"messageQueueAssignments": assignments}))

    async def _assigned(
        self, body: dict[str, Any], topic: str, group: str, client_id: str, mode: RequestMode
    ) -> Sequence[MessageQueue] | None:
        route = await self._route_of(topic)
        if route is None:
            return None
        mq_all = subscribe_queues(topic, route)
        if body.get("messageModel") == "BROADCASTING":
            return mq_all
        members = self._clients.consumer_groups.get(group)
        cid_all = [] if members is None else members.client_ids()
        name = body.get("strategyName") or "AVG"
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
        body = object_body(command.body)
        topic, group = _text(body, "topic"), _text(body, "consumerGroup")
        if topic.startswith(RETRY_PREFIX):
            raise NoPermissionError(f"the retry topic {topic!r} is always pulled")
        if topic not in self._topics.topics:
            raise TopicNotExistError(f"the topic {topic!r} does not exist on this broker")
        mode, nums = body.get("mode"), body.get("popShareQueueNum", 0)
        if mode not in MODES or not isinstance(nums, int):
            raise InvalidParameterError(f"mode {mode!r:.40} with popShareQueueNum {nums!r:.40}; expected PULL or POP")
        await self._topics.ensure_group(group, retry=False)
        await self._configs.put_request_mode(group, topic, RequestMode(mode=mode, pop_share_queue_num=nums))
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


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise RemoteProtocolError(f"assignment: {name} must be text, got {value!r:.40}")
    return value
