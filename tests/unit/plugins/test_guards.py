"""Strategies that break: the default decides, one line is logged, no message is lost; at start a refusal."""

from __future__ import annotations

import logging
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from rmq_redis.errors import ConfigError
from rmq_redis.hookspecs import hookimpl
from rmq_redis.model import Message, MessageQueue
from rmq_redis.plugins import allocate_strategy, create_plugin_manager, offers, queue_selector, read_selector

MESSAGE = Message("T", b"x")
MQ_ALL = [MessageQueue("T", "broker-a", index) for index in range(6)]
CIDS = ["a", "b", "c"]


def plugins(hook: str, **offered: Any) -> Any:
    plugin = SimpleNamespace(**{hook: hookimpl(lambda: offered)})
    return create_plugin_manager(plugins=(plugin,))


def raises(*arguments: Any) -> Any:
    raise ValueError("broken")


async def a_coroutine(*arguments: Any) -> Any:
    return MQ_ALL[0]


@pytest.mark.parametrize("selector", [raises, a_coroutine, lambda *_: None, lambda *_: "broker-a:0"])
def test_failing_selector_is_replaced_by_round_robin(selector: Any, caplog: pytest.LogCaptureFixture) -> None:
    chosen = queue_selector("MINE", plugins("register_queue_selectors", MINE=lambda: selector))
    with caplog.at_level(logging.ERROR):
        picked = Counter(chosen(MQ_ALL, MESSAGE, None) for _ in range(12))
    assert picked == dict.fromkeys(MQ_ALL, 2)
    assert len(caplog.records) == 1
    assert "MINE of plugin" in caplog.text


def test_failing_feedback_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    class Selector:
        report = raises

        def __call__(self, queues: Any, message: Message, key: str | None) -> MessageQueue:
            return MQ_ALL[0]

    chosen: Any = queue_selector("MINE", plugins("register_queue_selectors", MINE=Selector))
    with caplog.at_level(logging.ERROR):
        chosen.report(MQ_ALL[0], 0.1, None)
        chosen.report(MQ_ALL[0], 0.1, None)
    assert len(caplog.records) == 1
    assert not hasattr(chosen, "sending")
    assert chosen(MQ_ALL, MESSAGE, None) == MQ_ALL[0]


@pytest.mark.parametrize(
    ("strategy", "why"),
    [
        (raises, "raised ValueError: broken"),
        (lambda group, cid, mq_all, cid_all: mq_all, "is given 3 times"),
        (lambda group, cid, mq_all, cid_all: mq_all[:1] if cid == "a" else [], "nobody gets"),
        (lambda group, cid, mq_all, cid_all: [MessageQueue("T", "x", 9)], "does not exist"),
        (lambda group, cid, mq_all, cid_all: [7], "which is no queue"),
    ],
)
def test_invalid_shares_are_replaced_by_avg(strategy: Any, why: str, caplog: pytest.LogCaptureFixture) -> None:
    guarded = allocate_strategy("MINE", plugins("register_allocate_strategies", MINE=strategy))
    with caplog.at_level(logging.ERROR):
        shares = [list(guarded("G", cid, MQ_ALL, CIDS)) for cid in CIDS]
    assert shares == [MQ_ALL[:2], MQ_ALL[2:4], MQ_ALL[4:]]
    assert len(caplog.records) == 1
    assert why in caplog.text


def test_strategy_is_checked_again_when_the_lists_change() -> None:
    seen: list[str] = []

    def strategy(group: str, cid: str, mq_all: Any, cid_all: Any) -> Any:
        seen.append(cid)
        return mq_all[cid_all.index(cid) :: len(cid_all)]

    guarded = allocate_strategy("MINE", plugins("register_allocate_strategies", MINE=strategy))
    guarded("G", "a", MQ_ALL, CIDS)
    guarded("G", "a", MQ_ALL, CIDS)
    assert seen == ["a", "b", "c", "a", "a"]
    assert list(guarded("G", "a", MQ_ALL, ["a"])) == MQ_ALL


def test_failing_read_selector_falls_back_to_the_suggestion(caplog: pytest.LogCaptureFixture) -> None:
    for broken in (raises, lambda *_: 7):
        selector = read_selector("MINE", plugins("register_read_selectors", MINE=lambda chosen=broken: chosen))
        assert selector is not None
        assert selector(MQ_ALL[0], {0: "a", 1: "b"}, 1) == 1
    assert len(caplog.records) == 2


def test_plugin_that_fails_at_start_is_named() -> None:
    with pytest.raises(ConfigError, match=r"plugin .*MINE cannot be made: ValueError: broken"):
        queue_selector("MINE", plugins("register_queue_selectors", MINE=raises))
    with pytest.raises(ConfigError, match=r"plugin .*offers 'MINE' as 3"):
        queue_selector("MINE", plugins("register_queue_selectors", MINE=3))
    asked = SimpleNamespace(register_queue_selectors=hookimpl(lambda: int("broken")), __name__="mine")
    with pytest.raises(ConfigError, match=r"plugin mine: register_queue_selectors: ValueError"):
        queue_selector("RANDOM", create_plugin_manager(plugins=(asked,)))


def test_local_plugin_file_is_loaded_or_named_if_broken(tmp_path: Any) -> None:
    good, bad = tmp_path / "good_one.py", tmp_path / "bad_one.py"
    good.write_text(
        "from rmq_redis import hookimpl\n\n\nclass Mine:\n    @hookimpl\n    def register_queue_selectors(self):\n"
        "        return {'MINE': lambda: lambda queues, message, key: queues[-1]}\n"
    )
    bad.write_text("import no_such_module\n")
    manager = create_plugin_manager(local=[f"{good}:Mine"])
    assert queue_selector("mine", manager)(MQ_ALL, MESSAGE, None) == MQ_ALL[-1]
    assert offers("register_queue_selectors", manager, context=_context())["MINE"].plugin_name
    for spec in (str(bad), f"{good}:Nothing", str(tmp_path / "none.py"), "no_such_module_at_all"):
        with pytest.raises(ConfigError, match="cannot be loaded"):
            create_plugin_manager(local=[spec])


def _context() -> Any:
    from rmq_redis.config import ClientConfig
    from rmq_redis.hookspecs import ClientContext

    return ClientContext(ClientConfig(), lambda name: "")
