"""How a model family writes reasoning and tool calls in its output, as data shared by renderers and parsers."""

from typing import Literal, get_args

from msgspec import Struct, field

ToolFormat = Literal["hermes_json", "qwen_xml", "glm_xml", "llama3_json", "mistral", "deepseek", "harmony", "none"]
Mark = Literal["reasoning_open", "reasoning_close", "tool_open", "tool_close", "frame", "inner"]

TOOL_FORMATS: tuple[ToolFormat, ...] = get_args(ToolFormat)

# The texts that frame a call in each format, and what they do. "frame": the template's, no part of what is said;
# "inner": means something only where the format's own reader stands.
CALL_MARKS: dict[ToolFormat, dict[str, Mark]] = {
    "hermes_json": {"<tool_call>": "tool_open", "</tool_call>": "tool_close"},
    "qwen_xml": {"<tool_call>": "tool_open", "</tool_call>": "tool_close"},
    "glm_xml": {"<tool_call>": "tool_open", "</tool_call>": "tool_close"},
    "llama3_json": {"<|python_tag|>": "inner"},
    "mistral": {"[TOOL_CALLS]": "inner", "[CALL_ID]": "inner", "[ARGS]": "inner"},
    "deepseek": {
        "<｜tool▁calls▁begin｜>": "inner",
        "<｜tool▁calls▁end｜>": "inner",
        "<｜tool▁call▁begin｜>": "tool_open",
        "<｜tool▁call▁end｜>": "tool_close",
        "<｜tool▁sep｜>": "inner",
    },
    "harmony": {
        "<|start|>": "inner",
        "<|channel|>": "inner",
        "<|constrain|>": "inner",
        "<|message|>": "inner",
        "<|end|>": "inner",
        "<|call|>": "inner",
    },
    "none": {},
}

# What a family calls its thinking's borders; harmony has channels instead.
THINK_TAGS = ("<think>", "</think>")
MISTRAL_THINK_TAGS = ("[THINK]", "[/THINK]")

# The names SGLang and vLLM give their parsers, for `model_settings.tool_call_parser`.
PARSER_NAMES: dict[str, ToolFormat] = {
    "hermes": "hermes_json",
    "qwen": "hermes_json",
    "qwen25": "hermes_json",
    "qwen3": "hermes_json",
    "qwen3_coder": "qwen_xml",
    "qwen3_xml": "qwen_xml",
    "qwen3_5": "qwen_xml",
    "qwen35": "qwen_xml",
    "glm": "glm_xml",
    "glm4_moe": "glm_xml",
    "glm45": "glm_xml",
    "glm47": "glm_xml",
    "llama3": "llama3_json",
    "llama3_json": "llama3_json",
    "mistral": "mistral",
    "deepseekv3": "deepseek",
    "deepseekv31": "deepseek",
    "deepseek_v3": "deepseek",
    "deepseek_v31": "deepseek",
    "deepseek_r1": "deepseek",
    "gpt-oss": "harmony",
    "gpt_oss": "harmony",
    "openai": "harmony",
    "none": "none",
}


class OutputDialect(Struct, frozen=True, kw_only=True):
    """`tool_format`: how a call is written; each has a reader in `parsing/`.

    `marker_ids` holds a marker's id where it is one token of the model: then only that id is the marker, and the same
    text spelt out in ordinary tokens is text.
    """

    reasoning_open: str | None = THINK_TAGS[0]
    reasoning_close: str | None = THINK_TAGS[1]
    tool_format: ToolFormat = "hermes_json"
    marker_ids: dict[str, int] = field(default_factory=dict)

    def marks(self) -> dict[str, Mark]:
        """All markers' texts and what each does."""
        found: dict[str, Mark] = dict(CALL_MARKS[self.tool_format])
        if self.reasoning_open:
            found[self.reasoning_open] = "reasoning_open"
        if self.reasoning_close:
            found[self.reasoning_close] = "reasoning_close"
        return found
