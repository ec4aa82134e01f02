"""Streams and texts of the terminal: closed streams, encodings other than UTF-8, control characters."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO

_CONTROL = {
    **{code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))},
    **{code: f"\\u{code:04x}" for code in (0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))},
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
}
"""C0 and C1 controls, line separators, and characters that change the direction of a text."""
_CONTROL_OF_LINES = {code: text for code, text in _CONTROL.items() if chr(code) not in "\n\t"}
_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def prepare_streams() -> None:
    """Repairs standard input, output and error. Call it first.

    A closed stream becomes the null device; otherwise the next file that is opened would get its number. A character
    that the output's encoding lacks is printed as an escape: ``\\xe9``.
    """
    for number, (name, mode) in enumerate(_STREAMS):
        stream: TextIO | None = getattr(sys, name)
        if not _is_open(number):
            _open_null(number, os.O_RDONLY if mode == "r" else os.O_WRONLY)
            if mode == "w" and stream is None:
                setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
            continue
        if mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _open_null(number: int, flags: int) -> None:
    opened = os.open(os.devnull, flags)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)
    os.set_inheritable(number, True)


def decode_arguments(arguments: list[str]) -> list[str]:
    """The command line, decoded as UTF-8 where the locale's encoding failed.

    Bytes that are not UTF-8 either stay as surrogates (PEP 383); ``is_text`` finds them.
    """
    return [argument if is_text(argument) else _as_utf8(argument) for argument in arguments]


def _as_utf8(argument: str) -> str:
    try:
        return os.fsencode(argument).decode()
    except UnicodeError:
        return argument


def is_text(value: str) -> bool:
    """Whether a text has no undecodable bytes of the command line."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def argument_bytes(argument: str) -> bytes:
    """A message body from the command line: UTF-8, or the given bytes unchanged."""
    return argument.encode() if is_text(argument) else os.fsencode(argument)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether the stream is a terminal."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def is_utf8(stream: TextIO) -> bool:
    """Whether a stream can print every character."""
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "").replace("_", "") == "utf8"


def visible(text: str) -> str:
    """A name or value on one line, with control characters as escapes, so that a terminal does not execute them."""
    return text.translate(_CONTROL)


def visible_lines(text: str) -> str:
    """As ``visible``, for a text of several lines: line breaks and tabs stay."""
    return text.translate(_CONTROL_OF_LINES)
