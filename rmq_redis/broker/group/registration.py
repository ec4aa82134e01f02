"""Keeps the broker registered at every NameServer of its list."""

from __future__ import annotations

import asyncio
import logging
from itertools import count

import msgspec

from ...background import Every
from ...codes import RequestCode, ResponseCode
from ...config import parse_addresses
from ...errors import RmqError, ServiceNotAvailableError, response_error
from ...model import MASTER_ID, TopicRouteData
from ...protocol.bodies.registration import TopicConfigTable, encode_register_body
from ...protocol.bodies.route import decode_route
from ...protocol.command import RemotingCommand, request
from ...protocol.frame import MAX_FRAME_BYTES
from ...protocol.headers.registration import (
    RegisterBrokerRequestHeader,
    RegisterBrokerResponseHeader,
    UnregisterBrokerRequestHeader,
)
from ...protocol.headers.route import GetRouteInfoRequestHeader
from ...remoting.client import RemotingClient
from ...remoting.hedge import call_one_of
from .state import GroupState

logger = logging.getLogger(__name__)

_CALL_TIMEOUT_S = 5.0
"""A NameServer answers from memory, but decodes up to 20,000 topics first."""
REGISTER_WAIT_S = 2.0
"""How long a change waits for its registration at NameServers."""
_ROUTE_TIMEOUT_S = 2.0
"""Less than clients wait for their own call (3 s)."""
_RETRY_FIRST_S = 0.1
"""A NameServer that only closed the connection accepts a new one at once."""
_RETRY_MOST_S = 2.0
"""Within this time, a NameServer that restarts knows its brokers again."""
_MAX_TOPICS_IN_LOOP = 500
"""A registration of more topics is encoded in a thread: 20,000 would hold the event loop for half a second."""


