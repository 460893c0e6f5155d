"""What is kept in memory is bounded by bytes, not by how many it is."""

from perdure.core.messages import ImagePart, Message, TextPart, ToolCall, ToolReturn
from perdure.core.weighed import Weighed, weight_of


def test_what_was_used_last_stays() -> None:
    kept: Weighed[str, str] = Weighed(10)
    kept.put("a", "A", 4)
    kept.put("b", "B", 4)
    assert kept.get("a") == "A"
    kept.put("c", "C", 4)
    assert (kept.get("a"), kept.get("b"), kept.get("c")) == ("A", None, "C")
    assert (len(kept), kept.weight) == (2, 8)


def test_the_newest_stays_whatever_it_weighs() -> None:
    kept: Weighed[str, str] = Weighed(10)
    kept.put("a", "A", 4)
    kept.put("b", "B", 40)
    assert (kept.get("a"), kept.get("b"), kept.weight) == (None, "B", 40)


def test_what_grows_is_weighed_anew_and_what_goes_weighs_nothing() -> None:
    kept: Weighed[str, str] = Weighed(10)
    kept.put("a", "A", 4)
    kept.put("b", "B", 4)
    kept.put("a", "A", 9)
    assert (kept.get("b"), kept.weight) == (None, 9)
    assert kept.pop("a") == "A"
    assert kept.pop("a") is None
    assert (len(kept), kept.weight) == (0, 0)


def test_messages_weigh_what_they_hold() -> None:
    def message(**what: object) -> Message:
        return Message(id="message-1", role="user", created_us=0, **what)  # type: ignore[arg-type]

    empty = weight_of([message()])
    big = "x" * 100_000
    image = ImagePart(media_type="image/png", data=big)
    for heavy in (
        message(content=(TextPart(big),)),
        message(content=(image,)),
        message(tool_calls=(ToolCall("call_1", "look", big),)),
        message(tool_returns=(ToolReturn("call_1", "look", "success", big),)),
        message(tool_returns=(ToolReturn("call_1", "look", "success", (TextPart("see"), image)),)),
    ):
        assert 100_000 < weight_of([heavy]) - empty < 101_000
    assert weight_of([message(content=(ImagePart(url="https://example.com/a.png"),))]) < empty + 400
