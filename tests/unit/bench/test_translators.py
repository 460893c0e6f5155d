"""Every wire format is read to the last token, and what that costs is told."""

import json

import pytest
from click.testing import CliRunner

from perdure.bench.translators import FORMATS, WireFormat, measure
from perdure.cli.main import app
from perdure.core.dialect import TOOL_FORMATS


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_read_to_its_last_token(name: str) -> None:
    cost = measure(name, FORMATS[name], tokens=100, rounds=1)
    assert cost.name == name and cost.alone_us > 0 and cost.ahead_us > 0


def test_a_stream_that_is_not_what_was_asked_for_is_no_measurement() -> None:
    wire = FORMATS["anthropic messages"]
    short = WireFormat(wire.frames, wire.answer, wire.done, lambda tokens: wire.events(tokens - 1))
    with pytest.raises(AssertionError, match="99 chunks"):
        measure("short", short, tokens=100, rounds=1)


def test_the_command() -> None:
    ran = CliRunner().invoke(app, ["bench", "parsers", "--json"])
    assert ran.exit_code in (0, 1), ran.output
    forms = [f"calls: {tool_format}" for tool_format in TOOL_FORMATS]
    assert [cost["name"] for cost in json.loads(ran.output)] == [*FORMATS, *forms]
