"""The clients of the chaos tests: they ask, lose their connections, ask again and write down everything they are shown.

A transcript holds every frame under its number in the run's log. A frame that comes a second time must be the same; one that is
missing or different is a finding (`Transcript.wrong`), whatever the database says.
"""

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.chaos.story import Story

GIVE_UP_S = 240.0


@dataclass
class Transcript:
    """What one client knows of one run. `frames`: number -> the frame as it came. `at`: the number of the last one of this
    connection. `ended`: [DONE] came. `trail`: its connections, in words, for the report of a failure."""

    story: Story
    conversation_id: str
    kind: str
    run_id: str | None = None
    frames: dict[int, str] = field(default_factory=dict)
    ended: bool = False
    answer: dict[str, Any] | None = None
    cancelled: bool = False
    refused: str | None = None
    wrong: list[str] = field(default_factory=list)
    connections: int = 0
    at: int = 0
    trail: list[str] = field(default_factory=list)

    @property
    def last(self) -> int:
        return max(self.frames, default=0)

    def add(self, line: str) -> None:
        if line == "[DONE]":
            self.ended = True
            return
        frame = json.loads(line)
        self.run_id = self.run_id or frame.get("run_id")
        if frame["message_type"] == "ping" and (frame.get("seq_id") or 0) <= self.at:
            return  # nothing has happened since the last one
        seq = self.at = frame.get("seq_id") or self.at + 1  # the stop reason and the usage are sent without one
        if seq in self.frames:
            if self.frames[seq] != line:
                self.wrong.append(f"frame {seq} was shown as {self.frames[seq]} and as {line}")
        elif seq != self.last + 1:
            self.wrong.append(f"frame {seq} came after {self.last}")
        self.frames.setdefault(seq, line)


class Client:
    """One conversation's user: sends its messages one after the other, or several before the first is answered. `kinds`: how
    often it streams, asks and follows, waits for the answer, or changes its mind."""

    def __init__(
        self,
        number: int,
        rng: random.Random,
        agent_id: str,
        urls: Callable[[], list[str]],
        kinds: tuple[int, int, int, int] = (6, 2, 1, 1),
    ) -> None:
        self._kinds = kinds
        self.number = number
        self._rng = rng
        self.agent_id = agent_id
        self._urls = urls
        self.transcripts: list[Transcript] = []

    async def play(self, stories: list[Story]) -> None:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=3, sock_read=8)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while stories:
                together = [stories.pop(0) for _ in range(min(len(stories), self._rng.choice((1, 1, 1, 2))))]
                await asyncio.gather(*(self._run(session, told, at) for at, told in enumerate(together)))

    async def _run(self, session: aiohttp.ClientSession, told: Story, at: int) -> None:
        await asyncio.sleep(0.05 * at)
        kind = self._rng.choices(("stream", "async", "sync", "cancel"), self._kinds)[0]
        transcript = Transcript(told, self.agent_id, kind)
        self.transcripts.append(transcript)
        deadline = asyncio.get_running_loop().time() + GIVE_UP_S
        cancelling = asyncio.ensure_future(self._cancel(session, transcript)) if kind == "cancel" else None
        while not transcript.ended:
            if asyncio.get_running_loop().time() > deadline:
                transcript.wrong.append(f"not over after {GIVE_UP_S:.0f} s")
                break
            try:
                transcript.connections += 1
                await self._connect(session, transcript)
            except (aiohttp.ClientError, OSError, TimeoutError, asyncio.IncompleteReadError):
                pass
            if not transcript.ended:
                await asyncio.sleep(self._rng.uniform(0.05, 0.4))
        if cancelling is not None:
            await cancelling

    async def _connect(self, session: aiohttp.ClientSession, transcript: Transcript) -> None:
        base = self._rng.choice(self._urls())
        now = asyncio.get_running_loop().time()
        transcript.trail.append(f"{now:.1f} {base.rsplit(':', 1)[1]} after {transcript.last}")
        if transcript.run_id is not None and transcript.kind != "sync":
            transcript.at = transcript.last
            body = {"starting_after": transcript.last}
            async with session.post(f"{base}/v1/runs/{transcript.run_id}/stream", json=body) as response:
                await self._read(response, transcript)
            return
        message = {"role": "user", "content": transcript.story.message, "otid": f"otid-{transcript.story.marker}"}
        body = {"messages": [message]}
        transcript.at = 0
        if transcript.kind in ("stream", "cancel"):
            body |= {"streaming": True, "stream_tokens": True, "background": True}
            async with session.post(f"{base}/v1/agents/{self.agent_id}/messages", json=body) as response:
                await self._read(response, transcript)
        elif transcript.kind == "async":
            async with session.post(f"{base}/v1/agents/{self.agent_id}/messages/async", json=body) as response:
                if response.status == 200:
                    transcript.run_id = (await response.json())["id"]
                else:
                    self._refused(transcript, response.status, await response.text())
        else:
            async with session.post(f"{base}/v1/agents/{self.agent_id}/messages", json=body) as response:
                if response.status == 200:
                    transcript.answer, transcript.ended = await response.json(), True
                else:
                    self._refused(transcript, response.status, await response.text())

    async def _read(self, response: aiohttp.ClientResponse, transcript: Transcript) -> None:
        if response.status != 200:
            self._refused(transcript, response.status, await response.text())
            return
        drop_after = self._rng.choice((None, None, None, self._rng.randrange(1, 12)))
        taken = 0
        async for raw in response.content:
            line = raw.decode().strip()
            if line.startswith("data: "):
                transcript.add(line[6:])
                taken += 1
                if drop_after is not None and taken >= drop_after and not transcript.ended:
                    return  # this client's own connection breaks

    def _refused(self, transcript: Transcript, status: int, text: str) -> None:
        transcript.refused = f"{status} {text[:300]}"
        if status == 502 and transcript.kind == "sync":  # the answer to a blocking request is how its run ended
            transcript.ended = True
        elif status < 500 and status not in (409, 429):
            transcript.wrong.append(f"refused: {status} {text[:300]}")
            transcript.ended = True

    async def _cancel(self, session: aiohttp.ClientSession, transcript: Transcript) -> None:
        await asyncio.sleep(self._rng.uniform(0.0, 2.0))
        while not transcript.cancelled and not transcript.ended:
            await asyncio.sleep(0.1)
            if transcript.run_id is None:
                continue
            base = self._rng.choice(self._urls())
            try:
                body = {"run_ids": [transcript.run_id]}
                async with session.post(f"{base}/v1/agents/{self.agent_id}/messages/cancel", json=body) as response:
                    transcript.cancelled = response.status == 200
            except (aiohttp.ClientError, OSError, TimeoutError):
                continue
