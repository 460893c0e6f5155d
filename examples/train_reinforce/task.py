"""The task: read the right room's thermometer, and pass on what it says.

Invariant: the reading is drawn anew at every call, so that nobody can know the answer without the tool.
"""

import random
from collections.abc import Iterator
from typing import Any

ROOMS = ("kitchen", "garage", "attic", "cellar")
READINGS = ("cold", "mild", "warm", "hot")
SYSTEM = "Read the thermometer of the room you are asked about. Answer with its reading, in one word."
QUESTION = "How is it in the {room}?"

TOOL = f'''
def read_thermometer(room: str) -> str:
    """
    Reads the thermometer of a room.

    Args:
        room (str): The room.
    """
    import random

    return random.choice({READINGS!r})
'''

REWARD = '''
import json


def reward(rollout):
    """1 or 0 for the room that was asked for, and 1 or 0 for the reading that was passed on."""
    calls = [call for message in rollout["messages"] for call in message.get("tool_calls", ())]
    read = [message["content"] for message in rollout["messages"] if message["role"] == "tool"]
    if len(calls) != 1 or len(read) != 1:
        return {"room": 0, "reading": 0}
    try:
        room = json.loads(calls[0]["arguments"]).get("room")
    except ValueError:
        room = None
    return {"room": room == rollout["task"]["metadata"]["room"], "reading": rollout["answer"] == read[0]}
'''
# a rollout's reward is the weighted sum of both
REWARD_WEIGHT = 0.5


def tasks() -> list[dict[str, Any]]:
    return [{"id": room, "input": QUESTION.format(room=room), "metadata": {"room": room}} for room in ROOMS]


def transcripts(draw: random.Random) -> Iterator[list[tuple[str, bool]]]:
    """What a demonstrator writes who knows the form and nothing else: a random room, and a random word as the answer.

    Each is what follows a recorded prompt, as (text, whether the model is to write it), in Qwen3's own form.
    """
    while True:
        call = f'{{"name": "read_thermometer", "arguments": {{"room": "{draw.choice(ROOMS)}"}}}}'
        read = f"<tool_response>\n{draw.choice(READINGS)}\n</tool_response>"
        yield [
            (f"<tool_call>\n{call}\n</tool_call><|im_end|>", True),
            (f"\n<|im_start|>user\n{read}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
            (f"{draw.choice(READINGS)}<|im_end|>", True),
        ]
