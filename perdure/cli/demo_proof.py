"""The demo's proof: the conversation's record is exported and verified with the commands a reader would use.

Nothing is claimed here: what is printed is what `perdure trajectory verify` found, and its status decides.
"""

import subprocess
import sys
from pathlib import Path

from perdure.cli.client import Client, ClientError
from perdure.cli.show import paint, use_colour

VERIFY_TIMEOUT_S = 120.0


def prove(client: Client, agent_id: str, file: Path, *, token_exact: bool) -> None:
    """Export and verify. ClientError when the record is missing though the engine takes ids, or does not verify."""
    data = client.get_bytes("/v1/trajectories", agent_id=agent_id)
    if not data.strip():
        if token_exact:
            raise ClientError("The conversation has no token record, though its engine takes and gives token ids.")
        print("This provider's API takes text, not token ids, so there is no token-exact record to prove.")
        return
    print(f"{len(data):,} bytes of token record. The same by hand:", flush=True)
    _perdure("trajectory", "export", agent_id, "--base-url", client.base_url, "-o", str(file))
    _perdure("trajectory", "verify", str(file), "--base-url", client.base_url)


def _perdure(*arguments: str) -> None:
    """Run a command of ours, its output being ours."""
    print(paint(f"$ perdure {' '.join(arguments)}", "bold", colour=use_colour()), flush=True)
    command = [sys.executable, "-m", "perdure", *arguments]
    try:
        done = subprocess.run(command, timeout=VERIFY_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ClientError(f"`perdure {arguments[0]} {arguments[1]}` took over {VERIFY_TIMEOUT_S:.0f} s.") from error
    if done.returncode != 0:
        raise ClientError(f"`perdure {' '.join(arguments[:2])}` ended with status {done.returncode}; see above.")
