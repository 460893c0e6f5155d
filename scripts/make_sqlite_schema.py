"""Write perdure/store/sqlite_schema.sql: what the migrations make of an empty SQLite file.

To be run after a migration was added.
"""

import sqlite3
import tempfile
from pathlib import Path

from perdure.store.migrate import SQLITE_SCHEMA, upgrade


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "schema.db"
        upgrade(f"sqlite:///{path}")
        SQLITE_SCHEMA.write_text(schema_of(path), encoding="utf-8")
    print(SQLITE_SCHEMA)


def schema_of(path: Path) -> str:
    """Statements that make the tables of a database without rows, and its version."""
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid").fetchall()
    (version,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    connection.close()
    virtual = tuple(f"{name}_" for name, sql in rows if sql.startswith("CREATE VIRTUAL"))
    made = [sql for name, sql in rows if not name.startswith(("sqlite_", *virtual))]
    head = "-- What the migrations make of an empty SQLite file. Written by scripts/make_sqlite_schema.py.\n\n"
    return head + "\n".join(f"{sql};\n" for sql in made) + f"\nINSERT INTO alembic_version VALUES ('{version}');\n"


if __name__ == "__main__":
    main()
