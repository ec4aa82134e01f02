"""The built-in ways to share queues among the consumers of a group, as an ordinary plugin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .hookspecs import AllocateStrategy, hookimpl
from .model import MessageQueue


def allocate_averagely(
    consumer_group: str, current_cid: str, mq_all: Sequence[MessageQueue], cid_all: Sequence[str]
) -> Sequence[MessageQueue]:
    """Contiguous shares; the first consumers take one more. Source: AllocateMessageQueueAveragely ("AVG")."""
    if current_cid not in cid_all:
        return []
    index = cid_all.index(current_cid)
    size, extra = divmod(len(mq_all), len(cid_all))
    start = index * size + min(index, extra)
    return mq_all[start : start + size + (index < extra)]


def allocate_averagely_by_circle(
    consumer_group: str, current_cid: str, mq_all: Sequence[MessageQueue], cid_all: Sequence[str]
) -> Sequence[MessageQueue]:
    """Queues dealt out like cards. Source: AllocateMessageQueueAveragelyByCircle ("AVG_BY_CIRCLE")."""
    if current_cid not in cid_all:
        return []
    return mq_all[cid_all.index(current_cid) :: len(cid_all)]


@hookimpl
def register_allocate_strategies() -> Mapping[str, AllocateStrategy]:
    return {"AVG": allocate_averagely, "AVG_BY_CIRCLE": allocate_averagely_by_circle}
