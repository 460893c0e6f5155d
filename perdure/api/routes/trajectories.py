"""The token record over HTTP: `traj/1` lines of an agent, a conversation or a run, and rescoring by the engine itself."""

import asyncio
from array import array
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp

from perdure.api.endpoint import route
from perdure.api.errors import json_response
from perdure.api.services import services
from perdure.core.errors import Invalid
from perdure.core.rollouts import ENDED
from perdure.providers.scoring import scorer_of
from perdure.rollouts.drift import drift_report
from perdure.rollouts.export import JSONL, PARQUET
from perdure.rollouts.export.formats import check_format, lines
from perdure.rollouts.rescore import rescored
from perdure.runs.trajectories import Wanted, rollouts

if TYPE_CHECKING:
    from perdure.rollouts.export.parquet import ParquetWriter

NDJSON = "application/x-ndjson"
PARQUET_TYPE = "application/vnd.apache.parquet"
_WANTED = ("agent_id", "run_id", "conversation_id", "job_id")


async def export(request: Request) -> ASGIApp:
    """`GET /v1/trajectories?agent_id=|run_id=|conversation_id=|job_id=`: one rollout a line, as each is read.

    A job's can be sifted by group_id, status, min_reward and max_reward, and paged with after and limit. `format`: `parquet`
    for the record in columns, or a trainer's shape, for lines of that shape.
    """
    query = request.query_params
    name = check_format(query.get("format", JSONL))
    wanted = {name: value for name in _WANTED if (value := query.get(name))}
    made = rollouts(services(request).store, **wanted, wanted=_sifted(query))
    # the first is read before the answer begins, so that what is wrong still has a status of its own
    first = await anext(made, None)
    if first is None:
        return Response(b"", media_type=NDJSON)
    if name == PARQUET:
        from perdure.rollouts.export.parquet import ParquetWriter

        return StreamingResponse(_columns(ParquetWriter(), first, made), media_type=PARQUET_TYPE)
    return StreamingResponse(_lines(name, first, made), media_type=NDJSON)


_SIFTING = ("group_id", "status", "min_reward", "max_reward", "after", "limit")


def _sifted(query: QueryParams) -> Wanted:
    if "job_id" not in query and (alone := [name for name in _SIFTING if name in query]):
        raise Invalid(f"{alone[0]}: goes with job_id; only a job's trajectories are sifted and paged", status=422)
    if unknown := set(query.getlist("status")) - {*ENDED, "running"}:
        known = ", ".join(sorted({*ENDED, "running"}))
        raise Invalid(f"status: {unknown.pop()!r} is not known; use {known}", status=422)

    def number(name: str, kind: Any) -> Any:
        if (text := query.get(name)) is None:
            return None
        try:
            return kind(text)
        except ValueError as error:
            raise Invalid(f"{name}: {text!r} is not a number", status=422) from error

    limit = number("limit", int)
    if limit is not None and limit < 1:
        raise Invalid(f"limit: must be at least 1, not {limit}", status=422)
    return Wanted(
        group_id=query.get("group_id"),
        statuses=tuple(query.getlist("status")),
        min_reward=number("min_reward", float),
        max_reward=number("max_reward", float),
        after=query.get("after"),
        limit=limit,
    )


async def _lines(name: str, first: dict[str, Any], rest: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    """Written in a thread: a long rollout's line takes a while."""
    yield await asyncio.to_thread(lines, first, name)
    async for rollout in rest:
        yield await asyncio.to_thread(lines, rollout, name)


async def _columns(
    writer: "ParquetWriter", first: dict[str, Any], rest: AsyncIterator[dict[str, Any]]
) -> AsyncIterator[bytes]:
    await asyncio.to_thread(writer.write, first)
    yield writer.take()
    async for rollout in rest:
        await asyncio.to_thread(writer.write, rollout)
        yield writer.take()
    yield await asyncio.to_thread(writer.close)


class RescoreRequest(Struct, frozen=True):
    """Score `token_ids[start:]` by the model `handle`, each id given all before it."""

    handle: str
    token_ids: list[int]
    start: int


_decode = msgspec.json.Decoder(RescoreRequest).decode


async def rescore(request: Request) -> ASGIApp:
    """`POST /v1/trajectories/rescore`: raw logprobs from one forward pass of the engine."""
    try:
        body = _decode(await request.body())
    except msgspec.DecodeError as error:
        raise Invalid(f"{error}. Send {{handle, token_ids, start}}.", status=422) from error
    if not 1 <= body.start <= len(body.token_ids):
        raise Invalid(
            f"start: {body.start} is not in [1, {len(body.token_ids)}]: the first id has nothing before it.", status=422
        )
    resolved = await services(request).registry.resolve(body.handle, require_exact=True)
    scorer = scorer_of(resolved.model)
    if scorer is None:
        raise Invalid(f"handle: {body.handle} takes text, not token ids; it cannot score a token record.")
    vocab_size = scorer.vocab_size
    # an id outside the vocabulary ends some engines
    wrong = next((at for at, token_id in enumerate(body.token_ids) if not 0 <= token_id < vocab_size), None)
    if wrong is not None:
        message = f"token_ids[{wrong}]: {body.token_ids[wrong]} is not in the vocabulary of {vocab_size} ids."
        raise Invalid(message, status=422)
    logprobs = await scorer.engine.score(resolved.name, array("i", body.token_ids), body.start, vocab_size)
    return json_response({"logprobs": logprobs})


async def drift(request: Request) -> ASGIApp:
    """`GET /v1/trajectories/drift?agent_id=|run_id=|conversation_id=|job_id=`: what re-rendering would have made of it."""
    parts, query = services(request), request.query_params
    wanted = {name: value for name in _WANTED if (value := query.get(name))}
    return json_response(await drift_report(parts.store, parts.registry, **wanted))


class RescoreRecord(Struct, frozen=True):
    """`model`: the handle to ask, where the policy is served under another now."""

    model: str | None = None


_decode_record = msgspec.json.Decoder(RescoreRecord).decode


async def rescore_record(request: Request) -> ASGIApp:
    """`POST /v1/trajectories/{id}/rescore`: what the weights served now give for all that was sampled, segment by segment.

    The id is of a rollout, run, conversation, agent (its own conversation) or segment.
    """
    try:
        body = _decode_record(await request.body() or b"{}")
    except msgspec.DecodeError as error:
        raise Invalid(f"{error}. Send nothing, or {{model}}.", status=422) from error
    parts = services(request)
    wanted = request.path_params["trajectory_id"]
    segments = await rescored(parts.store, parts.registry, wanted, model=body.model)
    return json_response({"id": wanted, "segments": segments})


routes = [
    route("GET", "/v1/trajectories", export, "export_trajectories"),
    route("GET", "/v1/trajectories/drift", drift, "trajectory_drift"),
    route("POST", "/v1/trajectories/rescore", rescore, "rescore_tokens"),
    route("POST", "/v1/trajectories/{trajectory_id}/rescore", rescore_record, "rescore_trajectory"),
]
