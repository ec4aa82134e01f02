"""KV config: answered from the route table, written to the registry before the answer.

Source: RocketMQ 5.3 ``namesrv/kvconfig/KVConfigManager``.
"""

from __future__ import annotations

from ..codes import RequestCode
from ..errors import QueryNotFoundError, RemoteProtocolError
from ..protocol.bodies.base import dumps
from ..protocol.bodies.topics import KvTable
from ..protocol.command import RemotingCommand, response
from ..protocol.headers.kv_config import KvConfigRequestHeader, KvConfigResponseHeader, KvListRequestHeader
from ..remoting.connection import Connection
from ..remoting.dispatch import Processor
from ..store.registry.entries import check_storable
from ..store.registry.routes import RouteStore
from .routes import RouteTable


class KvConfigProcessor:
    """Reads and writes KV config."""

    def __init__(self, table: RouteTable, store: RouteStore) -> None:
        self._table = table
        self._store = store

    def processors(self) -> dict[int, Processor]:
        """Handlers by request code."""
        return {
            RequestCode.PUT_KV_CONFIG: self.put_kv_config,
            RequestCode.GET_KV_CONFIG: self.get_kv_config,
            RequestCode.DELETE_KV_CONFIG: self.delete_kv_config,
            RequestCode.GET_KVLIST_BY_NAMESPACE: self.get_kv_list,
        }

    async def put_kv_config(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        """Answers once the registry has it, because no client sends KV config again. StoreError becomes code 14."""
        header = command.header(KvConfigRequestHeader)
        if header.value is None:
            raise RemoteProtocolError("put KV config: no value")
        check_storable((header.namespace, header.key, header.value))
        await self.put(header.namespace, header.key, header.value)
        return response(command)

    async def put(self, namespace: str, key: str, value: str) -> None:
        """Sets an entry in the registry, then here. Raises StoreError."""
        await self._store.put_kv(namespace, key, value)
        known = self._table.kv
        self._table.set_kv({**known, namespace: {**known.get(namespace, {}), key: value}})

    def get_kv_config(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(KvConfigRequestHeader)
        value = self._table.kv.get(header.namespace, {}).get(header.key)
        if value is None:
            raise QueryNotFoundError(f"No config item, Namespace: {header.namespace} Key: {header.key}")
        return response(command, header=KvConfigResponseHeader(value))

    async def delete_kv_config(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(KvConfigRequestHeader)
        check_storable((header.namespace, header.key))
        await self.delete(header.namespace, header.key)
        return response(command)

    async def delete(self, namespace: str, key: str) -> None:
        """Deletes an entry in the registry, then here. Raises StoreError."""
        await self._store.delete_kv(namespace, key)
        table = {name: dict(items) for name, items in self._table.kv.items()}
        table.get(namespace, {}).pop(key, None)
        self._table.set_kv({name: items for name, items in table.items() if items})

    def get_kv_list(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        namespace = command.header(KvListRequestHeader).namespace
        items = self._table.kv.get(namespace)
        if not items:
            raise QueryNotFoundError(f"No config item, Namespace: {namespace}")
        return response(command, body=dumps(KvTable(items)))
