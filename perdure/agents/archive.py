"""An agent's archival memory as people fill and prune it."""

from perdure.core.errors import Invalid
from perdure.core.ids import new_id, now_us
from perdure.store.agents import check_agent
from perdure.store.base import Tx
from perdure.store.codec import Passage
from perdure.store.passages import delete_passage, insert_passage


def insert(agent_id: str, text: str, *, tags: tuple[str, ...], created_us: int | None) -> Tx[Passage]:
    """`created_us` None: now. The prompt, which may tell how many passages there are, is not compiled again for it."""
    yield from check_agent(agent_id)
    if not text.strip():
        raise Invalid("text: must not be empty", status=422)
    passage = Passage(
        id=new_id("passage"),
        agent_id=agent_id,
        created_us=created_us if created_us is not None else now_us(),
        text=text,
        tags=tuple(dict.fromkeys(tags)),
    )
    yield from insert_passage(passage)
    return passage


def delete(agent_id: str, passage_id: str) -> Tx[None]:
    yield from check_agent(agent_id)
    yield from delete_passage(agent_id, passage_id)
