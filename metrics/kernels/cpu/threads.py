"""Work on several processors, by threads around compiled code that releases the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numba

T = TypeVar("T")
R = TypeVar("R")

_config: Any = numba.config


def in_threads(task: Callable[[T], R], parts: Iterable[T]) -> list[R]:
    """`task` of every part, in order; side by side where there are several parts and processors.

    As many threads as NUMBA_NUM_THREADS says, by default the processors this process may use. numba's own threads
    are not used: they take 150 ms to wake on a busy machine, and may not be shared with a caller's threads."""
    todo = list(parts)
    threads = min(len(todo), int(_config.NUMBA_NUM_THREADS))
    if threads < 2:
        return [task(part) for part in todo]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(task, todo))
