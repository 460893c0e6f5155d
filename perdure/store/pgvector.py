"""Vectors on PostgreSQL, compared exactly by its extension pgvector."""

from collections.abc import Collection, Sequence
from typing import Any

from perdure.core.archives import Vector
from perdure.store.base import Many, Query, Tx
from perdure.store.sign_index import Near

PREPARE = (
    "CREATE EXTENSION IF NOT EXISTS vector",
    """DO $$ BEGIN
    IF (SELECT udt_name FROM information_schema.columns
        WHERE table_name = 'vectors' AND column_name = 'vector' AND table_schema = current_schema()) = '_float4'
    THEN ALTER TABLE vectors ALTER COLUMN vector TYPE vector USING vector::vector; END IF; END $$""",
)


async def prepare(store: Any) -> str | None:
    """Have pgvector do it (`store`: a PostgresStore). None when it does, else why it cannot."""
    import asyncpg

    try:
        async with store.connection() as connection:
            for statement in PREPARE:
                await connection.execute(statement)
    except (asyncpg.FeatureNotSupportedError, asyncpg.UndefinedFileError, asyncpg.InsufficientPrivilegeError) as error:
        return (
            f"The database has no pgvector ({error}). Install it, or have an administrator run: CREATE EXTENSION vector"
        )
    return None


class PgVectors:
    """Implements `sign_index.Vectors` on PostgreSQL."""

    def put(self, scope: str, vectors: Sequence[tuple[int, Vector]]) -> Tx[None]:
        yield Many("put_vector", [{"scope": scope, "pos": pos, "vector": list(vector)} for pos, vector in vectors])

    def nearest(
        self, scopes: Sequence[str], query: Vector, limit: int, among: Collection[int] | None = None
    ) -> Tx[list[Near]]:
        params = {"scopes": " ".join(scopes), "query": f"[{','.join(map(str, query))}]", "limit": limit}
        if among is None:
            rows = yield Query("nearest_vectors", params)
        else:
            rows = yield Query("nearest_vectors_among", params | {"among": list(among)})
        return [Near(row[0], row[1]) for row in rows]
