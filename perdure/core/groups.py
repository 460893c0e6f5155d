"""Groups: agents that belong together, and how their turns are ordered."""

from typing import Literal

from msgspec import Struct

ManagerType = Literal["round_robin", "supervisor", "dynamic", "sleeptime", "voice_sleeptime"]

DEFAULT_FREQUENCY = 5
DEFAULT_TERMINATION = "DONE!"
DEFAULT_BUFFER = (15, 30)


class Group(Struct, frozen=True, kw_only=True):
    """`agent_ids`: the members, in order; the manager is none of them and manages at most this group.

    `max_turns`: most turns of members in one run of the manager. Of a sleeptime group: the members rest on every
    `frequency`-th turn of the manager. Of a voice_sleeptime group: they rest once more than `max_buffer` messages are new to
    them, and leave the newest `min_buffer` for later. `own_members`: they were made with the manager and go with it.
    """

    id: str
    manager_type: ManagerType
    agent_ids: tuple[str, ...] = ()
    description: str = ""
    manager_agent_id: str | None = None
    max_turns: int | None = None
    termination_token: str | None = None
    frequency: int | None = None
    max_buffer: int | None = None
    min_buffer: int | None = None
    own_members: bool = False
    shared_block_ids: tuple[str, ...] = ()
    project_id: str | None = None
    hidden: bool | None = None
    created_us: int = 0
    updated_us: int = 0

    @property
    def rests(self) -> bool:
        """The members work after the manager's turns, not in them."""
        return self.manager_type in ("sleeptime", "voice_sleeptime")


class Progress(Struct, frozen=True):
    """How far a group has come: its manager's turns, and the last message its members have been shown."""

    turns: int = 0
    last_message_id: str | None = None
