"""The state of this broker in its group: whether it may write, and if not, why."""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import StrEnum

from ..config import BrokerConfig
from ..errors import ServiceNotAvailableError, StoreFencedError, StoreLostError
from ..model import MASTER_ID

logger = logging.getLogger(__name__)


class State(StrEnum):
    """The present state of a broker in its group."""

    SLAVE = "slave"
    TAKING_OVER = "taking over"
    """It has the lease, and reads topics, groups and offsets from the store."""
    MASTER = "master"
    FENCED = "fenced"
    """The store refused a write of this master: another process took over, or the store lost its data."""
    STOPPING = "stopping"


class Office:
    """One state for the whole process. Processors read it; ``Leadership`` and ``Broker`` change it, and so does the
    store when it refuses a write.

    Attributes:
        slave_id: the id while it is not the master.
        state: changed by the methods below only.
        is_master: whether queue ends and offsets in memory are current. Only MASTER and SLAVE change it, so a master
            that is fenced off or stops goes on answering reads from memory.
    """

    def __init__(self, config: BrokerConfig) -> None:
        self._broker_name = config.broker_name
        self._role = State.SLAVE
        self._fenced_because = ""
        self._watchers: list[Callable[[], None]] = []
        self.slave_id = max(config.broker_id, 1)
        self.state = State.SLAVE
        self.is_master = False

    @property
    def broker_id(self) -> int:
        """The id in the group; 0 from the start of a takeover on."""
        return self.slave_id if self._role is State.SLAVE else MASTER_ID

    @property
    def is_writing(self) -> bool:
        """Whether the store takes writes with this process's epoch; a broker that stops still writes."""
        return self._role in (State.TAKING_OVER, State.MASTER)

    def on_change(self, watcher: Callable[[], None]) -> None:
        """Calls ``watcher`` after every change of ``state``."""
        self._watchers.append(watcher)

    def require_master(self, prefix: str = "") -> None:
        """Raises ServiceNotAvailableError, with a text that begins with ``prefix``, unless this is a working master."""
        if self.state is not State.MASTER:
            raise ServiceNotAvailableError(prefix + self._refusal())

    def _refusal(self) -> str:
        if self.state is State.STOPPING:
            return "the broker is shutting down; send to another"
        if self._fenced_because:
            return self._fenced_because
        return f"broker {self._broker_name} id {self.slave_id} is a slave; send to the master"

    # --- moves -----------------------------------------------------------------------------------------------------

    def take_over(self) -> None:
        """This broker has the lease, and its epoch is set. A master that keeps the lease stays master."""
        if self._role is not State.MASTER:
            self._move(State.TAKING_OVER)

    def lead(self) -> None:
        """Everything is read: this broker accepts writes, unless it was fenced off meanwhile."""
        if self._role is State.TAKING_OVER:
            self._fenced_because = ""
            self.is_master = True
            self._move(State.MASTER)

    def fence(self, error: StoreFencedError) -> None:
        """The store refused a write of this master."""
        if isinstance(error, StoreLostError):
            self._fenced_because = f"the store of {self._broker_name} has lost what it had; try again in a moment"
        else:
            logger.error(
                "broker %s: another process has taken this group over and this one stops writing: %s",
                self._broker_name,
                error,
            )
            self._fenced_because = f"another process is the master of {self._broker_name} now"
        self._move(State.FENCED)

    def step_down(self) -> None:
        """Another process is the master."""
        self._fenced_because = ""
        self.is_master = False
        self._move(State.SLAVE)

    def stop(self) -> None:
        """The broker shuts down: it finishes accepted requests and refuses new ones. Final."""
        self._set(State.STOPPING)

    def _move(self, role: State) -> None:
        self._role = role
        if self.state is not State.STOPPING:
            self._set(role)

    def _set(self, state: State) -> None:
        if state is not self.state:
            self.state = state
            for watcher in self._watchers:
                watcher()
