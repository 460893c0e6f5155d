"""Work that is finished whatever happens to who waits for it."""

import asyncio
from typing import Any


async def shielded(work: Any) -> None:
    """Finish `work` even if we are cancelled meanwhile, however often."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    await task
    if cancelled is not None:
        raise cancelled
