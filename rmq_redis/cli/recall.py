"""``rmq-redis recall``: cancel the delivery of a delayed message."""

from __future__ import annotations

from typing import Annotated

from . import lazy
from .option_groups import with_option_groups
from .options import ClientOptions, Json, argument, topic_argument
from .output import print_json, say

PRODUCER_GROUP = "rmq-redis-send"


@with_option_groups
def recall(
    topic: Annotated[str, topic_argument("Topic of the message.")],
    handle: Annotated[str, argument(help="Recall handle, as `send --delay` printed it.")],
    *,
    json: Json = False,
    client: ClientOptions,
) -> None:
    """Cancel a delayed message that is not due yet."""
    lazy.setup_logging(client.log_level)
    msg_id = lazy.run(_recall(topic, handle, client.namesrv))
    if json:
        print_json({"topic": topic, "msg_id": msg_id})
    else:
        say(f"{msg_id}  recalled")


async def _recall(topic: str, handle: str, namesrv: str) -> str:
    async with lazy.AsyncProducer(PRODUCER_GROUP, namesrv) as producer:
        return await producer.recall(topic, handle)
