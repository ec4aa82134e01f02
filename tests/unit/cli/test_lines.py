"""The lines of a pipe or file: none is held back, none is lost, whatever way they come in pieces."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rmq_redis.cli.lines import read_lines
from rmq_redis.errors import MessageIllegalLocallyError


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            try:
                os.close(end)
            except OSError:
                pass  # the test closed it


async def test_line_is_read_as_soon_as_it_is_written(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    chunks = read_lines(reader)
    os.write(writer, b"one\ntwo\nthr")
    assert await anext(chunks) == [b"one", b"two"]
    reading = asyncio.ensure_future(anext(chunks))
    os.write(writer, b"ee\n\nfour")
    assert await reading == [b"three", b""]
    os.close(writer)
    assert await anext(chunks) == [b"four"]
    with pytest.raises(StopAsyncIteration):
        await anext(chunks)


async def test_cancelled_read_does_not_block_the_event_loop(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    reading = asyncio.ensure_future(anext(read_lines(reader)))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    os.write(writer, b"late\n")  # its thread ends, and finds nobody


@pytest.mark.parametrize("body", [b"", b"\n", b"a", b"a\n", b"a\n\nb", b"x" * 200_000 + b"\ny\n" + b"z" * 70_000])
async def test_files_are_split_into_lines_as_by_python(body: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(body)
    with path.open("rb") as file:
        found = [line async for lines in read_lines(file.fileno()) for line in lines]
    with path.open("rb") as file:
        assert found == [line.rstrip(b"\n") for line in file]


async def test_unreadable_input_is_an_error(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(IsADirectoryError):
            await anext(read_lines(directory))
    finally:
        os.close(directory)


async def test_line_above_the_limit_is_refused_before_its_end(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    chunks = read_lines(reader, 10)
    os.write(writer, b"one\n")
    assert await anext(chunks) == [b"one"]
    os.write(writer, b"01234567890")  # and its writer keeps the pipe open
    with pytest.raises(MessageIllegalLocallyError, match="more than 10 bytes"):
        await anext(chunks)
