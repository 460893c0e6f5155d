"""The two servers a trainer talks to: Perdure for rollouts and their records, SGLang for the weights.

Invariant: only public HTTP, and no tokenizer: ids, masks and logprobs are those on record.
"""

import json
import time
import urllib.request
from pathlib import Path
from typing import Any


def ask(url: str, body: Any = None, method: str = "POST") -> bytes:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{method} {url}: HTTP {error.code}: {error.read().decode()[:500]}") from error


class Perdure:
    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def call(self, method: str, path: str, body: Any = None) -> Any:
        return json.loads(ask(self.url + path, body, method))

    def agent(self, model: str, system: str, tool: str) -> str:
        """Makes an agent with one tool; its id."""
        tool_id = self.call("PUT", "/v1/tools/", {"source_code": tool})["id"]
        fields = {"model": model, "system": system, "tool_ids": [tool_id], "memory_blocks": []}
        return self.call("POST", "/v1/agents/", {**fields, "include_base_tools": False})["id"]

    def roll_out(self, **job: Any) -> bytes:
        """Runs a job of rollouts to its end; their token records, one a line (`traj/1`)."""
        started = self.call("POST", "/v1/rollouts", job)
        while started["status"] == "running":
            time.sleep(0.1)
            started = self.call("GET", f"/v1/rollouts/{started['id']}")
        if failed := [each["error"] for each in started["rollouts"] if each["status"] == "failed"]:
            raise SystemExit(f"{len(failed)} rollouts failed; the first: {failed[0]}")
        return ask(f"{self.url}/v1/trajectories?job_id={started['id']}", method="GET")

    def rescore(self, rollout_id: str, model: str) -> list[dict[str, Any]]:
        """By segment, what the weights that `model` serves now give for what was sampled."""
        return self.call("POST", f"/v1/trajectories/{rollout_id}/rescore", {"model": model})["segments"]


def push_weights(sglang: str, folder: Path, version: str) -> None:
    """SGLang reads the weights in `folder`, drops its cache, and names `version` on all it samples from then on.

    It also takes the folder's path for its model's name: Perdure knows a model by the last part, which must not change.
    """
    body = {"model_path": str(folder.resolve()), "weight_version": version, "flush_cache": True}
    ask(f"{sglang.rstrip('/')}/update_weights_from_disk", body)
