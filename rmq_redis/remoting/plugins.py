"""What plugins may have in any server: authorizers, metrics sinks, start and stop.

All of it is put around the server's functions once, at its start; a server without any runs as if this were not here.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from ..background import Every
from ..codes import RequestCode
from ..errors import ConfigError, NoPermissionError, ResponseError
from ..plugins.hookspecs import ServerRequest
from ..plugins.manager import named_objects, notify_roles
from ..protocol.command import RemotingCommand
from .connection import Connection
from .dispatch import Processor

logger = logging.getLogger(__name__)

_SHORT_NAMES = {int(RequestCode.SEND_MESSAGE_V2), int(RequestCode.SEND_BATCH_MESSAGE)}


def request_of(connection: Connection, command: RemotingCommand) -> ServerRequest:
    """A request as plugins see it."""
    fields = command.ext_fields
    topic = fields.get("b" if command.code in _SHORT_NAMES else "topic", "")
    return ServerRequest(command.code, connection.remote_address, fields, topic, command.body)


class ServerPlugins:
    """The plugins of one server.

    Raises:
        ConfigError: a name that nobody offers, or a plugin that fails.
    """

    def __init__(self, role: str, name: str, config: Any) -> None:
        self._role, self._name, self._config = role, name, config
        asked = {"role": role, "config": config}
        self._authorizers = named_objects("register_authorizers", "authorizer", config.authorizer, **asked)
        self._sinks = named_objects("register_metrics_sinks", "metrics_sink", config.metrics_sink, **asked)
        self._counts: Counter[str] = Counter()
        self._figures: Callable[[], Mapping[str, float]] = dict
        self._recording = Every(config.metrics_period_s, self._record, f"{role} {name}: recording its figures")
        self._started = False

    def wrap(self, processors: dict[int, Processor]) -> dict[int, Processor]:
        """The processors, behind the authorizer and counted for the sink, if there are any."""
        if self._sinks:
            processors = {code: self._counted(code, processor) for code, processor in processors.items()}
        for offer, authorize in self._authorizers:
            processors = {code: _authorized(offer.name, authorize, processor) for code, processor in processors.items()}
        return processors

    def start(self, figures: Callable[[], Mapping[str, float]] = dict) -> None:
        """The server is ready.

        Args:
            figures: more figures for the sink.

        Raises:
            ConfigError: a plugin's ``role_started`` raised.
        """
        self._started = True
        self._figures = figures
        if self._sinks:
            self._recording.start()
        notify_roles("role_started", self._role, self._name, self._config)

    def close(self) -> None:
        """The server stops. A second call does nothing."""
        if not self._started:
            return
        self._started = False
        try:
            notify_roles("role_stopping", self._role, self._name, self._config)
        except ConfigError as error:
            logger.error("%s %s: %s", self._role, self._name, error)
        if self._sinks:
            self._recording.cancel()
            self._record_now()

    def _counted(self, code: int, processor: Processor) -> Processor:
        counts = self._counts
        name = f"requests_{RequestCode(code).name.lower()}_total"

        def counted(connection: Connection, command: RemotingCommand) -> Any:
            counts[name] += 1
            return processor(connection, command)

        return counted

    async def _record(self) -> None:
        self._record_now()

    def _record_now(self) -> None:
        for offer, sink in self._sinks:
            try:
                sink.record(self._role, self._name, {**self._counts, **self._figures()})
            except Exception:
                logger.exception("metrics sink %s of plugin %s failed", offer.name, offer.plugin_name)


def _authorized(name: str, authorize: Callable[[ServerRequest], None], processor: Processor) -> Processor:
    def authorized(connection: Connection, command: RemotingCommand) -> Any:
        try:
            authorize(request_of(connection, command))
        except ResponseError:
            raise
        except Exception:
            logger.exception("authorizer %s failed; request %d is refused", name, command.code)
            raise NoPermissionError(f"the authorizer {name} failed; the server's log has the details") from None
        return processor(connection, command)

    return authorized
