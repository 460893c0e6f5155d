"""Images as they come in: by value, or fetched once, so that no model call depends on somebody's web server.

Invariant: what `fetched` returns holds no address any more, and its media type is what the bytes say.
"""

import asyncio
import base64
import binascii
from collections.abc import Sequence
from typing import TypeVar
from urllib.parse import unquote_to_bytes

import msgspec

from perdure.core.errors import Invalid
from perdure.core.messages import ImagePart, Message, Part
from perdure.providers.base import Model
from perdure.providers.limited import unlimited
from perdure.providers.web import Limits, Web

MAX_BYTES = 20 * 1024 * 1024
KNOWN = "PNG, JPEG, GIF or WebP"
_P = TypeVar("_P", bound=Part)


def media_type_of(data: bytes) -> str | None:
    """By its first bytes; None: not an image that models take."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return None


def has_addresses(messages: Sequence[Message]) -> bool:
    """Whether anything is to be fetched: the question that every message is asked."""
    for message in messages:
        for part in message.content:
            if type(part) is ImagePart and part.url is not None:
                return True
        for answer in message.tool_returns:
            if not isinstance(answer.content, str) and any(
                isinstance(part, ImagePart) and part.url is not None for part in answer.content
            ):
                return True
    return False


def has_images(message: Message) -> bool:
    return any(isinstance(part, ImagePart) for part in message.content) or any(
        isinstance(part, ImagePart)
        for answer in message.tool_returns
        if not isinstance(answer.content, str)
        for part in answer.content
    )


def takes_images(model: Model) -> bool:
    """False for a model that is known to read text only."""
    return getattr(unlimited(model), "takes_images", True)


async def fetched(messages: Sequence[Message], web: Web) -> tuple[Message, ...]:
    """The messages with every image by value. Invalid names the message and the part."""
    return tuple(await asyncio.gather(*(_message(message, at, web) for at, message in enumerate(messages))))


async def _message(message: Message, at: int, web: Web) -> Message:
    content = await fetched_parts(message.content, f"messages[{at}].content", web)
    returns = [
        answer
        if isinstance(answer.content, str)
        else msgspec.structs.replace(
            answer,
            content=await fetched_parts(answer.content, f"messages[{at}].tool_returns[{each}].tool_return", web),
        )
        for each, answer in enumerate(message.tool_returns)
    ]
    return msgspec.structs.replace(message, content=content, tool_returns=tuple(returns))


async def fetched_parts(parts: Sequence[_P], where: str, web: Web) -> tuple[_P, ...]:
    return tuple(
        await asyncio.gather(*(_part(part, f"{where}[{at}]", web) for at, part in enumerate(parts)))  # type: ignore[misc]
    )


async def _part(part: Part, where: str, web: Web) -> Part:
    if not isinstance(part, ImagePart) or part.url is None:
        return part
    place = f"{where}.source.url"
    if part.url.startswith("data:"):
        data = _of_data_url(part.url, place)
    else:
        try:
            data = await web.get(part.url, Limits(max_bytes=MAX_BYTES))
        except Invalid as error:
            raise Invalid(f"{place}: {error.message}") from error
    media_type = media_type_of(data)
    if media_type is None:
        raise Invalid(f"{place}: is not an image that models take; use {KNOWN}")
    return ImagePart(media_type=media_type, data=base64.b64encode(data).decode(), detail=part.detail)


def _of_data_url(url: str, place: str) -> bytes:
    head, comma, body = url.partition(",")
    if not comma:
        raise Invalid(f"{place}: a data URL is data:<media type>;base64,<data>")
    try:
        data = base64.b64decode(body, validate=True) if head.endswith(";base64") else unquote_to_bytes(body)
    except (binascii.Error, ValueError) as error:
        raise Invalid(f"{place}: is not valid base64 ({error})") from error
    if len(data) > MAX_BYTES:
        raise Invalid(f"{place}: is larger than {MAX_BYTES // (1024 * 1024)} MB")
    return data
