"""The OpenAPI document: what FastAPI knows of our requests, plus what our answers and the plain message routes look like.

Made when somebody asks for it, so it costs a server that nobody asks nothing. Operation ids are the wire's own.
"""

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.routing import BaseRoute, Route

from perdure.api.message_requests import SendRequest, StreamRequest

# a field's type: "?" means or null, "[x]" a list of x, "{}" any object, "any" anything; a capital letter refers to a schema
_ANSWERS: dict[str, str] = {
    "AgentState": """
        id string, name string, description string?, agent_type string, system string, tool_rules [{}],
        message_ids [string], model string, model_settings {}, llm_config {}, embedding string?, embedding_config {}?,
        compaction_settings {}?, response_format {}?, metadata {}, memory {}, blocks [Block], tools [Tool], tags [string],
        sources [{}], secrets [{}], tool_exec_environment_variables [{}], identity_ids [string], identities [{}],
        pending_approval {}?, managed_group Group?, multi_agent_group Group?, message_buffer_autoclear boolean,
        enable_sleeptime boolean?, last_run_completion date?, last_run_duration_ms integer?, last_stop_reason string?,
        timezone string, max_files_open integer?, per_file_view_window_char_limit integer?, hidden boolean?,
        project_id string?, template_id string?, base_template_id string?, deployment_id string?, entity_id string?,
        memory_rendering string, thinking_retention string, created_at date, updated_at date, created_by_id string?,
        last_updated_by_id string?""",
    "Group": """
        id string, manager_type string, agent_ids [string], description string, project_id string?, template_id string?,
        base_template_id string?, deployment_id string?, shared_block_ids [string], manager_agent_id string?,
        termination_token string?, max_turns integer?, sleeptime_agent_frequency integer?, turns_counter integer?,
        last_processed_message_id string?, max_message_buffer_length integer?, min_message_buffer_length integer?,
        hidden boolean?""",
    "Block": """
        id string, label string, value string, limit integer, description string?, read_only boolean, metadata {},
        tags [string], hidden boolean?, is_template boolean, project_id string?, template_name string?, template_id string?,
        base_template_id string?, deployment_id string?, entity_id string?, preserve_on_migration boolean?,
        created_by_id string?, last_updated_by_id string?""",
    "Tool": """
        id string, name string, tool_type string, description string?, source_type string?, source_code string?,
        json_schema {}, args_json_schema {}?, tags [string], return_char_limit integer, pip_requirements [{}]?,
        npm_requirements [{}]?, default_requires_approval boolean?, enable_parallel_execution boolean, idempotent boolean?,
        metadata_ {}?, project_id string?, created_by_id string?, last_updated_by_id string?""",
    "ToolExecutionResult": """
        status string, func_return any, agent_state {}?, stdout [string]?, stderr [string]?,
        sandbox_config_fingerprint string?""",
    "ToolSearchResult": "tool Tool, embedded_text string?, fts_rank integer?, vector_rank integer?, combined_score number",
    "Run": """
        id string, agent_id string, conversation_id string?, status string, stop_reason string?, background boolean?,
        created_at date, completed_at date?, metadata {}?, request_config {}?, callback_url string?, callback_sent_at date?,
        callback_status_code integer?, callback_error string?, ttft_ns integer?, total_duration_ns integer?,
        base_template_id string?""",
    "RunMetrics": """
        id string, agent_id string?, project_id string?, run_start_ns integer?, run_ns integer?, num_steps integer?,
        tools_used [string]?, template_id string?, base_template_id string?""",
    "UsageStatistics": """
        prompt_tokens integer, completion_tokens integer, total_tokens integer, prompt_tokens_details {}?,
        completion_tokens_details {}?""",
    "Step": """
        id string, origin string?, provider_id string?, run_id string?, agent_id string?, provider_name string?,
        provider_category string?, model string?, model_handle string?, model_endpoint string?, context_window_limit integer?,
        completion_tokens integer?, prompt_tokens integer?, total_tokens integer?, cached_input_tokens integer?,
        cache_write_tokens integer?, reasoning_tokens integer?, completion_tokens_details {}?, prompt_tokens_details {}?,
        stop_reason string?, tags [string], tid string?, trace_id string?, request_id string?, messages [{}],
        feedback string?, project_id string?, error_type string?, error_data {}?, status string?, created_at date,
        not_exact string?""",
    "StepMetrics": """
        id string, provider_id string?, run_id string?, agent_id string?, step_start_ns integer?,
        llm_request_start_ns integer?, llm_request_ns integer?, tool_execution_ns integer?, step_ns integer?, ttft_ns integer?,
        base_template_id string?, template_id string?, project_id string?""",
    "ProviderTrace": """
        id string, request_json {}, response_json {}, step_id string?, agent_id string?, agent_tags [string]?,
        call_type string?, run_id string?, source string?, org_id string?, compaction_settings {}?, llm_config {}?,
        billing_context {}?, created_at date, updated_at date?, created_by_id string?, last_updated_by_id string?""",
    "Model": """
        handle string?, name string, display_name string?, provider_type string, provider_name string?,
        provider_category string?, model_type string, model string, model_endpoint_type string, model_endpoint string?,
        context_window integer?, max_context_window integer?, temperature number, max_tokens integer?,
        enable_reasoner boolean, parallel_tool_calls boolean?, strict boolean, return_logprobs boolean,
        return_token_ids boolean""",
    "EmbeddingModel": """
        handle string?, name string, display_name string, provider_type string, provider_name string, model_type string,
        embedding_endpoint_type string, embedding_endpoint string?, embedding_model string, embedding_dim integer,
        embedding_chunk_size integer?, batch_size integer""",
    "Passage": """
        id string, text string, tags [string]?, metadata {}?, archive_id string?, source_id string?, file_id string?,
        file_name string?, is_deleted boolean, embedding [number]?, embedding_config {}?, created_at date?, updated_at date?,
        created_by_id string?, last_updated_by_id string?""",
    "Archive": """
        id string, name string, description string?, vector_db_provider string, embedding string?, embedding_config {}?,
        metadata {}?, created_at date, updated_at date?, created_by_id string?, last_updated_by_id string?""",
    "PassageSearchResult": "passage Passage, score number, metadata {}",
    "ArchivalMemorySearchResult": "id string, timestamp string, content string, tags [string]",
    "ArchivalMemorySearchResponse": "results [ArchivalMemorySearchResult], count integer",
    "MessageFound": """
        message_type string, message_id string, content string, created_at date, agent_id string?, conversation_id string?""",
    "MessageSearchResult": """
        embedded_text string, message LettaMessage, fts_rank integer?, vector_rank integer?, rrf_score number""",
    "Health": "version string, status string, perdure_version string?, tool_isolation string?, warning string?",
    "BatchJob": """
        id string, status string, job_type string, created_at date, updated_at date?, completed_at date?,
        stop_reason string?, metadata {}?, background boolean?, agent_id string?, callback_url string?,
        callback_sent_at date?, callback_status_code integer?, callback_error string?, ttft_ns integer?,
        total_duration_ns integer?, created_by_id string?, last_updated_by_id string?""",
    "BatchMessages": "messages [{}]",
    "Deleted": "message string",
    "Provider": """
        id string, name string, provider_type string, provider_category string, base_url string?, region string?,
        api_version string?, models [string]?, context_window integer?, error string?, created_at date?, updated_at date?,
        last_synced date?, api_key string?, access_key string?, api_key_enc string?, access_key_enc string?""",
    "AgentFiles": "files [{}], next_cursor string?, has_more boolean",
    "Conversation": """
        id string, agent_id string, summary string?, description string?, in_context_message_ids [string],
        isolated_block_ids [string], model string?, model_settings {}?, context_window_limit integer?,
        memory_rendering string?, hidden boolean, archived boolean, archived_at date?, last_message_at date?,
        created_at date?, updated_at date?, created_by_id string?, last_updated_by_id string?""",
    "CompactionResponse": "summary string, num_messages_before integer, num_messages_after integer",
    "ContextWindowOverview": """
        context_window_size_max integer, context_window_size_current integer, num_messages integer,
        num_archival_memory integer, num_recall_memory integer, num_tokens_external_memory_summary integer,
        external_memory_summary string, num_tokens_system integer, system_prompt string, num_tokens_core_memory integer,
        core_memory string, num_tokens_memory_filesystem integer, memory_filesystem string?,
        num_tokens_tool_usage_rules integer, tool_usage_rules string?, num_tokens_directories integer, directories string?,
        num_tokens_summary_memory integer, summary_memory string?, num_tokens_functions_definitions integer,
        functions_definitions [{}], num_tokens_messages integer, messages [{}], num_tokens_template integer,
        token_count_source string""",
    "ChatCompletion": "id string, object string, created integer, model string, choices [{}], usage {}?",
    "ImportedAgents": "agent_ids [string], notes [string]",
    "LettaResponse": "messages [LettaMessage], stop_reason {}, usage {}, logprobs {}?, turns [{}]?",
    "Error": "detail any",
}

