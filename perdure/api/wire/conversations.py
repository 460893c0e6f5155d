"""Conversations as they are asked for."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from perdure.api.paging import Order
from perdure.core.agents import MemoryRendering


class _Conversation(BaseModel):
    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    summary: str | None = None
    description: str | None = None
    model: str | None = Field(None, description="A handle: `<provider>/<model>`. It beats the agent's.")
    model_settings: dict[str, Any] | None = Field(None, description="What is said here beats the agent's settings.")
    context_window_limit: int | None = Field(None, ge=1)
    memory_rendering: MemoryRendering | None = None
    hidden: bool | None = None


class CreateConversation(_Conversation):
    isolated_block_labels: list[str] | None = Field(
        None, description="The agent's blocks of these labels are copied; the conversation sees and edits its copies."
    )


class UpdateConversation(_Conversation):
    """What is left out stays; null gives it back to the agent."""

    archived: bool | None = None
    last_message_at: datetime | None = None


class CreateConversationQuery(BaseModel):
    agent_id: str


class ListConversationsQuery(BaseModel):
    model_config = ConfigDict(extra="ignore")

    agent_id: str | None = None
    before: str | None = None
    after: str | None = None
    limit: int = Field(50, ge=1, le=1000)
    order: Order = "desc"
    order_by: Literal["created_at", "last_run_completion", "last_message_at"] = "created_at"
    summary_search: str | None = None
    archive_status: Literal["unarchived", "archived", "all"] = "unarchived"
    include_hidden: bool = False


class ForkQuery(BaseModel):
    """`agent_id`: whose own history it is, with `default` in the path. `message_id`: the last message the fork has."""

    agent_id: str | None = None
    message_id: str | None = None
    hidden: bool = False


class RecompileConversationQuery(BaseModel):
    dry_run: bool = False


class RecompileConversation(BaseModel):
    model_config = ConfigDict(extra="ignore")

    agent_id: str | None = None
    compaction_settings: dict[str, Any] | None = None
