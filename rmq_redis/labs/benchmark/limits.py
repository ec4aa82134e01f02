"""What the store itself does: one connection, XADD in pipelines of 100 and XRANGE COUNT 100.

By redis-benchmark where it is installed, else by the leanest loop that Python allows: packed once, sent over and over,
the answers counted by their line ends and never parsed.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from urllib.parse import urlsplit

PIPELINE = 100
_KEY = b"rmq-bench:limit"


def measure(url: str, body_bytes: int, seconds: float) -> tuple[float, float, str]:
    """(messages added a second, messages read a second, what measured it). Leaves no key behind."""
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 6379
    tool = shutil.which("redis-benchmark") or shutil.which("valkey-benchmark")
    with socket.create_connection((host, port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _call(connection, b"DEL", _KEY)
        if tool is not None:
            added = _by_tool(tool, host, port, 300_000, ["XADD", _KEY.decode(), "0-*", "m", "x" * body_bytes])
        else:
            added = _xadd(connection, body_bytes, seconds)
        _call(connection, b"DEL", _KEY)
        command = _pack(b"XADD", _KEY, b"0-*", b"m", b"x" * body_bytes)
        connection.sendall(command * PIPELINE)
        _read_lines(connection, 2 * PIPELINE)
        if tool is not None:
            arguments = ["XRANGE", _KEY.decode(), "-", "+", "COUNT", "100"]
            read = PIPELINE * _by_tool(tool, host, port, 20_000, arguments)
        else:
            read = _xrange(connection, seconds)
        _call(connection, b"DEL", _KEY)
    return added, read, tool or "plain socket loop"


def _by_tool(tool: str, host: str, port: int, count: int, command: list[str]) -> float:
    arguments = [tool, "-h", host, "-p", str(port), "-c", "1", "-P", str(PIPELINE), "-n", str(count), "--csv"]
    output = subprocess.run([*arguments, *command], capture_output=True, text=True, check=True).stdout
    line = [line for line in output.splitlines() if line.startswith('"') and not line.startswith('"test"')][-1]
    return float(json.loads(f"[{line}]")[1])


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


def _xadd(connection: socket.socket, body_bytes: int, seconds: float) -> float:
    """Two pipelines are under way at any time, so the server never waits for us."""
    burst = _pack(b"XADD", _KEY, b"0-*", b"m", b"x" * body_bytes) * PIPELINE
    connection.sendall(burst)
    sent = surplus = 0
    started = time.perf_counter()
    until = started + seconds
    while time.perf_counter() < until:
        connection.sendall(burst)
        surplus = _read_lines(connection, 2 * PIPELINE - surplus)  # an answer is $<length> and the ID
        sent += PIPELINE
    elapsed = time.perf_counter() - started
    _read_lines(connection, 2 * PIPELINE - surplus)
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