# operation id -> the type of its answer (200)
_OPERATIONS: dict[str, str] = {
    "create_batch": "BatchJob",
    "retrieve_batch": "BatchJob",
    "list_batches": "[BatchJob]",
    "list_batch_messages": "BatchMessages",
    "check_health": "Health",
    "check_ready": "Health",
    "create_agent": "AgentState",
    "retrieve_agent": "AgentState",
    "modify_agent": "AgentState",
    "list_agents": "[AgentState]",
    "delete_agent": "Deleted",
    "count_agents": "integer",
    "recompile_agent": "string",
    "list_core_memory_blocks": "[Block]",
    "retrieve_core_memory_block": "Block",
    "modify_core_memory_block": "Block",
    "attach_core_memory_block": "AgentState",
    "detach_core_memory_block": "AgentState",
    "list_tools_for_agent": "[Tool]",
    "attach_tool_to_agent": "AgentState?",
    "detach_tool_from_agent": "AgentState?",
    "modify_approval_for_tool": "AgentState?",
    "run_tool_for_agent": "ToolExecutionResult",
    "create_block": "Block",
    "list_blocks": "[Block]",
    "count_blocks": "integer",
    "retrieve_block": "Block",
    "modify_block": "Block",
    "list_agents_for_block": "[AgentState]",
    "create_tool": "Tool",
    "upsert_tool": "Tool",
    "list_tools": "[Tool]",
    "count_tools": "integer",
    "search_tools": "[ToolSearchResult]",
    "run_tool_from_source": "LettaMessage",
    "add_base_tools": "[Tool]",
    "retrieve_tool": "Tool",
    "modify_tool": "Tool",
    "list_models": "[Model]",
    "create_provider": "Provider",
    "list_providers": "[Provider]",
    "retrieve_provider": "Provider",
    "modify_provider": "Provider",
    "refresh_provider_models": "Provider",
    "delete_provider": "Deleted",
    "check_provider": "Deleted",
    "check_existing_provider": "Deleted",
    "list_embedding_models": "[EmbeddingModel]",
    "create_passage": "[Passage]",
    "list_passages": "[Passage]",
    "modify_passage": "[Passage]",
    "create_group": "Group",
    "list_groups": "[Group]",
    "list_groups_for_agent": "[Group]",
    "retrieve_group": "Group",
    "modify_group": "Group",
    "count_groups": "integer",
    "delete_group": "Deleted",
    "list_group_messages": "[LettaMessage]",
    "create_archive": "Archive",
    "list_archives": "[Archive]",
    "list_archives_for_agent": "[Archive]",
    "retrieve_archive": "Archive",
    "modify_archive": "Archive",
    "list_agents_for_archive": "[string]",
    "create_passage_in_archive": "Passage",
    "create_passages_in_archive": "[Passage]",
    "list_passages_in_archive": "[Passage]",
    "modify_passage_in_archive": "Passage",
    "search_archival_memory": "ArchivalMemorySearchResponse",
    "delete_passage": "Deleted",
    "search_passages": "[PassageSearchResult]",
    "search_all_messages": "[MessageFound]",
    "search_messages": "[MessageSearchResult]",
    "list_tags": "[string]",
    "list_runs": "[Run]",
    "list_active_runs": "[Run]",
    "retrieve_run": "Run",
    "delete_run": "Run",
    "list_messages_for_run": "[LettaMessage]",
    "retrieve_usage_for_run": "UsageStatistics",
    "retrieve_metrics_for_run": "RunMetrics",
    "list_steps_for_run": "[Step]",
    "retrieve_trace_for_run": "[{}]",
    "list_steps": "[Step]",
    "retrieve_step": "Step",
    "retrieve_metrics_for_step": "StepMetrics",
    "retrieve_trace_for_step": "ProviderTrace?",
    "modify_feedback_for_step": "Step",
    "list_messages_for_step": "[LettaMessage]",
    "list_files_for_agent": "AgentFiles",
    "export_agent": "{}",
    "import_agent": "ImportedAgents",
    "create_chat_completion": "ChatCompletion",
    "send_message": "LettaResponse",
    "create_agent_message_async": "Run",
    "list_messages": "[LettaMessage]",
    "retrieve_message": "[LettaMessage]",
    "retrieve_conversation": "Conversation",
    "create_conversation": "Conversation",
    "list_conversations": "[Conversation]",
    "update_conversation": "Conversation",
    "fork_conversation": "Conversation",
    "recompile_conversation": "string",
    "summarize_messages": "CompactionResponse",
    "compact_messages": "CompactionResponse",
    "compact_conversation": "CompactionResponse",
    "retrieve_agent_context_window": "ContextWindowOverview",
    "retrieve_conversation_context_window": "ContextWindowOverview",
    "list_conversation_messages": "[LettaMessage]",
    "send_conversation_message": "LettaResponse",
    "cancel_conversation": "{}",
}

