"""What was said in a group during one run of its manager, and what of it each member has not heard yet. Pure."""

from collections.abc import Sequence

from perdure.core.errors import ToolError

DISCUSSION_TURNS = 20


class Discussion:
    """`over`: why nobody may speak any more."""

    def __init__(self, manager: str) -> None:
        self._manager = manager
        self._said: list[tuple[str | None, str, str]] = []
        self._heard: dict[str, int] = {}
        self._turns = 0
        self.over: str | None = None

    @property
    def empty(self) -> bool:
        return not self._said

    def say(self, text: str) -> None:
        """The manager speaks to all."""
        self._said.append((None, self._manager, text))

    def check_open(self, max_turns: int) -> None:
        """ToolError once all turns are taken or a member has ended it."""
        if self.over is None and self._turns >= max_turns:
            self.over = f"all {max_turns} turns are taken"
        if self.over is not None:
            raise ToolError(f"The discussion is over: {self.over}. Answer with what was said.")
        self._turns += 1

    def news_for(self, agent_id: str) -> str:
        """What a member has not heard yet, as it is told it."""
        fresh = [item for item in self._said[self._heard.get(agent_id, 0) :] if item[0] != agent_id]
        self._heard[agent_id] = len(self._said)
        lines = [f"{name}: {text}" for _, name, text in fresh]
        told = "\n\n".join(lines) if lines else "Nothing new was said."
        return f"[Group discussion led by {self._manager}; it is your turn to speak]\n\n{told}"

    def heard(self, agent_id: str, name: str, said: Sequence[str]) -> None:
        """A member has spoken."""
        self._said.extend((agent_id, name, text) for text in said)
