"""Makes examples/orders.jsonl: the order events that `rmq-redis demo` sends. The same file every time.

    python examples/generate_orders.py                    # writes examples/orders.jsonl
    python examples/generate_orders.py 50000 > big.jsonl  # another number of orders, to standard output

Try your own with `rmq-redis demo --file big.jsonl`. What is in an event is written in rmq_redis/cli/orders.py.
"""

import argparse
import sys
from pathlib import Path

from rmq_redis.cli.orders import json_lines

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Makes the order events that `rmq-redis demo` sends.")
    parser.add_argument("orders", type=int, nargs="?", help="so many orders, to standard output")
    orders = parser.parse_args().orders
    if orders is not None:
        sys.stdout.write(json_lines(orders))
    else:
        target = Path(__file__).with_name("orders.jsonl")
        target.write_text(json_lines())
        print(f"wrote {target}")
