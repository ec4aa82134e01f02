"""The settings of a running NameServer, as mqadmin reads and changes them.

Source: RocketMQ 5.3 ``DefaultRequestProcessor.getConfig``, ``updateConfig``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from ..codes import RequestCode
from ..config import NameServerConfig
from ..errors import NoPermissionError, ResponseError
from ..protocol.bodies.java_properties import (
    NAMESRV_FIXED_SETTINGS,
    NAMESRV_SETTING_NAMES,
    decode_java_properties,
    encode_java_properties,
)
from ..protocol.command import RemotingCommand, response
from ..remoting.connection import Connection
from ..remoting.dispatch import Processor
from ..store.redis.url import without_credentials

_MAX_PERIOD_MS = 24 * 3600 * 1000
"""A day: longer, a broker that crashed would still be in the routes the next day."""


def _bool_text(value: bool) -> str:
    return "true" if value else "false"


def _parse_bool(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("expected true or false")
    return text.lower() == "true"


def _ms_text(seconds: float) -> str:
    return str(round(seconds * 1000))


def _parse_ms(text: str) -> float:
    milliseconds = int(text)
    if not 0 < milliseconds <= _MAX_PERIOD_MS:
        raise ValueError(f"expected 1 to {_MAX_PERIOD_MS} ms")
    return milliseconds / 1000


_TEXTS: dict[str, Callable[[Any], str]] = {
    "listen_host": str,
    "listen_port": str,
    "registry": without_credentials,
    "key_prefix": str,
    "broker_expiry_s": _ms_text,
    "sweep_period_s": _ms_text,
    "idle_timeout_s": lambda seconds: f"{seconds:g}",
    "order_message_enable": _bool_text,
}
"""Each setting in RocketMQ's unit."""
_PARSERS: dict[str, Callable[[str], Any]] = {
    "broker_expiry_s": _parse_ms,
    "sweep_period_s": _parse_ms,
    "order_message_enable": _parse_bool,
}
"""The settings that can be changed while the NameServer runs."""
_FIELDS = {wire_name: field for field, wire_name in NAMESRV_SETTING_NAMES.items()}


class SettingsProcessor:
    """Answers GET_NAMESRV_CONFIG and UPDATE_NAMESRV_CONFIG.

    Attributes:
        config: the settings in force.
    """

    def __init__(self, config: NameServerConfig, on_config: Callable[[NameServerConfig], None]) -> None:
        """
        Args:
            on_config: called with settings that were changed while running.
        """
        self.config = config
        self._on_config = on_config

    def processors(self) -> dict[int, Processor]:
        """Handlers by request code."""
        return {
            RequestCode.UPDATE_NAMESRV_CONFIG: self.update_config,
            RequestCode.GET_NAMESRV_CONFIG: self.get_config,
        }

    def get_config(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        shown = {name: _TEXTS[field](getattr(self.config, field)) for field, name in NAMESRV_SETTING_NAMES.items()}
        return response(command, body=encode_java_properties(shown) + b"\n")

    def update_config(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        """Changes all settings of a request, or none. Those fixed at start are refused with NO_PERMISSION."""
        changes: dict[str, Any] = {}
        for name, text in decode_java_properties(command.body).items():
            if name in NAMESRV_FIXED_SETTINGS:
                raise NoPermissionError(f"Can not update config in black list: {name}")
            field = _FIELDS.get(name, "")
            if field not in _PARSERS:
                changeable = ", ".join(name for name, field in _FIELDS.items() if field in _PARSERS)
                raise NoPermissionError(f"{name[:80]} cannot be changed while the NameServer runs, only {changeable}")
            try:
                changes[field] = _PARSERS[field](text)
            except ValueError as error:
                raise ResponseError(f"{name}={text[:80]}: {error}") from None
        self.config = dataclasses.replace(self.config, **changes)
        self._on_config(self.config)
        return response(command)
