"""`perdure demo`: the whole way in one go, on a server of its own that is gone afterwards.

Whatever fails ends the demo with its reason and exit status 1; the server and its model engine are stopped in any case.
"""

import os
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

EMBEDDED_MODEL = "local/smollm2-135m"
KEPT_FOLDER = Path(".demo")
# the demo's server stands alone; what names models and their providers is passed on
NOT_PASSED_ON = (
    "PERDURE_HOST",
    "PERDURE_PORT",
    "PERDURE_DATA_DIR",
    "PERDURE_DATABASE_URL",
    "PERDURE_PASSWORD",
    "LETTA_SERVER_PASSWORD",
    "LETTA_SERVER_SECURE",
)


@click.command(short_help="Watch the whole thing work.")
@click.option("--model", metavar="HANDLE", help=f"The agent's model. (PERDURE_MODEL, else {EMBEDDED_MODEL})")
@click.option("--keep", is_flag=True, help=f"Keep the data and the record in {KEPT_FOLDER}/.")
def demo(model: str | None, keep: bool) -> None:
    """Start a server, talk to an agent that remembers and uses a tool, then prove its token record.

    Needs nothing but this installation: the model is a small one that runs here. PERDURE_MODEL names a better one.
    """
    from perdure.bench.process import unwind_on_sigterm
    from perdure.cli.demo_story import tell

    unwind_on_sigterm()
    handle = model or os.environ.get("PERDURE_MODEL") or EMBEDDED_MODEL
    with _folder(keep) as folder:
        tell(handle, embedded=handle == EMBEDDED_MODEL, folder=folder, env=server_env(os.environ))
        if keep:
            print(f"\nKept in {folder}/. Serve it again with: perdure serve --data-dir {folder}")


def server_env(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name not in NOT_PASSED_ON}


@contextmanager
def _folder(keep: bool) -> Generator[Path]:
    if keep:
        KEPT_FOLDER.mkdir(exist_ok=True)
        yield KEPT_FOLDER
        return
    with tempfile.TemporaryDirectory(prefix="perdure-demo-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
