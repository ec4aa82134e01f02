"""What the store itself does: one connection, XADD in pipelines of 100 and XRANGE COUNT 100.

By redis-benchmark where it is installed, else by the leanest loop that Python allows: packed once, sent over and over,
the answers counted by their line ends and never parsed.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from urllib.parse import urlsplit

PIPELINE = 100
_KEY = b"rmq-bench:limit"
_MOST_MESSAGES = 300_000
"""Takes a second or two."""
_MOST_BYTES = 256 * 1024 * 1024
"""What a measurement may put into the memory of the store."""
_MOST_PIPELINE_BYTES = 4 * 1024 * 1024
"""Larger pipelines would measure the copying of buffers."""
_MOST_ARGUMENT_BYTES = 65_536
"""Half of what Linux allows for one argument (MAX_ARG_STRLEN)."""


def measure(url: str, body_bytes: int, seconds: float) -> tuple[float, float, str]:
    """(messages added a second, messages read a second, what measured it). Leaves no key behind."""
    added = xadd(url, body_bytes, seconds)
    tool = _tool()
    with _connect(url) as connection:
        command = _pack(b"XADD", _KEY, b"0-*", b"m", b"x" * body_bytes)
        connection.sendall(command * PIPELINE)
        _read_lines(connection, 2 * PIPELINE)
        try:
            if tool:
                read = PIPELINE * _by_tool(tool, url, 20_000, PIPELINE, f"XRANGE {_KEY.decode()} - + COUNT {PIPELINE}")
            else:
                read = _xrange(connection, seconds)
        finally:
            _call(connection, b"DEL", _KEY)
    return added, read, tool or "plain socket loop"


def xadd(url: str, body_bytes: int, seconds: float) -> float:
    """Messages of one size added a second, over one connection, in pipelines of 100 or of 4 MiB; leaves no key."""
    tool = _tool()
    pipeline = max(1, min(PIPELINE, _MOST_PIPELINE_BYTES // body_bytes))
    with _connect(url) as connection:
        _call(connection, b"DEL", _KEY)
        try:
            if tool:
                count = max(4 * pipeline, min(_MOST_MESSAGES, _MOST_BYTES // body_bytes))
                return _by_tool(tool, url, count, pipeline, f"XADD {_KEY.decode()} 0-* m", b"x" * body_bytes)
            return _xadd(connection, body_bytes, pipeline, seconds)
        finally:
            _call(connection, b"DEL", _KEY)


def _tool() -> str:
    """Path of redis-benchmark or Valkey's; "" if neither is installed."""
    return shutil.which("redis-benchmark") or shutil.which("valkey-benchmark") or ""


def _connect(url: str) -> socket.socket:
    connection = socket.create_connection(_address(url))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or 6379


def _by_tool(tool: str, url: str, count: int, pipeline: int, command: str, body: bytes = b"") -> float:
    host, port = _address(url)
    arguments = [tool, "-h", host, "-p", str(port), "-c", "1", "-P", str(pipeline), "-n", str(count), "--csv"]
    words = command.split()
    if len(body) > _MOST_ARGUMENT_BYTES:
        arguments.append("-x")  # the last word comes on standard input
    elif body:
        words.append(body.decode())
    done = subprocess.run([*arguments, *words], input=body, capture_output=True, check=True)
    line = [line for line in done.stdout.splitlines() if line.startswith(b'"') and not line.startswith(b'"test"')][-1]
    return float(line.split(b'","')[1].strip(b'"'))


def _pack(*arguments: bytes) -> bytes:
    return b"*%d\r\n" % len(arguments) + b"".join(b"$%d\r\n%b\r\n" % (len(a), a) for a in arguments)


def _read_lines(connection: socket.socket, lines: int) -> int:
    """Reads at least so many lines; returns how many more came."""
    while lines > 0:
        lines -= connection.recv(1 << 20).count(b"\n")
    return -lines


def _call(connection: socket.socket, *arguments: bytes) -> None:
    connection.sendall(_pack(*arguments))
    _read_lines(connection, 1)


def _xadd(connection: socket.socket, body_bytes: int, pipeline: int, seconds: float) -> float:
    """Two pipelines are under way at any time, so the server never waits for us."""
    burst = _pack(b"XADD", _KEY, b"0-*", b"m", b"x" * body_bytes) * pipeline
    connection.sendall(burst)
    sent = surplus = 0
    started = time.perf_counter()
    until = started + seconds
    while time.perf_counter() < until:
        connection.sendall(burst)
        surplus = _read_lines(connection, 2 * pipeline - surplus)  # an answer is $<length> and the ID
        sent += pipeline
    elapsed = time.perf_counter() - started
    _read_lines(connection, 2 * pipeline - surplus)
    return sent / elapsed


def _xrange(connection: socket.socket, seconds: float) -> float:
    command = _pack(b"XRANGE", _KEY, b"-", b"+", b"COUNT", b"%d" % PIPELINE)
    connection.sendall(command)
    size = _first_answer_bytes(connection)
    depth = 4
    connection.sendall(command * depth)
    read = 0
    buffer = bytearray(1 << 20)
    started = time.perf_counter()
    until = started + seconds
    while time.perf_counter() < until:
        connection.sendall(command * depth)
        _read_bytes(connection, size * depth, buffer)
        read += PIPELINE * depth
    elapsed = time.perf_counter() - started
    _read_bytes(connection, size * depth, buffer)
    return read / elapsed


def _first_answer_bytes(connection: socket.socket) -> int:
    """Length of one answer: a line for the whole and eight for each entry (*2, $, id, *2, $, name, $, value)."""
    size, lines = 0, 1 + PIPELINE * 8
    while lines > 0:
        data = connection.recv(1 << 20)
        size += len(data)
        lines -= data.count(b"\n")
    return size


def _read_bytes(connection: socket.socket, size: int, buffer: bytearray) -> None:
    while size > 0:
        size -= connection.recv_into(buffer, min(size, len(buffer)))
