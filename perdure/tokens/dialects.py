"""The dialect a model speaks: how it writes thinking and calls, and which of its markers are single tokens of it."""

from perdure.core.dialect import MISTRAL_THINK_TAGS, THINK_TAGS, OutputDialect, ToolFormat
from perdure.tokens.base import Tokenizer


def dialect_of(tool_format: ToolFormat, tokenizer: Tokenizer) -> OutputDialect:
    tags: tuple[str, str] | tuple[None, None] = THINK_TAGS
    if tool_format == "harmony":
        tags = (None, None)  # thinking is a channel
    elif tokenizer.special_id(MISTRAL_THINK_TAGS[0]) is not None:
        tags = MISTRAL_THINK_TAGS
    spoken = OutputDialect(tool_format=tool_format, reasoning_open=tags[0], reasoning_close=tags[1])
    found = ((text, tokenizer.special_id(text)) for text in spoken.marks())
    return OutputDialect(
        tool_format=tool_format,
        reasoning_open=tags[0],
        reasoning_close=tags[1],
        marker_ids={text: token_id for text, token_id in found if token_id is not None},
    )
