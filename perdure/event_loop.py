"""The event loop that a server or a worker lives on, and the garbage collector beside it."""

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any

THRESHOLDS = (5_000, 20, 20)


def run(main: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop
    except ImportError:  # not on Windows
        asyncio.run(main)
    else:
        uvloop.run(main)


def spare_collections() -> None:
    """Call it once everything is loaded: that stays, and need not be looked at again.

    A message makes thousands of objects and hardly a cycle of them: by the interpreter's own thresholds, looking for cycles
    took 4 to 9 % of a message's CPU.
    """
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
