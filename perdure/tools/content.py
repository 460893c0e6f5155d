"""A tool's return that holds images: a list of content parts, as tools of every framework write them.

Invariant: a return without an image stays the text it was.
"""

from typing import Any, cast

import msgspec

from perdure.core.errors import Invalid
from perdure.core.messages import ImagePart, TextPart
from perdure.providers.images import fetched_parts
from perdure.providers.web import Web

_list = msgspec.json.Decoder(list[dict[str, Any]])


async def content_of(value: str, *, is_json: bool, web: Web) -> str | tuple[TextPart | ImagePart, ...]:
    """`value` itself, or its parts with every image by value. Invalid: an image of it cannot be had."""
    if not is_json or not value.startswith("[") or '"image"' not in value:
        return value
    try:
        items = _list.decode(value)
    except msgspec.MsgspecError:
        return value
    parts = tuple(_part(item) for item in items)
    if any(part is None for part in parts) or not any(isinstance(part, ImagePart) for part in parts):
        return value
    return await fetched_parts(cast(tuple[TextPart | ImagePart, ...], parts), "return", web)


def _part(item: dict[str, Any]) -> TextPart | ImagePart | None:
    """Shapes: {type: text, text}; {type: image, source: {type: base64|url, ...}}; MCP's {type: image, data, mimeType}."""
    if item.get("type") == "text" and isinstance(item.get("text"), str):
        return TextPart(item["text"])
    if item.get("type") != "image":
        return None
    given = item.get("source", item)
    if not isinstance(given, dict):
        return None
    source = cast(dict[str, Any], given)
    url, data = source.get("url"), source.get("data")
    if isinstance(url, str):
        return ImagePart(url=url)
    media_type = source.get("media_type") or source.get("mimeType") or "image/png"
    if isinstance(data, str) and isinstance(media_type, str):
        # as an address it goes through the same checks as one that was fetched
        return ImagePart(url=f"data:{media_type};base64,{data}")
    return None


def unusable(name: str, error: Invalid) -> str:
    return f"Error executing function {name}: ImageError: {error.message}"
