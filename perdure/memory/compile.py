"""The system text a model is shown: the agent's own system prompt with its memory in it.

Pure: the same agent, counts and time give the same text, and a block's value stands in it unchanged.
"""

import re
from collections.abc import Iterable, Sequence

from perdure.core.agents import Agent, AgentBundle, AgentType, Block, ShownAs, shown_as
from perdure.memory.blocks import LINE_NUMBER_WARNING, lines_of
from perdure.memory.rules_text import render_rules
from perdure.memory.times import spelt

PLACEHOLDER = "{CORE_MEMORY}"
WITHOUT_BLOCKS: frozenset[AgentType] = frozenset({"react_agent", "workflow_agent"})
NUMBERED_AGENTS: frozenset[AgentType] = frozenset({"letta_v1_agent", "memgpt_v2_agent", "sleeptime_agent"})
NUMBERED_ENDPOINTS = frozenset({"anthropic", "bedrock"})

_METADATA_OPEN, _METADATA_CLOSE = "<memory_metadata>", "</memory_metadata>"
_RECOMPILED = "- System prompt last recompiled: "
_RECALL = "- Earlier messages in recall memory (conversation_search finds them): "
_MOVES_BY_ITSELF = re.compile(f"^({re.escape(_RECOMPILED)}|{re.escape(_RECALL)}).*$", re.MULTILINE)


def compile_system_text(
    bundle: AgentBundle,
    *,
    conversation_id: str | None,
    now_us: int,
    previous_message_count: int = 0,
    archival_count: int = 0,
    archive_tags: Sequence[str] = (),
    line_numbers: bool | None = None,
) -> str:
    """`conversation_id`: None for the agent's default conversation. `line_numbers`: number the lines of the values; None: where
    the agent's model reads them (`numbers_lines`). A copy's text names whose copy it is, and when that was made."""
    agent = bundle.agent
    numbered = numbers_lines(agent) if line_numbers is None else line_numbers
    shown = shown_as(agent) or ShownAs(agent_id=agent.id, at_us=now_us)
    sections = [
        "" if agent.agent_type in WITHOUT_BLOCKS else render_blocks(bundle.blocks, line_numbers=numbered),
        render_rules(agent.tool_rules),
        _metadata(
            [
                f"- AGENT_ID: {shown.agent_id}",
                f"- CONVERSATION_ID: {conversation_id or shown.conversation_id or 'default'}",
                f"{_RECOMPILED}{spelt(shown.at_us, agent.timezone)}",
                f"{_RECALL}{previous_message_count}",
                *_archival(archival_count, archive_tags),
            ]
        ),
    ]
    memory = "\n\n".join(section for section in sections if section)
    if PLACEHOLDER in agent.system:
        return agent.system.replace(PLACEHOLDER, memory)
    return f"{agent.system}\n\n{memory}" if agent.system else memory


def numbers_lines(agent: Agent) -> bool:
    """Claude is shown its memory with numbered lines, so that it can say where an edit goes."""
    facts = agent.extra.get("model") or {}
    return agent.agent_type in NUMBERED_AGENTS and facts.get("endpoint_type") in NUMBERED_ENDPOINTS


def memory_sections(bundle: AgentBundle, compiled: str) -> tuple[str, str, str]:
    """(blocks, tool rules, metadata) as they stand in a compiled text; the metadata as it was then."""
    agent = bundle.agent
    blocks = (
        "" if agent.agent_type in WITHOUT_BLOCKS else render_blocks(bundle.blocks, line_numbers=numbers_lines(agent))
    )
    start, end = compiled.rfind(_METADATA_OPEN), compiled.rfind(_METADATA_CLOSE)
    metadata = compiled[start : end + len(_METADATA_CLOSE)] if 0 <= start < end else ""
    return blocks, render_rules(agent.tool_rules), metadata


def same_but_for_time(old: str, new: str) -> bool:
    """Whether two compiled texts differ at most in what moves by itself: their time and the count of messages."""
    return old == new or _timeless(old) == _timeless(new)


def same_for_copies(text: str, agent_id: str) -> str:
    """A compiled text without what differs between copies of an agent: its own id, the time, the count of messages."""
    return _timeless(text).replace(agent_id, "")


def render_blocks(blocks: Iterable[Block], *, line_numbers: bool = False) -> str:
    rendered = "\n\n".join(_block(block, line_numbers) for block in blocks)
    if not rendered:
        return ""
    return f"<memory_blocks>\nThese memory blocks are always in your view:\n\n{rendered}\n</memory_blocks>"


def _block(block: Block, line_numbers: bool) -> str:
    metadata = [f"- chars_current={len(block.value)}", f"- chars_limit={block.limit}"]
    if block.read_only:
        metadata.insert(0, "- read_only=true")
    value, warning = block.value, ""
    if line_numbers and value:
        value = "\n".join(f"{number}→ {line}" for number, line in enumerate(lines_of(value), 1))
        warning = f"<warning>\n{LINE_NUMBER_WARNING}\n</warning>\n"
    return (
        f"<{block.label}>\n<description>\n{block.description or ''}\n</description>\n"
        f"<metadata>\n{chr(10).join(metadata)}\n</metadata>\n"
        f"{warning}<value>\n{value}\n</value>\n</{block.label}>"
    )


def _archival(count: int, tags: Sequence[str]) -> list[str]:
    lines: list[str] = []
    if count > 0:
        lines.append(f"- Passages in archival memory (archival_memory_search finds them): {count}")
    if tags:
        lines.append(f"- Tags in archival memory: {', '.join(sorted(tags))}")
    return lines


def _metadata(lines: Sequence[str]) -> str:
    return "\n".join([_METADATA_OPEN, *lines, _METADATA_CLOSE])


def _timeless(text: str) -> str:
    """The text with the lines that change by themselves emptied, in its last metadata section only."""
    start = text.rfind(_METADATA_OPEN)
    end = text.find(_METADATA_CLOSE, start)
    if start < 0 or end < 0:
        return text
    return text[:start] + _MOVES_BY_ITSELF.sub(r"\1", text[start:end]) + text[end:]