_STREAM_BODY = {"retrieve_run_stream", "retrieve_stream_for_run", "retrieve_conversation_stream"}
_LETTA_MESSAGE = {
    "type": "object",
    "description": "One message or part of one; `message_type` says which.",
    "properties": {"id": {"type": "string"}, "message_type": {"type": "string"}, "date": {"type": "string"}},
    "required": ["message_type"],
    "additionalProperties": True,
}


def completed(
    document: dict[str, Any], plain_routes: Sequence[BaseRoute], collection_roots: frozenset[str]
) -> dict[str, Any]:
    """The document with answers, the plain routes' operations, and collection roots as clients call them."""
    schemas: dict[str, Any] = document.setdefault("components", {}).setdefault("schemas", {})
    schemas |= {name: _schema(text) for name, text in _ANSWERS.items()}
    schemas["LettaMessage"] = _LETTA_MESSAGE
    _, bodies = msgspec.json.schema_components([SendRequest, StreamRequest], ref_template="#/components/schemas/{name}")
    schemas |= bodies
    paths: dict[str, Any] = document["paths"]
    for route in plain_routes:
        if isinstance(route, Route):
            _add_route(paths, route)
    for item in paths.values():
        for operation in item.values():
            _complete(operation)
    ordered = {f"{path}/" if path in collection_roots else path: item for path, item in paths.items()}
    return document | {"paths": ordered}


