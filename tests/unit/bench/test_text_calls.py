"""The measurements of text calls and of bridges read what they measure, and say so where they do not."""

import pytest

from perdure.bench.bridges import bridge_ms
from perdure.bench.text_calls import measure_form
from perdure.core.dialect import TOOL_FORMATS, ToolFormat
from perdure.tokens.base import NoBridge, Rendered
from perdure.tokens.qwen3 import Qwen3Renderer
from perdure.tokens.qwen35 import Qwen35Renderer
from tests.doubles.tokenizers import small_tokenizer


@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
def test_each_form_of_calls_is_measured_on_a_call_that_is_read(tool_format: ToolFormat) -> None:
    cost = measure_form(tool_format, tokens=40, rounds=1)
    assert cost.name == f"calls: {tool_format}"
    assert cost.alone_us > 0 and cost.ahead_us > 0


def test_a_bridge_is_measured() -> None:
    assert bridge_ms(Qwen3Renderer(small_tokenizer()), tokens=1_000, rounds=1) > 0
    assert bridge_ms(Qwen35Renderer(small_tokenizer()), tokens=1_000, retention="tool_cycle", rounds=1) > 0


def test_what_begins_a_new_segment_is_no_measurement() -> None:
    class Breaking(Qwen3Renderer):
        def bridge(self, *_: object, **__: object) -> Rendered | NoBridge:
            return NoBridge("renderer_fallback", "it does not want to")

    with pytest.raises(AssertionError, match="renderer_fallback"):
        bridge_ms(Breaking(small_tokenizer()), tokens=1_000, rounds=1)
