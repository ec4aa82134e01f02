"""An orderly consumer as a process: notes the start and the end of every handling in a file, until SIGTERM.

Arguments: NameServer, topic, group, name of this consumer, file.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time

from rmq_redis import AsyncPushConsumer, MessageExt
from rmq_redis.client.consume import held_queues, rebalance
from rmq_redis.runtime import run, stop_signals

# Locks of seconds instead of a minute, so that a killed owner's queues are soon free (as the broker's LOCK_EXPIRY_S).
held_queues.LOCK_RENEW_INTERVAL_S = 0.4
held_queues.LOCK_LIVE_S = rebalance.LOCK_LIVE_S = 2.0  # type: ignore[attr-defined]


async def main() -> None:
    namesrv, topic, group, name, path = sys.argv[1:]
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(event: str, message: MessageExt) -> None:
        line = {
            "event": event,
            "consumer": name,
            "queue": f"{message.broker_name}/{message.queue_id}",
            "offset": message.queue_offset,
            "key": message.keys,
            "seq": int(message.text()),
            "at": time.monotonic(),  # one clock for all processes of a machine
        }
        os.write(out, json.dumps(line).encode() + b"\n")

    async def handle(message: MessageExt) -> None:
        note("start", message)
        await asyncio.sleep(random.random() * 0.006)
        note("end", message)

    member = AsyncPushConsumer(
        group, namesrv, orderly=True, consume_from_where="CONSUME_FROM_FIRST_OFFSET", rebalance_interval_s=1.0
    )
    member.subscribe(topic, "*", handle)
    with stop_signals() as stop:
        async with member:
            await stop.wait()


run(main())
