"""Archives, passages and what searches find, as Letta JSON."""

from typing import Any

from perdure.api.resources import MINE
from perdure.api.to_wire import iso, letta_messages
from perdure.core.archives import Archive, Passage
from perdure.memory.times import iso as iso_in
from perdure.providers.embeddings import Embeddings
from perdure.runs.search import Outcome
from perdure.store.message_search import FoundMessage
from perdure.store.passage_search import Found

# The old server's clients know no endpoint type of ours.
ENDPOINT_TYPES = frozenset({"openai", "ollama", "mistral", "together", "vllm", "groq", "azure", "google_ai"})


def archive_json(archive: Archive, embeddings: Embeddings) -> dict[str, Any]:
    """An archive whose model nobody has decided on yet shows the server's, which it will have."""
    handle = archive.embedding or embeddings.default
    dim = archive.embedding_dim or (embeddings.dim(handle) if handle is not None else None)
    return {
        "id": archive.id,
        "name": archive.name,
        "description": archive.description,
        "vector_db_provider": "native",
        "embedding": handle,
        "embedding_config": embedding_config(handle, dim),
        "metadata": archive.metadata,
        "created_at": iso(archive.created_us),
        "updated_at": iso(archive.updated_us),
        **MINE,
    }


def embedding_config(handle: str | None, dim: int | None) -> dict[str, Any] | None:
    """`embedding_dim` is 0 as long as nothing tells how many numbers a vector has."""
    if handle is None:
        return None
    provider, _, model = handle.partition("/")
    return {
        "handle": handle,
        "embedding_endpoint_type": provider if provider in ENDPOINT_TYPES else "hugging-face",
        "embedding_endpoint": None,
        "embedding_model": model or handle,
        "embedding_dim": dim or 0,
        "embedding_chunk_size": 300,
        "batch_size": 32,
        "azure_endpoint": None,
        "azure_version": None,
        "azure_deployment": None,
    }


def passage_json(passage: Passage) -> dict[str, Any]:
    return {
        "id": passage.id,
        "text": passage.text,
        "tags": list(passage.tags),
        "metadata": passage.metadata,
        "archive_id": passage.archive_id,
        "source_id": None,
        "file_id": None,
        "file_name": None,
        "is_deleted": False,
        "embedding": None,
        "embedding_config": None,
        "created_at": iso(passage.created_us),
        "updated_at": iso(passage.updated_us),
        **MINE,
    }


def found_json(hit: Found) -> dict[str, Any]:
    return {"passage": passage_json(hit.passage), "score": hit.score, "metadata": _ranks(hit)}


def archival_hit_json(hit: Found, timezone: str) -> dict[str, Any]:
    return {
        "id": hit.passage.id,
        "timestamp": iso_in(hit.passage.created_us, timezone),
        "content": hit.passage.text,
        "tags": list(hit.passage.tags),
    }


def message_found_json(hit: FoundMessage) -> dict[str, Any]:
    """What was said, as one item whatever parts the message has."""
    message = hit.message
    return {
        "message_type": f"{message.role}_message",
        "message_id": message.id,
        "content": message.text,
        "created_at": iso(message.created_us),
        "agent_id": message.agent_id,
        "conversation_id": None if message.conversation_id == message.agent_id else message.conversation_id,
    }


def message_result_json(hit: FoundMessage) -> dict[str, Any]:
    said = [each for each in letta_messages([hit.message]) if each["message_type"] == f"{hit.message.role}_message"]
    return {
        "embedded_text": hit.message.text,
        "message": said[0],
        "fts_rank": hit.words_rank,
        "vector_rank": hit.vector_rank,
        "rrf_score": hit.score,
    }


def _ranks(hit: Found) -> dict[str, Any]:
    ways = [name for name, rank in (("fts", hit.words_rank), ("vector", hit.vector_rank)) if rank is not None]
    return {"fts_rank": hit.words_rank, "vector_rank": hit.vector_rank, "found_by": ways}


def search_headers(outcome: Outcome[Any]) -> dict[str, str]:
    """How it was searched, where it was not by words and meaning alike, and why."""
    if outcome.reason is None:
        return {}
    why = " ".join(outcome.reason.encode("ascii", "replace").decode().split())[:500]
    return {"x-perdure-search": f"{'hybrid in part' if outcome.in_part else 'full-text only'}: {why}"}
