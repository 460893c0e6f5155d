"""The task: find the queue where work waits, and say how full it is.

Which queue that is stands in no prompt: only the tool knows it, and only the reward tells that it was the right one.
"""

import random
from typing import Any

LEVELS = {"mail": "empty", "net": "low", "server": "full", "port": "high"}
SYSTEM = "Find the queue where work waits. Check one, and answer with what the tool says."
QUESTIONS = ("Which queue needs help?", "Where is work waiting?")

TOOL = f'''
def check_queue(queue: str) -> str:
    """
    Tells how full a queue is.

    Args:
        queue (str): {", ".join(LEVELS)}.
    """
    return {LEVELS!r}[queue]
'''

REWARD = '''
def reward(rollout):
    """Two halves: the full queue was checked, and the answer is what the tool said."""
    calls = [call for message in rollout["messages"] for call in message.get("tool_calls", ())]
    told = [message["content"] for message in rollout["messages"] if message["role"] == "tool"]
    if len(calls) != 1 or len(told) != 1:
        return {"queue": 0, "answer": 0}
    return {"queue": told[0] == "full", "answer": told[0] == rollout["answer"]}
'''
# a rollout's reward is the weighted sum of both
REWARD_WEIGHT = 0.5


def tasks() -> list[dict[str, Any]]:
    return [{"id": str(at), "input": question} for at, question in enumerate(QUESTIONS)]


def transcript(draw: random.Random) -> list[tuple[str, bool]]:
    """What a demonstrator writes who knows the form and nothing else: any queue, and any word as the answer.

    It is what follows a recorded prompt, as (text, whether the model is to write it), in Qwen3's own form.
    """
    queue = draw.choice(list(LEVELS))
    call = f'{{"name": "check_queue", "arguments": {{"queue": "{queue}"}}}}'
    told = f"<tool_response>\n{LEVELS[queue]}\n</tool_response>"
    answer = draw.choice(list(LEVELS.values()))
    return [
        (f"<tool_call>\n{call}\n</tool_call><|im_end|>", True),
        (f"\n<|im_start|>user\n{told}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        (f"{answer}<|im_end|>", True),
    ]
