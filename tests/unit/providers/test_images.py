"""Images on their way in: by value afterwards, with the media type that the bytes have."""

import base64
from typing import Any

import pytest

from perdure.core.errors import Invalid
from perdure.core.messages import ImagePart, Message, TextPart, ToolReturn
from perdure.providers.images import fetched, has_addresses, media_type_of
from perdure.providers.web import Web
from perdure.tools.content import content_of

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 20
JPEG = b"\xff\xd8\xff\xe0" + b"0" * 20


class Pages(Web):
    """The web as a table."""

    def __init__(self, pages: dict[str, bytes]) -> None:
        super().__init__()
        self.pages = pages

    async def get(self, url: str, limits: Any = None) -> bytes:
        if url not in self.pages:
            raise Invalid(f"{url} could not be fetched: HTTP 404")
        return self.pages[url]


def message(*parts: Any, **more: Any) -> Message:
    return Message(id="message-1", role="user", created_us=1, content=tuple(parts), **more)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (PNG, "image/png"),
        (JPEG, "image/jpeg"),
        (b"GIF89a....", "image/gif"),
        (b"RIFF....WEBPVP8 ", "image/webp"),
        (b"<svg/>", None),
        (b"", None),
    ],
)
def test_the_bytes_say_what_an_image_is(data: bytes, kind: str | None) -> None:
    assert media_type_of(data) == kind


async def test_every_address_becomes_a_value_in_messages_and_returns() -> None:
    data_url = "data:image/png;base64," + base64.b64encode(JPEG).decode()
    given = message(
        TextPart("look"),
        ImagePart(url="https://example.com/a.png", detail="low"),
        ImagePart(url=data_url),
        tool_returns=(ToolReturn("call_1", "", "success", (ImagePart(url="https://example.com/a.png"),)),),
    )
    assert has_addresses([given])
    (found,) = await fetched([given], Pages({"https://example.com/a.png": PNG}))
    png, jpeg = base64.b64encode(PNG).decode(), base64.b64encode(JPEG).decode()
    assert found.content == (
        TextPart("look"),
        ImagePart(media_type="image/png", data=png, detail="low"),
        ImagePart(media_type="image/jpeg", data=jpeg),
    )
    assert found.tool_returns[0].content == (ImagePart(media_type="image/png", data=png),)
    assert not has_addresses([found])


@pytest.mark.parametrize("url", ["https://example.com/none", "https://example.com/text", "data:image/png;base64,?"])
async def test_an_image_that_cannot_be_had_is_named_by_its_place(url: str) -> None:
    with pytest.raises(Invalid, match=r"^messages\[0\]\.content\[1\]\.source\.url: "):
        await fetched([message(TextPart("a"), ImagePart(url=url))], Pages({"https://example.com/text": b"hello"}))


async def test_a_return_without_images_stays_the_text_it_was() -> None:
    for value in ('["image"]', '[{"type": "text", "text": "\\"image\\""}]', '[{"type": "image"}]', "[1]", "image"):
        assert await content_of(value, is_json=value != "image", web=Pages({})) == value


async def test_a_return_may_hold_images_in_any_of_the_usual_shapes() -> None:
    data = base64.b64encode(PNG).decode()
    image = ImagePart(media_type="image/png", data=data)
    for item in (
        f'{{"type": "image", "source": {{"type": "base64", "media_type": "image/png", "data": "{data}"}}}}',
        f'{{"type": "image", "data": "{data}", "mimeType": "image/png"}}',
        '{"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}',
    ):
        value = f'[{{"type": "text", "text": "here"}}, {item}]'
        found = await content_of(value, is_json=True, web=Pages({"https://example.com/a.png": PNG}))
        assert found == (TextPart("here"), image)
