"""What fills a context window, as Letta JSON (ContextWindowOverview), with how it was counted beside it."""

from typing import Any

from perdure.api.resources import MINE
from perdure.api.to_wire import iso, wire_part
from perdure.core.messages import ImagePart, Message, TextPart
from perdure.runs.context_use import ContextUse


def context_overview(use: ContextUse) -> dict[str, Any]:
    """The `num_tokens_*` add up to `context_window_size_current`. `num_tokens_template` (what the chat template adds),
    `token_count_source` ("tokenizer", "provider" or "estimate") and what is `pinned` (its tokens are among the messages') are
    ours."""
    summary = use.summary
    return {
        "context_window_size_max": use.window,
        "context_window_size_current": use.total,
        "num_messages": len(use.messages),
        "num_archival_memory": use.archived,
        "num_recall_memory": use.said,
        "num_tokens_external_memory_summary": use.metadata.tokens,
        "external_memory_summary": use.metadata.text,
        "num_tokens_system": use.system.tokens,
        "system_prompt": use.system.text,
        "num_tokens_core_memory": use.core_memory.tokens,
        "core_memory": use.core_memory.text,
        "num_tokens_memory_filesystem": 0,
        "memory_filesystem": None,
        "num_tokens_tool_usage_rules": use.tool_rules.tokens,
        "tool_usage_rules": use.tool_rules.text or None,
        "num_tokens_directories": 0,
        "directories": None,
        "num_tokens_summary_memory": summary.tokens if summary is not None else 0,
        "summary_memory": summary.text if summary is not None else None,
        "num_tokens_functions_definitions": use.definitions_tokens,
        "functions_definitions": [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.parameters,
                    "strict": tool.strict,
                },
            }
            for tool in use.tools
        ],
        "num_tokens_messages": use.messages_tokens,
        "messages": [_message(message) for message in use.messages],
        "num_tokens_template": use.template_tokens,
        "token_count_source": use.source,
        "pinned": {"message_ids": list(use.pinned_ids), "tokens": use.pinned_tokens},
    }


def _message(message: Message) -> dict[str, Any]:
    """A message as it is stored, in the wire's internal form."""
    returns = message.tool_returns
    return {
        "id": message.id,
        "role": message.role,
        "content": [wire_part(part) for part in message.content if isinstance(part, TextPart | ImagePart)],
        "name": message.name,
        "agent_id": message.agent_id,
        "model": message.model,
        "tool_calls": [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
        or None,
        "tool_call_id": returns[0].tool_call_id if returns else None,
        "tool_returns": [
            {
                "tool_call_id": answer.tool_call_id,
                "status": answer.status,
                "func_response": answer.content
                if isinstance(answer.content, str)
                else [wire_part(part) for part in answer.content],
                "stdout": list(answer.stdout) if answer.stdout else None,
                "stderr": list(answer.stderr) if answer.stderr else None,
            }
            for answer in returns
        ],
        "otid": message.otid,
        "step_id": message.step_id,
        "run_id": message.run_id,
        "conversation_id": message.conversation_id,
        "created_at": iso(message.created_us),
        "updated_at": iso(message.created_us),
        **MINE,
    }
