"""The engine is one, whoever comes first."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from sqlalchemy import Engine

from config.database import engine


def test_threads_that_come_at_once_share_one_engine() -> None:
    all_here = Barrier(8)

    def come(_: int) -> Engine:
        all_here.wait()
        return engine()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(come, range(8)))) == 1
