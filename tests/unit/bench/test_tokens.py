"""The measurement of the token record writes the record on one side only, and says when a budget is missed."""

from pathlib import Path

import msgspec

from perdure.bench import tokens
from perdure.bench.process import scripted_engine
from perdure.bench.tokenizer import byte_tokenizer_folder
from perdure.providers.configs import providers_from_env
from perdure.providers.registry import Registry
from perdure.store import ledger
from perdure.store.migrate import migrate_sqlite
from perdure.store.sqlite import SqliteStore


async def test_one_side_is_on_record_and_both_extend_their_prompts(tmp_path: Path) -> None:
    place = byte_tokenizer_folder(tmp_path / "tokenizers")
    migrate_sqlite(tmp_path / "bench.db")
    store = SqliteStore(tmp_path / "bench.db", synchronous="NORMAL")
    await tokens.ensure_builtin_tools(store)
    with scripted_engine("--tokenizer", str(place)) as engine:
        env = {"SGLANG_BASE_URL": engine.url}
        registry = Registry(providers_from_env(env), tokenizers_dir=place.parent, env={})
        measured = tokens._Measured(store, registry)
        await measured.runner.start()
        for at in range(2):
            assert await measured.step(True, at) > 0
            assert await measured.step(False, at) > 0
        on, off = measured._agents[True], measured._agents[False]
        calls = await store.read(lambda: ledger.calls_of_conversation(on))
        assert [call.bridge for call in calls] == ["render", "bridge", "bridge"]
        assert await store.read(lambda: ledger.calls_of_conversation(off)) == []
        kept = measured.runner.contexts._kept
        first, second = kept.get(on), kept.get(off)
        assert first is not None and second is not None
        held, unheld = first.tokens, second.tokens
        assert held is not None and unheld is not None and len(held.covered) == len(unheld.covered) == 6
        await measured.runner.stop()
        await registry.close()
    await store.close()


def test_a_missed_budget_is_said() -> None:
    costs = tokens.Costs(step_ms=4.0, step_without_ms=3.9, share=0.025, steps=1, bridges_ms={"chatml": 1.0})
    assert costs.kept
    assert not msgspec.structs.replace(costs, share=0.031).kept
    assert not msgspec.structs.replace(costs, bridges_ms={"chatml": 1.0, "generic": 5.1}).kept
