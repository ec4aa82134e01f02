"""Orders in SQLite, payments by message: a payment is asked for exactly when its order is in the database.

Start a cluster first: `rmq-redis up`. Three orders: one goes well, one is refused by the database, and after one the
process "dies" before it can commit the message; the broker asks and gets its answer from SQLite.
"""

import asyncio
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from rmq_redis import AsyncPushConsumer, AsyncTransactionProducer, LocalTransactionState, Message, MessageExt

TOPIC = "example-order-payments"
DATABASE = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()) / "orders.db"
SCHEMA = """
CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, cents INTEGER CHECK (cents > 0));
CREATE TABLE IF NOT EXISTS transactions (id TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS payments (order_id TEXT PRIMARY KEY, cents INTEGER);
"""


class OrderTransaction:
    """The local half. Plain functions: they run in threads, so SQLite does not hold up the event loop."""

    def execute_local_transaction(self, message: Message, cents: int) -> LocalTransactionState:
        try:
            with closing(sqlite3.connect(DATABASE)) as database, database:  # both rows or none
                database.execute("INSERT INTO orders VALUES (?, ?)", (message.keys, cents))
                database.execute("INSERT INTO transactions VALUES (?)", (message.transaction_id,))
        except sqlite3.IntegrityError as error:
            print(f"{message.keys}: not ordered, so not to be paid ({error})", flush=True)
            return LocalTransactionState.ROLLBACK_MESSAGE
        if message.keys == "order-3":
            raise RuntimeError("the process dies here, after SQLite has committed")  # an exception: UNKNOW
        return LocalTransactionState.COMMIT_MESSAGE

    def check_local_transaction(self, message: MessageExt) -> LocalTransactionState:
        with closing(sqlite3.connect(DATABASE)) as database:
            row = database.execute("SELECT 1 FROM transactions WHERE id = ?", (message.transaction_id,)).fetchone()
        print(f"{message.keys}: the broker asks, the database says {'yes' if row else 'not yet'}", flush=True)
        # Not there yet may mean that it is still at work: say so, and be asked again.
        return LocalTransactionState.COMMIT_MESSAGE if row else LocalTransactionState.UNKNOW


async def main() -> None:
    with closing(sqlite3.connect(DATABASE)) as database:
        database.executescript(SCHEMA)
    paid: asyncio.Queue[str] = asyncio.Queue()

    async def pay(message: MessageExt) -> None:
        with closing(sqlite3.connect(DATABASE)) as database, database:
            # A message may come twice; its payment must not.
            database.execute("INSERT OR IGNORE INTO payments VALUES (?, ?)", (message.keys, int(message.text())))
        await paid.put(message.keys)

    async with AsyncTransactionProducer("example-orders", OrderTransaction(), topics=[TOPIC]) as producer:
        for order, cents in (("order-1", 1999), ("order-2", 0), ("order-3", 4500)):
            # Without the property the broker asks after 6 seconds.
            properties = {"CHECK_IMMUNITY_TIME_IN_SECONDS": "1"}
            message = Message(TOPIC, str(cents), keys=order, properties=properties)
            result = await producer.send_message_in_transaction(message, cents)
            print(f"{order}: {result.local_transaction_state.value}", flush=True)
        consumer = AsyncPushConsumer("example-payments", consume_from_where="CONSUME_FROM_FIRST_OFFSET")
        consumer.subscribe(TOPIC, "*", pay)
        async with consumer:
            for _ in range(2):
                print(f"{await paid.get()}: paid", flush=True)


asyncio.run(main())
