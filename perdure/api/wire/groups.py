"""Groups as clients send them. `manager_config` says who leads a group and how."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from perdure.api.paging import Page100
from perdure.core.groups import ManagerType

Turns = Annotated[int | None, Field(ge=1, le=1000)]


class _Manager(BaseModel):
    model_config = ConfigDict(extra="ignore")


class RoundRobin(_Manager):
    manager_type: Literal["round_robin"] = "round_robin"
    manager_agent_id: str | None = None
    max_turns: Turns = None


class Supervisor(_Manager):
    manager_type: Literal["supervisor"]
    manager_agent_id: str


class Dynamic(_Manager):
    manager_type: Literal["dynamic"]
    manager_agent_id: str
    termination_token: str | None = Field(None, min_length=1)
    max_turns: Turns = None


class Sleeptime(_Manager):
    manager_type: Literal["sleeptime"]
    manager_agent_id: str
    sleeptime_agent_frequency: int | None = Field(None, ge=1)


class VoiceSleeptime(_Manager):
    manager_type: Literal["voice_sleeptime"]
    manager_agent_id: str
    max_message_buffer_length: int | None = Field(None, ge=2, le=500)
    min_message_buffer_length: int | None = Field(None, ge=1, le=499)


ManagerConfig = Annotated[
    RoundRobin | Supervisor | Dynamic | Sleeptime | VoiceSleeptime, Field(discriminator="manager_type")
]


class ManagerChange(_Manager):
    """A change of how a group is led: what it leaves out stays, where the kind stays."""

    manager_type: ManagerType
    manager_agent_id: str | None = None
    max_turns: Turns = None
    termination_token: str | None = Field(None, min_length=1)
    sleeptime_agent_frequency: int | None = Field(None, ge=1)
    max_message_buffer_length: int | None = Field(None, ge=2, le=500)
    min_message_buffer_length: int | None = Field(None, ge=1, le=499)


class CreateGroup(BaseModel):
    agent_ids: list[str]
    description: str
    manager_config: ManagerConfig = RoundRobin()
    shared_block_ids: list[str] | None = None
    project_id: str | None = None
    hidden: bool | None = None


class UpdateGroup(BaseModel):
    agent_ids: list[str] | None = None
    description: str | None = None
    manager_config: ManagerChange | None = None
    shared_block_ids: list[str] | None = None
    project_id: str | None = None
    hidden: bool | None = None


class ListGroupsQuery(Page100):
    manager_type: ManagerType | None = None
    project_id: str | None = None
    show_hidden_groups: bool | None = None


class GroupsOfAgentQuery(Page100):
    manager_type: ManagerType | None = None
