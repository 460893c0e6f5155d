"""What a search of a large archive takes: python benchmarks/search.py [--passages 100000] [--plain] [--database URL].

Files passages of made-up sentences, has them embedded (by the embedded model where it is installed, else by a stand-in), and
searches with queries of each kind. Prints wall times and CPU, and how many of the ten truly nearest vectors a search finds.
"""

import argparse
import asyncio
import hashlib
import math
import random
import statistics
import tempfile
import time
from array import array
from pathlib import Path

from perdure.agents import archive as edits
from perdure.agents.archive import PassageSpec
from perdure.core.archives import Vector
from perdure.providers.embeddings import Embeddings
from perdure.providers.registry import Registry
from perdure.runs.indexer import Indexer
from perdure.runs.search import Searcher
from perdure.store.base import Built, Store, Tx
from perdure.store.migrate import migrate_postgres, migrate_sqlite
from perdure.store.passage_search import PassageSearch
from perdure.store.pgvector import PgVectors, prepare
from perdure.store.postgres import PostgresStore
from perdure.store.sign_index import SignIndex
from perdure.store.sqlite import SqliteStore

HANDLE = "wordllama/l2-supercat-256"
DIM = 256
SYLLABLES = "ba ce di fo gu ha je ki lo mu na pe ri so tu va we xi yo zu".split()  # noqa: SIM905
COMMON = "the of and to in a is that for it as was with on be by at from are this have not or an they which one".split()  # noqa: SIM905
TOPICS = """dog puppy leash bark vet|coffee espresso milk cup barista|invoice payment bank salary tax|
train ticket station platform delay|garden rose soil seed water|python code function error test|
doctor fever medicine pain clinic|goal match team player referee|river bridge boat fish flood|
music guitar concert song drum"""


class StandIn(Embeddings):
    """Directions from the words' hashes: as many numbers as the embedded model has, and no meaning."""

    async def embed(self, handle: str, texts: "list[str]") -> list[Vector]:  # type: ignore[override]
        return [_hashed(text) for text in texts]


def _hashed(text: str) -> Vector:
    total = [0.0] * DIM
    for word in text.lower().split():
        rng = random.Random(hashlib.blake2b(word.encode(), digest_size=8).digest())
        for at in range(DIM):
            total[at] += rng.uniform(-1, 1)
    length = math.sqrt(sum(value * value for value in total)) or 1.0
    return array("f", [value / length for value in total])