def _add_route(paths: dict[str, Any], route: Route) -> None:
    path = re.sub(r":\w+}", "}", route.path)
    names = re.findall(r"{(\w+)}", path)
    for method in sorted((route.methods or set()) - {"HEAD"}):
        operation: dict[str, Any] = {
            "tags": [path.split("/")[2]],
            "operationId": route.name,
            "summary": route.name.replace("_", " ").capitalize(),
            "parameters": [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
            ],
            "responses": {
                "200": {"description": "Successful Response", "content": {"application/json": {"schema": {}}}}
            },
        }
        if description := (route.endpoint.__doc__ or "").strip():
            operation["description"] = description
        if method in ("POST", "PATCH", "PUT"):
            operation["requestBody"] = {"content": {"application/json": {"schema": _body_of(route.name)}}}
        paths.setdefault(path, {})[method.lower()] = operation


def _body_of(operation_id: str) -> dict[str, Any]:
    if operation_id in _STREAM_BODY:
        return {"$ref": "#/components/schemas/StreamRequest"}
    if "message" in operation_id and "cancel" not in operation_id and "reset" not in operation_id:
        return {"$ref": "#/components/schemas/SendRequest"}
    return {"type": "object", "additionalProperties": True}


def _complete(operation: dict[str, Any]) -> None:
    answers = operation["responses"]
    if (text := _OPERATIONS.get(operation["operationId"])) is not None:
        answers["200"]["content"] = {"application/json": {"schema": _type(text)}}
    answers["4XX"] = {
        "description": "What was wrong with the request, in `detail`.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    answers.pop("422", None)


def _schema(text: str) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    required: list[str] = []
    for field in " ".join(text.split()).split(", "):
        name, kind = field.split(" ", 1)
        properties[name] = _type(kind)
        if not kind.endswith("?"):
            required.append(name)
    return {"type": "object", "properties": properties, "required": required}


def _type(text: str) -> dict[str, Any]:
    if text.endswith("?"):
        return {"anyOf": [_type(text[:-1]), {"type": "null"}]}
    if text.startswith("["):
        return {"type": "array", "items": _type(text[1:-1])}
    if text == "{}":
        return {"type": "object", "additionalProperties": True}
    if text == "any":
        return {}
    if text == "date":
        return {"type": "string", "format": "date-time"}
    if text[0].isupper():
        return {"$ref": f"#/components/schemas/{text}"}
    return {"type": text}
