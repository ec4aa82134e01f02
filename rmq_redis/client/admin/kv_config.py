"""Settings that the NameServers keep for everyone. A part of ``AsyncAdmin``."""

from __future__ import annotations

from ...codes import RequestCode
from ...errors import QueryNotFoundError
from ...protocol.bodies.topics import KvTable
from ...protocol.command import request
from ...protocol.headers.kv_config import KvConfigRequestHeader, KvConfigResponseHeader, KvListRequestHeader
from .calls import AdminCalls


class KvConfigAdmin(AdminCalls):
    """Methods of ``AsyncAdmin`` for the KV config."""

    async def put_kv_config(self, namespace: str, key: str, value: str) -> None:
        """Writes a NameServer setting, at every NameServer."""
        header = KvConfigRequestHeader(namespace, key, value)
        await self._instance.routes.name_servers.call_all(lambda: request(RequestCode.PUT_KV_CONFIG, header))

    async def get_kv_config(self, namespace: str, key: str) -> str | None:
        """A NameServer setting; None when it is not set."""
        try:
            answer = await self._call_name_server(
                request(RequestCode.GET_KV_CONFIG, KvConfigRequestHeader(namespace, key))
            )
        except QueryNotFoundError:
            return None
        return answer.header(KvConfigResponseHeader).value

    async def delete_kv_config(self, namespace: str, key: str) -> None:
        """Removes a NameServer setting, at every NameServer."""
        header = KvConfigRequestHeader(namespace, key)
        await self._instance.routes.name_servers.call_all(lambda: request(RequestCode.DELETE_KV_CONFIG, header))

    async def kv_config(self, namespace: str) -> dict[str, str]:
        """All settings of a namespace; empty when there are none."""
        try:
            answer = await self._call_name_server(
                request(RequestCode.GET_KVLIST_BY_NAMESPACE, KvListRequestHeader(namespace))
            )
        except QueryNotFoundError:
            return {}
        return KvTable.decode(answer.body).table
