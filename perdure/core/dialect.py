"""How a model family writes reasoning and tool calls in its output, as data shared by renderers and parsers."""

from typing import Literal

from msgspec import Struct, field


class OutputDialect(Struct, frozen=True, kw_only=True):
    """`tool_format`: "hermes_json" (`<tool_call>{"name":…,"arguments":…}</tool_call>`), "none", and others as they come.

    `marker_ids` holds a marker's id where it is one token of the model: then only that id is the marker, and the same
    text spelt out in ordinary tokens is text.
    """

    reasoning_open: str | None = "<think>"
    reasoning_close: str | None = "</think>"
    tool_open: str | None = "<tool_call>"
    tool_close: str | None = "</tool_call>"
    tool_format: Literal["hermes_json", "none"] = "hermes_json"
    marker_ids: dict[str, int] = field(default_factory=dict)
