"""Archives, their passages and vectors.

A passage belongs to an archive from here on; what agents had filed before moves into a default archive of each. `vectors` holds
the embeddings of passages (scope: their archive) and of messages (scope: their agent). On SQLite a vector is 32-bit floats, and
`code` its signs, one bit a number: the index with all that a first look needs is read instead of the table.
"""

import json
import time
import uuid
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

PENDING = sa.text("embedded = 0")


def text(name: str, *, null: bool = False, key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=null, primary_key=key)


def integer(name: str, *, null: bool = False, default: int | None = None, key: bool = False) -> sa.Column[int]:
    given = None if default is None else sa.text(str(default))
    return sa.Column(name, sa.BigInteger, nullable=null, server_default=given, primary_key=key, autoincrement=False)


def position(name: str) -> sa.Column[int]:
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    return sa.Column(name, number, primary_key=True, autoincrement=True)


def upgrade() -> None:
    _archives()
    _passages()
    _vectors()
    if op.get_bind().dialect.name == "sqlite":
        _full_text_of_sqlite()
    else:
        _full_text_of_postgres()


def _archives() -> None:
    op.create_table(
        "archives",
        text("id", key=True),
        text("name"),
        integer("created_us"),
        integer("updated_us"),
        text("embedding", null=True),
        integer("embedding_dim", null=True),
        text("made_for", null=True),
        integer("passages", default=0),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("archives_created", "archives", ["created_us", "id"])
    op.create_table(
        "agent_archives",
        text("agent_id", key=True),
        text("archive_id", key=True),
        integer("position"),
        sqlite_with_rowid=False,
    )
    op.create_index("agent_archives_archive", "agent_archives", ["archive_id"])
    op.create_table(
        "archive_tags",
        text("archive_id", key=True),
        text("tag", key=True),
        integer("uses"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "passage_tags",
        text("archive_id", key=True),
        text("tag", key=True),
        integer("pos", key=True),
        sqlite_with_rowid=False,
    )


def _passages() -> None:
    """`embedded`: 0 waits for its vector, 1 has it."""
    if op.get_bind().dialect.name == "sqlite":
        for made in ("TRIGGER passage_in", "TRIGGER passage_out", "TABLE passages_fts"):
            op.execute(f"DROP {made}")
    op.rename_table("passages", "passages_before")
    op.drop_index("passages_id", "passages_before")
    op.drop_index("passages_agent", "passages_before")
    op.create_table(
        "passages",
        position("pos"),
        text("id"),
        text("archive_id"),
        integer("created_us"),
        integer("updated_us"),
        integer("embedded", default=0),
        text("text"),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("passages_id", "passages", ["id"], unique=True)
    op.create_index("passages_archive", "passages", ["archive_id", "created_us", "id"])
    op.create_index(
        "passages_pending", "passages", ["archive_id", "pos"], sqlite_where=PENDING, postgresql_where=PENDING
    )
    _move_passages()
    op.drop_table("passages_before")


def _move_passages() -> None:
    connection = op.get_bind()

    def run(sql: str, **params: object) -> Any:
        return connection.execute(sa.text(sql), params)

    now = time.time_ns() // 1000
    owners = run(
        "SELECT p.agent_id, a.name, a.body, COUNT(*) FROM passages_before p JOIN agents a ON a.id = p.agent_id "
        "GROUP BY p.agent_id, a.name, a.body"
    ).fetchall()
    for agent_id, name, body, count in owners:
        archive_id = f"archive-{uuid.uuid4()}"
        run(
            "INSERT INTO archives (id, name, created_us, updated_us, embedding, made_for, passages, body) "
            "VALUES (:id, :name, :now, :now, :embedding, :agent_id, :count, :body)",
            id=archive_id,
            name=f"{name}'s archive",
            now=now,
            embedding=json.loads(bytes(body)).get("embedding"),
            agent_id=agent_id,
            count=count,
            body=b"{}",
        )
        run(
            "INSERT INTO agent_archives (agent_id, archive_id, position) VALUES (:agent_id, :archive_id, 1)",
            agent_id=agent_id,
            archive_id=archive_id,
        )
        run(
            "INSERT INTO passages (pos, id, archive_id, created_us, updated_us, text, body) "
            "SELECT pos, id, :archive_id, created_us, created_us, text, body FROM passages_before "
            "WHERE agent_id = :agent_id",
            agent_id=agent_id,
            archive_id=archive_id,
        )
    for pos, archive_id, body in run("SELECT pos, archive_id, body FROM passages").fetchall():
        for tag in dict.fromkeys(json.loads(bytes(body)).get("tags") or ()):
            run(
                "INSERT INTO passage_tags (archive_id, tag, pos) VALUES (:archive_id, :tag, :pos)",
                archive_id=archive_id,
                tag=tag,
                pos=pos,
            )
    run("INSERT INTO archive_tags SELECT archive_id, tag, COUNT(*) FROM passage_tags GROUP BY archive_id, tag")


def _vectors() -> None:
    op.create_table(
        "vectors",
        position("seq"),
        text("scope"),
        integer("pos"),
        sa.Column("code", sa.LargeBinary, nullable=True),
        sa.Column("vector", sa.ARRAY(sa.REAL).with_variant(sa.LargeBinary, "sqlite"), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("vectors_of", "vectors", ["scope", "pos"], unique=True)
    if op.get_bind().dialect.name == "sqlite":
        op.create_index("vectors_codes", "vectors", ["scope", "seq", "pos", "code"])


def _full_text_of_sqlite() -> None:
    """A text is indexed together with the id of what it belongs to, as one word, so that a search of one archive or agent
    does not read through the others'."""
    op.execute(
        "CREATE VIEW passages_text AS SELECT pos, REPLACE(archive_id, '-', '') AS scope, text AS text FROM passages"
    )
    op.execute(
        "CREATE VIRTUAL TABLE passages_fts USING fts5(scope, text, content='passages_text', content_rowid='pos')"
    )
    put = "INSERT INTO passages_fts (rowid, scope, text) VALUES (new.pos, REPLACE(new.archive_id, '-', ''), new.text);"
    take = (
        "INSERT INTO passages_fts (passages_fts, rowid, scope, text) "
        "VALUES ('delete', old.pos, REPLACE(old.archive_id, '-', ''), old.text);"
    )
    op.execute(f"CREATE TRIGGER passage_in AFTER INSERT ON passages BEGIN {put} END")
    op.execute(f"CREATE TRIGGER passage_out AFTER DELETE ON passages BEGIN {take} END")
    op.execute(f"CREATE TRIGGER passage_changed AFTER UPDATE OF text, archive_id ON passages BEGIN {take} {put} END")
    op.execute("INSERT INTO passages_fts (passages_fts) VALUES ('rebuild')")
    op.execute("DROP TABLE messages_fts")
    op.execute("CREATE VIRTUAL TABLE messages_fts USING fts5(scope, text)")
    op.execute("DELETE FROM search_state WHERE name = 'messages'")


def _full_text_of_postgres() -> None:
    op.execute(
        "ALTER TABLE passages ADD COLUMN words tsvector GENERATED ALWAYS AS (to_tsvector('simple', text)) STORED"
    )
    op.execute("CREATE INDEX passages_words ON passages USING gin (words)")
    op.create_table("message_words", integer("pos", key=True), text("agent_id"))
    op.execute("ALTER TABLE message_words ADD COLUMN words tsvector NOT NULL")
    op.execute("CREATE INDEX message_words_words ON message_words USING gin (words)")
    op.create_index("message_words_agent", "message_words", ["agent_id"])
