"""``python -m rmq_redis``: the same as the command ``rmq-redis``."""

from .cli import main

if __name__ == "__main__":
    main()
