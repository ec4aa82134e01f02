"""A small service: `rmq-redis up` in one terminal, `rmq-redis run examples.app:app` (or this file) in another."""

import msgspec

from rmq_redis import App


class Order(msgspec.Struct):  # or a dataclass, or a pydantic model
    order_id: int
    amount_cents: int


app = App("example-shop")


@app.on_startup
async def send_one() -> None:
    await app.producer.send_value("example-orders-created", Order(7, 1999), keys="order-7")


@app.consumer("example-orders-created", value=Order, consume_from_where="CONSUME_FROM_FIRST_OFFSET")
async def bill(order: Order) -> None:
    print(f"order {order.order_id}: {order.amount_cents / 100:.2f} EUR", flush=True)


if __name__ == "__main__":
    app.run()
