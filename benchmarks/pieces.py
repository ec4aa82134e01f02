"""What the pieces of one send and one pull cost, in µs a message: ``python benchmarks/pieces.py``.

For finding out where time goes after a change; the whole system is measured by ``rmq-redis bench``.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable

from rmq_redis.client.produce.outgoing import encode_batch, property_text
from rmq_redis.client.produce.topic import QueueTarget
from rmq_redis.codes import RequestCode
from rmq_redis.hosts import pack_host
from rmq_redis.model import Message, MessageQueue
from rmq_redis.protocol.batch import batch_to_records
from rmq_redis.protocol.command import request
from rmq_redis.protocol.frame import decode_command, encode_command, encode_frame
from rmq_redis.protocol.headers.send import SendMessageRequestHeaderV2
from rmq_redis.protocol.ids import UniqKeyGenerator
from rmq_redis.protocol.record import RecordHead, decode_records, encode_record
from rmq_redis.store.group.queue import Queue, deliver

HOST = pack_host("127.0.0.1:10911")
BODY = b"x" * 256
NOW_MS = 1_700_000_000_000
BATCH = 100


def measure(name: str, piece: Callable[[], object], messages: int = 1) -> None:
    """Prints the best of five runs: what is left when nothing else disturbs."""
    number = max(1, 20_000 // messages)
    best = min(timeit.repeat(piece, number=number, repeat=5))
    print(f"{name:<55} {best / number / messages * 1e6:8.2f} µs")


def main() -> None:
    keys = UniqKeyGenerator(HOST[:4], 1, b"salt")
    queue = MessageQueue("bench", "broker-a", 1)
    target = QueueTarget("group", queue, "127.0.0.1:10911")
    message, tagged = Message("bench", BODY), Message("bench", BODY, tags="TagA", keys="k1")
    header = SendMessageRequestHeaderV2(
        "group", "bench", "TBW102", 4, 1, 0, NOW_MS, 0, f"UNIQ_KEY\x01{keys.next(NOW_MS)}\x02WAIT\x01true\x02", 0
    )
    frame = encode_command(request(RequestCode.SEND_MESSAGE_V2, header, BODY))
    properties = b"UNIQ_KEY\x010A000007303918B4AAC2018F3A1B0000\x02WAIT\x01true\x02"

    head = RecordHead(1, 0, 0, NOW_MS, HOST, NOW_MS, HOST)

    def record() -> bytes:
        each = RecordHead(1, 0, 0, NOW_MS, HOST, NOW_MS, HOST, 0, queue_offset=0)  # as the broker: one for each message
        return encode_record(each, b"bench", BODY, properties)

    batch, _ = encode_batch([message] * BATCH, None, keys, NOW_MS, 1 << 22)
    records = [record()] * BATCH
    stored = Queue(queue, 7, b"key")
    delivered = bytes(deliver(stored, records, range(BATCH)))
    template = b'"UNIQ_KEY\\u0001x\\u0002"'

    measure("producer: unique key", lambda: keys.next(NOW_MS))
    measure("producer: properties of a tagged message", lambda: property_text(tagged, None, "id"))
    measure("producer: frame", lambda: encode_frame(target.head % (0, NOW_MS, 0, template, 7), BODY))
    measure("producer: batch of 100", lambda: encode_batch([message] * BATCH, None, keys, NOW_MS, 1 << 22), BATCH)
    measure("broker: frame to typed header", lambda: decode_command(frame, 0, len(frame)).header(type(header)))
    measure("broker: record", record)
    measure(
        "broker: batch of 100 to records",
        lambda: batch_to_records(
            batch,
            head,
            b"bench",
            change=lambda item: (0, item),
            change_all=False,
            suffix=b"",
        ),
        BATCH,
    )
    measure("broker: records to a pull's body", lambda: deliver(stored, records, range(BATCH)), BATCH)
    measure("consumer: records to messages", lambda: decode_records(delivered), BATCH)


if __name__ == "__main__":
    main()
