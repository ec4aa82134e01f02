"""The plugins page: its ten-line load balancer works as it stands there, and it names every strategy."""

from __future__ import annotations

import re
from pathlib import Path

from rmq_redis.config import ClientConfig
from rmq_redis.hookspecs import ClientContext
from rmq_redis.model import Message, MessageQueue
from rmq_redis.plugins import create_plugin_manager, offers, queue_selector

PAGE = (Path(__file__).parents[3] / "docs/plugins.md").read_text()


def test_documented_load_balancer_works(tmp_path: Path) -> None:
    code = re.search(r"```python\n# first_queue.py\n(.*?)```", PAGE, re.DOTALL)
    assert code is not None
    lines = [line for line in code[1].splitlines() if line]
    assert len(lines) <= 10
    (tmp_path / "first_queue.py").write_text(code[1])
    manager = create_plugin_manager(local=[str(tmp_path / "first_queue.py")])
    queues = [MessageQueue("T", "broker-a", index) for index in range(4)]
    selector = queue_selector("first-queue", manager)
    assert [selector(queues, Message("T", b"x"), None) for _ in range(3)] == [queues[0]] * 3


def test_every_built_in_strategy_is_documented() -> None:
    context = ClientContext(ClientConfig(), lambda name: "")
    manager = create_plugin_manager()
    for hook in ("register_queue_selectors", "register_allocate_strategies", "register_read_selectors"):
        names = offers(hook, manager, context=context)
        assert names
        assert [name for name in names if f"`{name.partition('-')[0]}`" not in PAGE] == []
