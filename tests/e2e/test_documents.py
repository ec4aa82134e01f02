"""Every program of the README and of the docs runs as it stands there, against a cluster.

One that goes on from another page's, or from a name that the reader has, gets that in ``AROUND``.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cli_support import environment, result_of, up

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "plugins/README.md"]
ADDRESS = "127.0.0.1:9876"  # what the documents write
RUNNER = """
import ast, asyncio, inspect, sys
code = compile(open(sys.argv[1]).read(), sys.argv[1], "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
waiting = eval(code, {"__name__": "__main__"})
if inspect.isawaitable(waiting):
    asyncio.run(waiting)
"""
CONSUMER = "from rmq_redis import *\nconsumer = AsyncPushConsumer('g')\nhandle = print\n"
PRODUCER = "from rmq_redis import *\nproducer = Producer('g')\nproducer.start()\n"
PAID = PRODUCER + """producer.send(Message("orders", '{"id": 7}', tags="paid"))\nproducer.close()\n"""
PAID_ORDER = PAID.replace('"id": 7', '"order_id": 7, "cents": 1')
APP_VALUES = "import msgspec\nclass Order(msgspec.Struct):\n    order_id: int\nBill = Order\n"


@dataclass(frozen=True)
class Around:
    """What a page leaves to the reader.

    Attributes:
        before, after: code around the block.
        prints: the beginning of a line that it must print.
        goes_on: it does not end by itself: Ctrl-C after that line, which it takes in order unless ``killed``.
    """

    before: str = ""
    after: str = ""
    prints: str = ""
    goes_on: bool = False
    killed: bool = False


AROUND = {
    "\nconsumer.run_forever()": Around(prints='paid {"id": 7}', goes_on=True),
    "async def main():\n    async with AsyncProducer": Around(prints="SEND_OK "),
    "    await consumer.run_forever()": Around(before=PAID, prints="got ", goes_on=True),
    "with stop_signals()": Around(before=PAID, prints="got ", goes_on=True),
    "consumer.fetch_subscribe_message_queues": Around(before=PAID, prints="queue 0 of orders"),
    "with Admin(": Around(prints="TopicRouteData("),
    "recall_handle)  # returns": Around(
        before=PRODUCER, after="print('recalled', result.msg_id)\nproducer.close()", prints="recalled "
    ),
    "class OrderTransaction": Around(
        before="import sqlite3\nwith sqlite3.connect('orders.db') as database:\n"
        "    database.execute('CREATE TABLE orders (id, cents)')\n"
        "    database.execute('CREATE TABLE transactions (id)')\n",
        prints="COMMIT_MESSAGE",
    ),
    "def price_of": Around(before="lookup = '3.50 for {}'.format", prints="3.50 for tea"),
    "fifo=True)": Around(
        before=PRODUCER + "producer.send(Message('steps', 'created'), key='order-1')",
        prints="created 0",
        goes_on=True,
        killed=True,
    ),
    "consumer.change_invisible_duration(message, 300)": Around(
        before=PRODUCER + "producer.send(Message('jobs', 'job', tags='urgent'))",
        prints="job 0",
        goes_on=True,
        killed=True,
    ),
    "consumer.subscribe(": Around(before=CONSUMER),
    "class Tracing": Around(before="from rmq_redis import *"),
    'app = App("billing")': Around(before=PAID_ORDER, after="app.run()", prints="order 7, delivery 1", goes_on=True),
    "for order_id, cents in": Around(prints="paid 3 SEND_OK"),
    'app = App("shop"': Around(before=APP_VALUES),
    "producer.send_value(": Around(
        before="from rmq_redis import *\nimport msgspec\nconsumer = AsyncPushConsumer('g')\n"
        "producer = AsyncProducer('g')\nawait producer.start()",
        after="await producer.close()",
    ),
    "@idempotent(": Around(before=CONSUMER),
    "running_cluster": Around(
        before="from rmq_redis import App", after="await test_an_order_is_billed()\nprint('ran')", prints="ran"
    ),
    'allocate_strategy="FIRST_TAKES_ALL"': Around(
        before="from rmq_redis import AsyncPushConsumer as Real\nfrom rmq_redis.plugins import create_plugin_manager\n"
        "def AsyncPushConsumer(group, **options):\n"
        "    return Real(group, plugins=create_plugin_manager(local=['rmq_redis_mine.py']), **options)"
    ),
}


def blocks() -> list[tuple[Path, int, str]]:
    """(page, number of the line, code) of each."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            found.append((page, text.count("\n", 0, match.start()) + 2, match[1]))
    return found


BLOCKS = blocks()


@pytest.fixture(scope="module")
def namesrv_addr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with up(tmp_path_factory.mktemp("cluster")) as cluster:
        address = cluster.wait_until_ready()
        result_of("topic", "create", "prices", "-n", address)  # as its page says: else the replier learns of it later
        yield address


@pytest.mark.parametrize(("page", "line", "code"), BLOCKS, ids=[f"{page.name}:{line}" for page, line, _ in BLOCKS])
def test_documented_program_runs(page: Path, line: int, code: str, namesrv_addr: str, tmp_path: Path) -> None:
    around = next((around for part, around in AROUND.items() if part in code), Around())
    for _, _, other in BLOCKS:  # files that a page has its reader make
        if name := re.match(r"# (\w+\.py)\n", other):
            (tmp_path / name[1]).write_text(other)
    program = tmp_path / "program.py"
    topic = f"orders-{uuid.uuid4().hex[:8]}"  # one of its own: what others left would be printed at the same time
    text = f"{around.before}\n{code}\n{around.after}\n"
    if '"orders"' in text:
        result_of("topic", "create", topic, "-n", namesrv_addr)
    program.write_text(text.replace(ADDRESS, namesrv_addr).replace('"orders"', f'"{topic}"'))
    with subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environment(RMQ_REDIS_NAMESRV_ADDR=namesrv_addr, PYTHONUNBUFFERED="1"),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            lines: list[str] = []
            for printed in process.stdout:
                lines.append(printed)
                if around.goes_on and printed.startswith(around.prints):
                    break
            found = any(printed.startswith(around.prints) for printed in lines) or not around.prints
            if around.goes_on and found:
                process.send_signal(signal.SIGKILL if around.killed else signal.SIGINT)
            errors = process.stderr.read()
            assert found, (lines, errors)
            assert around.killed or process.wait() == 0, errors
        finally:
            process.kill()


def test_every_wrapper_belongs_to_a_documented_program() -> None:
    assert [part for part in AROUND if not any(part in code for _, _, code in BLOCKS)] == []
