"""Messages that come later, come again, and dead letters: examples and commands as processes of their own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

from cli_support import DEADLINE_S, environment, up

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.fixture(scope="module")
def namesrv_addr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster of its own for the tests that do not kill anything."""
    with up(tmp_path_factory.mktemp("up")) as cluster:
        yield cluster.wait_until_ready()


def run_example(name: str, namesrv_addr: str) -> str:
    """What an example printed; it must succeed."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env=environment(RMQ_REDIS_NAMESRV_ADDR=namesrv_addr),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_of_delayed_messages(namesrv_addr: str) -> None:
    lines = run_example("delayed.py", namesrv_addr).splitlines()
    assert lines[0] == "recalled True"
    assert lines[1].startswith("recalled once only: recall failed")
    arrived = {re.sub(r": stored when it was due, here -?\d+ ms later$", "", line) for line in lines[2:]}
    assert arrived == {"in 1.5 s", "at a time", "level 1, which is 1 s"}
