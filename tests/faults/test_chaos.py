"""A short run under faults; ``rmq-redis chaos`` is the long one."""

from __future__ import annotations

import os
from pathlib import Path

from rmq_redis.labs.chaos.run import Chaos, ChaosSettings
from rmq_redis.store.embedded import EmbeddedServer

SEED = int(os.environ.get("RMQ_CHAOS_SEED", "7"))


async def test_no_confirmed_message_is_lost_under_faults(tmp_path: Path, embedded_server: EmbeddedServer) -> None:
    settings = ChaosSettings(directory=tmp_path / "run", seed=SEED, seconds=25.0, faults=8, groups=1, producers=1)
    result = await Chaos(settings, print).run()
    print("\n".join(result.lines()))
    assert result.faults.total() > 0
    assert result.verdict.acked > 100
    assert result.verdict.violations == 0
