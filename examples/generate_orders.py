"""Makes examples/orders.jsonl: the order events that `rmq-redis demo` sends. The same file every time.

    python examples/generate_orders.py                    # writes examples/orders.jsonl
    python examples/generate_orders.py 50000 > big.jsonl  # another number of orders, to standard output

Try your own with `rmq-redis demo --file big.jsonl`. What is in an event is written in rmq_redis/cli/orders.py.
"""

import sys
from pathlib import Path

from rmq_redis.cli.orders import json_lines

if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.stdout.write(json_lines(int(sys.argv[1])))
    else:
        target = Path(__file__).with_name("orders.jsonl")
        target.write_text(json_lines())
        print(f"wrote {target}")