def registration_bodies(table: TopicConfigTable, max_bytes: int = MAX_FRAME_BYTES // 2) -> list[bytes]:
    """Bodies of a broker's registration; more than one if its topics do not fit into a frame.

    NameServers add the topics of a registration with a new DataVersion to those that they know. So each part has a
    DataVersion of its own, and the last part has that of the whole.
    """
    whole = encode_register_body(table)
    if len(whole) <= max_bytes:
        return [whole]
    names = sorted(table.topic_config_table)
    step = max(1, len(names) * max_bytes // (2 * len(whole)))
    version = table.data_version
    bodies = []
    for start in range(0, len(names), step):
        part = {name: table.topic_config_table[name] for name in names[start : start + step]}
        before = len(names) - start - len(part)  # topics in later parts: 0 for the last part
        of_part = msgspec.structs.replace(version, timestamp=version.timestamp - before)
        bodies.append(encode_register_body(TopicConfigTable(part, of_part)))
    return bodies


class Registration:
    """One loop per NameServer: register now, then every period, at once on a change, and again when its connection
    breaks. NameServers that cannot be reached do not hold up the others.
    """

    def __init__(self, state: GroupState) -> None:
        self._config = state.config
        self._office = state.office
        self._addresses = parse_addresses(state.config.namesrv_addr)
        self._broker_addr = state.address
        self._topics = state.topics
        self._client = RemotingClient(on_close=self._disconnected)
        self._loops = {address: self._loop_for(address) for address in self._addresses}
        self._is_started = False
        self._changes = count(1)
        self._wanted = 0
        self._registered: dict[str, int] = {}
        self._unreachable: set[str] = set()
        self._progress = asyncio.Event()
        self._complaint = ""

    def start(self) -> None:
        self._is_started = True
        for loop in self._loops.values():
            loop.start()

    @property
    def registered_namesrvs(self) -> list[str]:
        """NameServers at which the present state of this process is registered."""
        return [
            address
            for address in self._addresses
            if self._registered.get(address, -1) >= self._wanted and address not in self._unreachable
        ]

    async def register_now(self, timeout_s: float = REGISTER_WAIT_S) -> None:
        """Registers a change at all NameServers.

        Waits at most ``timeout_s`` seconds for the NameServers that answered the last time. One that was late is not
        waited for again until it answers. Before ``start`` this does nothing.
        """
        if not self._is_started:
            return
        self._wanted = wanted = next(self._changes)
        for loop in self._loops.values():
            loop.wake()
        try:
            async with asyncio.timeout(timeout_s):
                while self._late(wanted):
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            late = self._late(wanted)
            self._unreachable.update(late)
            if late:  # empty if another change stopped waiting for them, too
                logger.warning("broker %s: not registered yet at %s", self._config.broker_name, ", ".join(late))

    def _late(self, wanted: int) -> list[str]:
        return [a for a in self._addresses if self._registered.get(a, -1) < wanted and a not in self._unreachable]

    def _disconnected(self, address: str) -> None:
        if address in self._loops:
            self._loops[address].wake()

    def _loop_for(self, address: str) -> Every:
        async def keep() -> float:
            version = self._wanted
            try:
                await self._register(address)
            except Exception:
                self._unreachable.add(address)
                self._progress.set()
                raise
            if address not in self._registered or address in self._unreachable:
                logger.info("broker %s: registered at NameServer %s", self._config.broker_name, address)
            self._registered[address] = version
            self._unreachable.discard(address)
            self._progress.set()
            return self._config.register_period_s

        name = f"broker {self._config.broker_name}: registering at NameServer {address}"
        return Every(_RETRY_MOST_S, keep, name, at_once=True, retry_s=_RETRY_FIRST_S)

    def _table(self) -> TopicConfigTable:
        return TopicConfigTable(self._topics.configs(), self._topics.data_version)

    async def _register(self, address: str) -> None:
        table = self._table()
        if len(table.topic_config_table) <= _MAX_TOPICS_IN_LOOP:
            bodies = registration_bodies(table)
        else:
            bodies = await asyncio.to_thread(registration_bodies, table)
        for body in bodies:
            answer = await self._client.call(address, self._request_of(body), _CALL_TIMEOUT_S)
            shown = answer.header(RegisterBrokerResponseHeader).master_addr
            if (
                shown
                and shown != self._broker_addr
                and self._office.broker_id == MASTER_ID
                and shown != self._complaint
            ):
                logger.error(
                    "broker %s: NameServer %s shows %s as the master of this name and does not accept this broker",
                    self._config.broker_name,
                    address,
                    shown,
                )
                self._complaint = shown

    def _request_of(self, body: bytes) -> RemotingCommand:
        header = RegisterBrokerRequestHeader(
            broker_name=self._config.broker_name,
            broker_addr=self._broker_addr,
            cluster_name=self._config.cluster_name,
            broker_id=self._office.broker_id,
            ha_server_addr=self._broker_addr,
            zone_name=self._config.zone or None,
        )
        return request(RequestCode.REGISTER_BROKER, header, body)

    async def close(self, *, unregister: bool = True) -> None:
        """Stops, and unregisters this broker from every NameServer."""
        for loop in self._loops.values():
            loop.cancel()
        if unregister:
            header = UnregisterBrokerRequestHeader(
                self._config.broker_name, self._broker_addr, self._config.cluster_name, self._office.broker_id
            )
            await asyncio.gather(*(self._unregister(address, header) for address in self._addresses))
        await self._client.close()

    async def topic_route(self, topic: str) -> TopicRouteData | None:
        """A topic's route from the first NameServer that answers; None if it has none. Raises RmqError."""
        command = request(
            RequestCode.GET_ROUTEINFO_BY_TOPIC, GetRouteInfoRequestHeader(topic, accept_standard_json_only=True)
        )
        addresses = list(self._client.connections)
        if not addresses:
            raise ServiceNotAvailableError("this broker is not connected to any NameServer")
        address, answer, _ = await call_one_of(self._client, addresses, command, _ROUTE_TIMEOUT_S)
        if answer.code == ResponseCode.TOPIC_NOT_EXIST:
            return None
        if answer.code != ResponseCode.SUCCESS:
            raise response_error(answer.code, answer.remark, address)
        return decode_route(answer.body)

    async def _unregister(self, address: str, header: UnregisterBrokerRequestHeader) -> None:
        if address not in self._client.connections:
            return
        try:
            await self._client.call(address, request(RequestCode.UNREGISTER_BROKER, header), 1.0)
        except RmqError as error:
            logger.info("broker %s: NameServer %s: %s", self._config.broker_name, address, error)
