"""What of a wanted answer form (`response_format`) a chat API is sent, and what its model is told in words instead.

Invariant: whatever the provider can do, the model learns of the form one way or the other; the loop checks the answer.
"""

import json
from typing import Any

from perdure.core.model import Prompt
from perdure.providers.dialects import ChatProfile

_OBJECT = "Answer with one JSON object and nothing else: no other text, no code fence."
_SCHEMA = (
    "Your answer to the user must be JSON that fits this JSON schema, and nothing else: no other text, no code fence.\n"
    "{schema}"
)


def format_sent(prompt: Prompt, profile: ChatProfile) -> dict[str, Any] | None:
    """The request's `response_format`: the one that is wanted, a weaker one the provider can hold to, or none."""
    wanted = prompt.settings.response_format
    if wanted is None or wanted.get("type") not in ("json_object", "json_schema"):
        return None
    if prompt.tools and not profile.formats_with_tools:
        return None
    if wanted["type"] in profile.formats:
        return wanted
    return {"type": "json_object"} if "json_object" in profile.formats else None


def system_told(prompt: Prompt, sent: dict[str, Any] | None) -> str:
    """The system prompt, with the form in words where the provider is not sent all of it.

    An object without a schema is always told: APIs refuse the request if no message speaks of JSON.
    """
    wanted = prompt.settings.response_format
    if wanted is None or (wanted.get("type") == "json_schema" and sent is wanted):
        return prompt.system
    told = form_told(wanted)
    return "\n\n".join(each for each in (prompt.system, told) if each)


def form_told(wanted: dict[str, Any]) -> str | None:
    """A wanted form in words for the model; None where any text will do."""
    if wanted.get("type") == "json_object":
        return _OBJECT
    if wanted.get("type") != "json_schema":
        return None
    return _SCHEMA.format(schema=json.dumps(wanted["json_schema"].get("schema") or {}, ensure_ascii=False))
