"""Providers that users add, and which key seals the database's secrets."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "providers",
        sa.Column("id", sa.Text, nullable=False, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("providers_name", "providers", ["name"], unique=True)
    op.create_table(
        "sealing",
        sa.Column("one", sa.BigInteger, nullable=False, primary_key=True, autoincrement=False),
        sa.Column("key_id", sa.Text, nullable=False),
    )
