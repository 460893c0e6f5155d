"""Who recomputes logprobs for `perdure trajectory verify`: a running Perdure, or an engine asked directly.

Each gives a plain function of (model handle, ids, start), so that the verification knows neither.
"""

from array import array
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from perdure.cli.client import ClientError, connect
from perdure.core.errors import ProviderError

if TYPE_CHECKING:
    from perdure.providers.base import TokenEngine
    from perdure.providers.http import Endpoint, Http
    from perdure.tokens.verify_logprobs import Score

PROBE_TIMEOUT_S = 5.0


def server_score(base_url: str) -> "Score":
    client = connect(base_url)

    def score(handle: str, ids: list[int], start: int) -> list[float]:
        body = {"handle": handle, "token_ids": ids, "start": start}
        return client.post("/v1/trajectories/rescore", body)["logprobs"]

    return score


@contextmanager
def engine_score(base_url: str, rollouts: list[dict[str, Any]]) -> "Generator[Score]":
    """An engine's own root URL, llama.cpp's or SGLang's; which it is, it is asked. The record's handles are not looked at."""
    import asyncio

    from perdure.providers.http import Endpoint, Http

    vocab_size = _vocab_size(rollouts)
    with asyncio.Runner() as loop:
        http, endpoint = Http(), Endpoint("engine", base_url)
        try:
            engine = loop.run(_detected(http, endpoint))

            def score(handle: str, ids: list[int], start: int) -> list[float]:
                return loop.run(engine.score(handle.partition("/")[2], array("i", ids), start, vocab_size))

            yield score
        finally:
            loop.run(http.close())


def _vocab_size(rollouts: list[dict[str, Any]]) -> int:
    """An id outside the vocabulary ends some engines, so nothing is sent without knowing its size."""
    sizes = [size for rollout in rollouts if (size := (rollout.get("tokenizer") or {}).get("vocab_size"))]
    if not sizes:
        raise ClientError("The record names no tokenizer, so its ids cannot safely be sent to an engine.")
    return min(sizes)


async def _detected(http: "Http", endpoint: "Endpoint") -> "TokenEngine":
    from perdure.providers.llamacpp import LlamaCpp
    from perdure.providers.sglang import SGLang

    engines: tuple[tuple[str, Any], ...] = (
        ("/props", LlamaCpp),
        ("/model_info", SGLang),
        ("/get_model_info", SGLang),
    )
    for path, engine in engines:
        try:
            await http.call(endpoint, path, method="GET", retry=False, timeout_s=PROBE_TIMEOUT_S)
        except ProviderError as error:
            if error.status is None:
                raise
            if error.status in (401, 403):
                raise ClientError(
                    f"{endpoint.base_url} wants a key. If it is Perdure's own embedded engine, ask it through its server: "
                    "--server URL."
                ) from error
        else:
            return engine(http, endpoint)
    raise ClientError(
        f"{endpoint.base_url} is neither llama.cpp (/props) nor SGLang (/model_info). Give the engine's root, without /v1; "
        "for others use --server with a Perdure that knows the engine."
    )
