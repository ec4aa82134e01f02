"""Settings as mqadmin reads and writes them: Java properties text, and RocketMQ's names of the NameServer's."""

from __future__ import annotations

from collections.abc import Mapping

from ...errors import RemoteProtocolError

NAMESRV_SETTING_NAMES = {
    "listen_host": "bindAddress",
    "listen_port": "listenPort",
    "registry": "registry",
    "key_prefix": "keyPrefix",
    "broker_expiry_s": "brokerNotActiveTimeoutMillis",
    "sweep_period_s": "scanNotActiveBrokerInterval",
    "idle_timeout_s": "serverChannelMaxIdleTimeSeconds",
    "order_message_enable": "orderMessageEnable",
}
"""Field of ``NameServerConfig`` -> RocketMQ's name of it."""
NAMESRV_FIXED_SETTINGS = frozenset({"configBlackList", "configStorePath", "kvConfigPath", "rocketmqHome"})
"""Names that no request may change. Source: ``DefaultRequestProcessor.configBlackList``."""


def camel_case(name: str) -> str:
    """``broker_name`` as ``brokerName``."""
    head, *rest = name.split("_")
    return head + "".join(part.title() for part in rest)


def encode_java_properties(properties: Mapping[str, str]) -> bytes:
    """Lines of ``name=value``."""
    return "\n".join(f"{name}={value}" for name, value in properties.items()).encode()


def decode_java_properties(body: bytes) -> dict[str, str]:
    """Java properties text, as far as mqadmin writes it: ``key=value`` lines, comments. Raises RemoteProtocolError."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise RemoteProtocolError(f"the properties are not UTF-8: {error}") from None
    properties: dict[str, str] = {}
    for line in text.splitlines():
        name, separator, value = line.strip().partition("=")
        if not name or name.startswith(("#", "!")):
            continue
        if not separator:
            raise RemoteProtocolError(f"properties line {line[:80]!r} is not key=value")
        properties[name.strip()] = value.strip()
    return properties
