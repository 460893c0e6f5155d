"""Scores an attempt: reward functions in the sandbox, judges over HTTP.

Invariant: a reward that could not be had is an error of the attempt that says why, never a zero.
"""

import math
from collections.abc import Iterable
from typing import Any

import msgspec

from perdure.core.errors import AgentError, Invalid
from perdure.core.ids import new_id, now_us
from perdure.core.messages import Message, ReasoningPart, TextPart, ToolReturn
from perdure.core.rollouts import Attempt, RewardGiven, RewardSpec, Task
from perdure.core.runs import Run
from perdure.providers.web import Limits, Web
from perdure.tools.sandbox import Sandbox

JUDGE = Limits(max_bytes=1024 * 1024, timeout_s=120.0)
RETURN_CHARS = 20_000


class Scoring:
    def __init__(self, sandbox: Sandbox, web: Web) -> None:
        self._sandbox = sandbox
        self._web = web

    async def score(self, spec: RewardSpec, rollout: dict[str, Any], attempt: Attempt) -> list[RewardGiven]:
        """One reward, or one for each name where the function answers an object. AgentError says what went wrong."""
        try:
            value = await (self._judged(spec, rollout) if spec.url is not None else self._computed(spec, rollout))
        except msgspec.DecodeError as error:
            raise Invalid(f"reward {spec.name!r}: the answer is not JSON: {error}") from error
        assert attempt.agent_id is not None
        named = value if isinstance(value, dict) else {spec.name: value}
        return [
            RewardGiven(
                id=new_id("reward"),
                conversation_id=attempt.agent_id,
                name=name,
                value=_number(spec.name, each),
                weight=spec.weight,
                source=spec.url or "function",
                created_us=now_us(),
            )
            for name, each in named.items()
        ]

    async def _computed(self, spec: RewardSpec, rollout: dict[str, Any]) -> Any:
        assert spec.source_code is not None
        result = await self._sandbox.run(
            source=spec.source_code,
            function="reward",
            args={"rollout": rollout},
            env={},
            return_char_limit=RETURN_CHARS,
        )
        if result.status != "success":
            raise AgentError(f"reward {spec.name!r}: {result.error}")
        truth = {"True": True, "False": False}
        return truth[result.value] if result.value in truth else msgspec.json.decode(result.value)

    async def _judged(self, spec: RewardSpec, rollout: dict[str, Any]) -> Any:
        assert spec.url is not None
        headers = {"Content-Type": "application/json"}
        status, body = await self._web.exchange(spec.url, msgspec.json.encode(rollout), headers, JUDGE)
        if status != 200:
            raise Invalid(f"reward {spec.name!r}: the judge at {spec.url} answered HTTP {status}")
        answer = msgspec.json.decode(body)
        if isinstance(answer, dict):
            return answer.get("rewards", answer.get("reward", answer))
        return answer


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return float(value)
    raise Invalid(f"reward {name!r}: {value!r} is not a finite number")


def shown_to_rewards(attempt: Attempt, task: Task, messages: Iterable[Message], runs: list[Run]) -> dict[str, Any]:
    """What a reward function is given: {rollout_id, task, messages, answer, runs}. `messages` in OpenAI's chat shape."""
    said = [each for message in messages for each in _plain(message)]
    answers = [item["content"] for item in said if item["role"] == "assistant" and item["content"]]
    return {
        "rollout_id": attempt.id,
        "group_index": attempt.group_index,
        "task": {"id": task.id, "turns": list(task.turns), "metadata": task.metadata},
        "messages": said,
        "answer": answers[-1] if answers else "",
        "runs": [
            {
                "id": run.id,
                "status": run.status,
                "stop_reason": run.stop_reason,
                "steps": run.step_count,
                "prompt_tokens": run.usage.prompt_tokens,
                "completion_tokens": run.usage.completion_tokens,
            }
            for run in runs
        ],
    }


def _plain(message: Message) -> list[dict[str, Any]]:
    if message.role == "tool":
        return [
            {
                "role": "tool",
                "tool_call_id": answer.tool_call_id,
                "name": answer.name,
                "status": answer.status,
                "content": _text(answer),
            }
            for answer in message.tool_returns
        ]
    if message.role == "approval" and not message.tool_calls:
        return []
    role = {"approval": "assistant", "summary": "user"}.get(message.role, message.role)
    plain: dict[str, Any] = {"role": role, "content": message.text}
    if thoughts := "".join(part.text for part in message.content if isinstance(part, ReasoningPart)):
        plain["reasoning"] = thoughts
    if message.tool_calls:
        plain["tool_calls"] = [
            {"id": call.id, "name": call.name, "arguments": call.arguments} for call in message.tool_calls
        ]
    return [plain]


def _text(answer: ToolReturn) -> str:
    if isinstance(answer.content, str):
        return answer.content
    return "\n".join(part.text if isinstance(part, TextPart) else "[image]" for part in answer.content)
