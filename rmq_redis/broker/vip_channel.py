"""The VIP channel: old Java clients send to the port two below the one that the route names.

Source: RocketMQ ``MixAll.brokerVIPChannel``, ``BrokerController`` (fast remoting server). Clients up to 4.5 use it
unless ``com.rocketmq.sendMessageWithVIPChannel`` is false.
"""

from __future__ import annotations

import logging

from ..config import VIP_PORT_DISTANCE, BrokerConfig
from ..errors import ConfigError
from ..remoting.server import RemotingServer

logger = logging.getLogger(__name__)

AUTOMATIC = -1


async def listen_on_vip_channel(server: RemotingServer, config: BrokerConfig) -> int:
    """Makes a listening server listen for the VIP channel, too; returns the port, 0 for none.

    Raises:
        ConfigError: a configured port cannot be listened on; an automatic one is skipped.
    """
    port = config.fast_listen_port
    if not AUTOMATIC <= port <= 65535:
        raise ConfigError(f"fast_listen_port is {port}; expected a port, 0 (none) or {AUTOMATIC} (automatic)")
    if port > 0:
        await server.listen_also(config.listen_host, port)
        return port
    port = server.port - VIP_PORT_DISTANCE
    if config.fast_listen_port != AUTOMATIC or port <= 0:
        return 0
    try:
        await server.listen_also(config.listen_host, port)
    except ConfigError as error:
        logger.info("broker %s: no VIP channel for old Java clients: %s", config.broker_name, error)
        return 0
    return port
