"""What an agent is in a conversation: its own settings over the agent's, its own blocks in their places."""

from hypothesis import given
from hypothesis import strategies as st

from perdure.core.agents import Agent, AgentBundle, Block, ModelSettings
from perdure.core.conversations import ConversationSettings, agent_in, blocks_in, bundle_in, settings_over

labels = st.lists(st.sampled_from("abcdef"), unique=True, max_size=6)


def blocks(names: list[str], owner: str) -> tuple[Block, ...]:
    return tuple(Block(id=f"{owner}-{name}", label=name) for name in names)


@given(labels, labels, labels)
def test_of_every_label_one_block_is_seen_and_never_the_agents_of_an_isolated_one(
    shared: list[str], isolated: list[str], private: list[str]
) -> None:
    seen = blocks_in(blocks(shared, "agent"), tuple(isolated), blocks(private, "own"))
    names = [block.label for block in seen]
    assert len(names) == len(set(names))
    for block in seen:
        assert block.id == f"{'own' if block.label in private else 'agent'}-{block.label}"
        assert block.label in private or block.label not in isolated
    assert set(names) == set(private) | (set(shared) - set(isolated))
    kept = [name for name in names if name in shared]
    assert kept == [name for name in shared if name in kept]


def test_a_conversation_that_says_nothing_sees_the_agent_itself() -> None:
    bundle = AgentBundle(agent=Agent(id="agent-1", name="a", model="m"), blocks=blocks(["a"], "agent"))
    assert bundle_in(bundle, ConversationSettings()) is bundle
    assert bundle_in(bundle, ConversationSettings(description="only for people")) is bundle


def test_what_it_says_beats_the_agent() -> None:
    agent = Agent(id="agent-1", name="a", model="m", context_window=100, model_settings=ModelSettings(temperature=0.1))
    own = ConversationSettings(
        model="n", context_window=50, memory_rendering="append", model_settings=ModelSettings(top_p=0.5)
    )
    seen = agent_in(agent, own)
    assert (seen.model, seen.context_window, seen.memory_rendering) == ("n", 50, "append")
    assert (seen.model_settings.temperature, seen.model_settings.top_p) == (0.1, 0.5)


def test_what_is_said_of_settings_wins_even_where_it_is_the_default() -> None:
    under = ModelSettings(temperature=0.1, strict=True, top_p=0.5, raw={"strict": True, "x": 1})
    over = ModelSettings(temperature=0.9, raw={"temperature": 0.9, "strict": False})
    merged = settings_over(under, over)
    assert (merged.temperature, merged.strict, merged.top_p) == (0.9, False, 0.5)
    assert merged.raw == {"strict": False, "x": 1, "temperature": 0.9}
