"""Which scanner and which reader each format of tool calls has: the one place that knows them all."""

from typing import assert_never

from perdure.core.dialect import ToolFormat
from perdure.parsing.calls import CallReader, Plain, Scanner, Schemas
from perdure.parsing.deepseek_scan import DeepSeekScanner
from perdure.parsing.harmony_scan import HarmonyScanner
from perdure.parsing.json_calls import JsonReader
from perdure.parsing.llama_scan import LlamaReader, LlamaScanner
from perdure.parsing.markers import Piece
from perdure.parsing.mistral_scan import MistralScanner
from perdure.parsing.named_calls import DeepSeekReader, HarmonyReader, MistralReader
from perdure.parsing.tagged_calls import GlmReader, QwenXmlReader

# How many newlines before a call are the template's, where not one; 0: none around thinking and calls, so that those there are
# the model's own.
NEWLINES_BEFORE_CALL: dict[ToolFormat, int] = {"qwen_xml": 2, "mistral": 0, "harmony": 0}


def scanner_of(tool_format: ToolFormat, schemas: Schemas) -> Scanner:
    match tool_format:
        case "llama3_json":
            return LlamaScanner(schemas)
        case "mistral":
            return MistralScanner()
        case "deepseek":
            return DeepSeekScanner()
        case "harmony":
            return HarmonyScanner()
        case "hermes_json" | "qwen_xml" | "glm_xml" | "none":
            return Plain()
        case _:
            assert_never(tool_format)


def reader_of(tool_format: ToolFormat, opening: Piece, schemas: Schemas) -> CallReader:
    """For the call that `opening` begins."""
    match tool_format:
        case "qwen_xml":
            return QwenXmlReader(schemas)
        case "glm_xml":
            return GlmReader(schemas)
        case "llama3_json":
            return LlamaReader()
        case "mistral":
            return MistralReader() if opening.text else JsonReader(has_id=True)
        case "deepseek":
            return DeepSeekReader()
        case "harmony":
            return HarmonyReader(opening.text)
        case "hermes_json" | "none":
            return JsonReader()
        case _:
            assert_never(tool_format)