def sentences(count: int) -> list[str]:
    """Of common words, words of a topic, and rare words, as a real archive has them."""
    rng = random.Random(1)
    rare = ["".join(rng.choices(SYLLABLES, k=3)) for _ in range(8_000)]
    topics = [topic.split() for topic in TOPICS.split("|")]
    made: list[str] = []
    for _ in range(count):
        words = [*rng.choices(COMMON, k=12), *rng.choices(rng.choice(topics), k=4), *rng.choices(rare, k=4)]
        rng.shuffle(words)
        made.append(" ".join(words))
    return made


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=60)
    parser.add_argument("--plain", action="store_true", help="without numpy")
    parser.add_argument(
        "--database", help="postgresql://...: a database to fill (it is not emptied); else a SQLite file"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store, vectors = await _opened(given.database, Path(folder), given.plain)
        await _measure(store, vectors, given.passages, given.queries)
        await store.close()


async def _opened(url: str | None, folder: Path, plain: bool) -> tuple[Store, SignIndex | PgVectors]:
    if url is None:
        migrate_sqlite(folder / "search.db")
        return SqliteStore(folder / "search.db", synchronous="NORMAL"), SignIndex(use_numpy=False if plain else None)
    migrate_postgres(url)
    store = PostgresStore(url)
    if (reason := await prepare(store)) is not None:
        raise SystemExit(reason)
    return store, PgVectors()


async def _measure(store: Store, vectors: SignIndex | PgVectors, count: int, queries: int) -> None:
    registry = Registry([])
    embeddings = Embeddings(registry)
    if embeddings.default is None:
        embeddings = StandIn(registry, default=HANDLE)
    indexer = Indexer(store, embeddings, vectors)
    searcher = Searcher(store, embeddings, indexer)
    archive = await store.write(lambda: edits.create("bench", description=None, embedding=None, metadata={}))
    texts = sentences(count)
    started = time.perf_counter()
    for start in range(0, count, 1_000):
        specs = [PassageSpec(text=text, tags=(f"tag{at % 7}",)) for at, text in enumerate(texts[start : start + 1_000])]
        await store.write(lambda specs=specs: edits.file(archive.id, specs))
    print(f"filed {count} passages: {count / (time.perf_counter() - started):,.0f} a second")
    started = time.perf_counter()
    indexer.start()
    while (left := await _left(store)) > 0:
        await indexer.catch_up(60)
    print(f"embedded by {embeddings.default}: {count / (time.perf_counter() - started):,.0f} a second, {left} left")
    rng = random.Random(2)
    kinds = {
        "a sentence": lambda: rng.choice(texts),
        "a topic": lambda: " ".join(rng.choices(rng.choice(TOPICS.split("|")).split(), k=2)),
        "one common word": lambda: rng.choice(COMMON),
        "with a tag": lambda: rng.choice(texts),
    }
    first = await _timed(searcher, archive.id, "puppy", ())
    print(f"first search after a start: {first:.0f} ms")
    for kind, make in kinds.items():
        tags = ("tag3",) if kind == "with a tag" else ()
        cpu = time.process_time()
        times = sorted([await _timed(searcher, archive.id, make(), tags) for _ in range(queries)])
        cpu = (time.process_time() - cpu) / queries * 1000
        late = times[int(0.95 * len(times))]
        print(f"{kind:16s} p50 {statistics.median(times):6.1f} ms   p95 {late:6.1f} ms   CPU {cpu:6.1f} ms")
    if isinstance(vectors, SignIndex):
        print(f"recall of the ten nearest: {await _recall(store, vectors, embeddings, archive.id, texts):.3f}")
    await indexer.stop()
    embeddings.close()


async def _left(store: Store) -> int:
    def tx() -> Tx[int]:
        return (yield Built("SELECT COUNT(*) FROM passages WHERE embedded = 0", {}))[0][0]

    return await store.scan(tx)


async def _timed(searcher: Searcher, archive_id: str, query: str, tags: tuple[str, ...]) -> float:
    started = time.perf_counter()
    outcome = await searcher.passages(PassageSearch(query=query, archive_ids=(archive_id,), tags=tags, limit=10))
    assert outcome.found and outcome.reason is None, outcome.reason
    return (time.perf_counter() - started) * 1000


async def _recall(store: Store, vectors: SignIndex, embeddings: Embeddings, archive_id: str, texts: list[str]) -> float:
    """Against a comparison with every vector."""

    def everything() -> Tx[list[tuple[int, bytes]]]:
        return (yield Built("SELECT pos, vector FROM vectors WHERE scope = :scope", {"scope": archive_id}))  # type: ignore[return-value]

    rows = [(pos, array("f", vector)) for pos, vector in await store.scan(everything)]
    rng = random.Random(3)
    hits = 0
    for _ in range(10):
        words = rng.choice(texts).split()
        query = await embeddings.embed_query(embeddings.default or "", " ".join(words[: len(words) // 2]), timeout_s=60)
        exact = sorted(rows, key=lambda row: -sum(a * b for a, b in zip(query, row[1], strict=True)))[:10]
        found = await store.scan(lambda query=query: vectors.nearest([archive_id], query, 10))
        hits += len({pos for pos, _ in exact} & {each.pos for each in found})
    return hits / 100


if __name__ == "__main__":
    asyncio.run(main())
