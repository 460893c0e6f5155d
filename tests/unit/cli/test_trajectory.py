"""`perdure trajectory`: export from a server or a file, verify with every way of recomputing, exit statuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from perdure.cli.client import ClientError
from perdure.cli.trajectory import trajectory
from perdure.tokens.export import dump_jsonl
from perdure.tokens.trajectory import rollouts_of
from tests.unit.cli.fake_server import FakeServer
from tests.unit.tokens.trajectory_ledger import conversation, score

RUN = "run-00000000-0000-4000-8000-000000000000"


@pytest.fixture
def export() -> bytes:
    ledger = conversation()
    return dump_jsonl(rollouts_of(ledger.segments, ledger.calls, ledger.messages))


@pytest.fixture
def file(tmp_path: Path, export: bytes) -> Path:
    path = tmp_path / "export.jsonl"
    path.write_bytes(export)
    return path


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(trajectory, [str(argument) for argument in arguments])


def test_a_sound_export_verifies(file: Path) -> None:
    done = run("verify", file)
    assert done.exit_code == 0, done.output
    assert "OK:" in done.output and "drift" in done.output
    assert "\x1b" not in done.output
    report = json.loads(run("verify", file, "--json").output)
    assert report["ok"] is True
    assert (report["rollouts"], report["segments"], report["calls"], report["drift"]) == (1, 2, 4, 0)


def test_one_changed_byte_is_exit_status_1_and_names_the_token(file: Path, export: bytes) -> None:
    record = json.loads(export)
    ids = record["segments"][0]["token_ids"]
    start = record["calls"][2]["start"]
    at = export.index(json.dumps(ids, separators=(",", ":")).encode()) + 1 + len(",".join(map(str, ids[:start]))) + 1
    assert export[at : at + 2] == str(ids[start]).encode()[:2]
    file.write_bytes(export[: at + 1] + (b"1" if export[at + 1] != 49 else b"2") + export[at + 2 :])
    done = run("verify", file)
    assert done.exit_code == 1
    assert f"first bad token: rollout 1, segment 0, token {start} (id" in done.output
    assert "call tokencall-2: token_ids is" in done.output
    report = json.loads(run("verify", file, "--json").output)
    assert report["ok"] is False and report["first_bad_token"]["position"] == start


@pytest.mark.parametrize("data", [b"", b"not json\n", b'{"schema":"other"}\n', b'{"schema":"traj/1","segm'])
def test_what_is_no_export_is_exit_status_2(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    done = run("verify", file)
    assert done.exit_code == 2
    assert str(file) in done.stderr
    assert json.loads(run("verify", file, "--json").stdout)["ok"] is False


def test_a_missing_file_is_exit_status_2(tmp_path: Path) -> None:
    done = run("verify", tmp_path / "nothing.jsonl")
    assert done.exit_code == 2
    assert "No such file" in done.stderr


class RescoringServer(FakeServer):
    """Its rescore route is the test ledger's model, off by `error`."""

    error = 0.0

    def _handler(self) -> Any:
        base: Any = super()._handler()
        fake = self

        class Handler(base):
            def handle_any(self) -> None:
                if not self.path.startswith("/v1/trajectories/rescore"):
                    return super().handle_any()
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                values = [v + fake.error for v in score(body["handle"], body["token_ids"], body["start"])]
                return self.send_json(200, {"logprobs": values})

            do_GET = do_POST = handle_any

        return Handler


@pytest.fixture
def rescoring() -> Any:
    server = RescoringServer()
    server.start()
    yield server
    server.stop()


@pytest.mark.parametrize("option", ["--server", "--base-url"])
def test_a_server_recomputes_the_logprobs(file: Path, rescoring: RescoringServer, option: str) -> None:
    done = run("verify", file, option, rescoring.url, "--json")
    assert done.exit_code == 0, done.output
    stats = json.loads(done.stdout)["logprobs"]
    assert stats["tokens"] > 80 and stats["max"] == 0.0


def test_logprobs_beyond_the_tolerance_are_a_violation(file: Path, rescoring: RescoringServer) -> None:
    rescoring.error = 0.05
    done = run("verify", file, "--server", rescoring.url, "--json")
    assert done.exit_code == 1
    assert [v["invariant"] for v in json.loads(done.stdout)["violations"]] == ["L5"]
    assert run("verify", file, "--server", rescoring.url, "--tolerance", "0.1").exit_code == 0


def test_an_engine_that_is_not_there_is_exit_status_2(file: Path, server: FakeServer) -> None:
    assert run("verify", file, "--engine", server.url).exit_code == 2  # answers 404 to everything
    assert run("verify", file, "--server", "http://127.0.0.1:9").exit_code == 2


def test_an_engine_with_a_key_is_said_to_want_one(file: Path, server: FakeServer) -> None:
    server.answers["GET", "/props"] = (401, {"error": {"message": "Invalid API Key"}})
    done = run("verify", file, "--engine", server.url)
    assert done.exit_code == 2 and "wants a key" in done.stderr


def test_an_sglang_engine_is_detected_and_asked_by_prefill(file: Path, server: FakeServer, export: bytes) -> None:
    server.answers["GET", "/model_info"] = {"model_path": "tiny"}
    server.answers["POST", "/generate"] = {"meta_info": {"input_token_logprobs": []}}
    done = run("verify", file, "--engine", server.url)
    assert done.exit_code == 2 and "scored other ids" in done.stderr
    sent = server.body_of("POST", "/generate")
    call = json.loads(export)["calls"][0]
    assert sent["logprob_start_len"] == call["start"] - 1
    assert len(sent["input_ids"]) == call["start"] + call["length"]


def test_a_run_is_exported_from_the_server(tmp_path: Path, server: FakeServer, export: bytes) -> None:
    server.answers["GET", "/v1/trajectories"] = export
    out = tmp_path / "out.jsonl"
    done = run("export", RUN, "-o", out, "--base-url", server.url)
    assert done.exit_code == 0, done.output
    assert out.read_bytes() == export
    assert server.asked[-1][1] == f"/v1/trajectories?run_id={RUN}"
    assert run("export", RUN, "--base-url", server.url).stdout_bytes == export


@pytest.mark.parametrize(
    ("target", "query"), [("job-7", "job_id=job-7"), ("conv-7", "conversation_id=conv-7"), (RUN, f"run_id={RUN}")]
)
def test_an_export_asks_for_its_format(server: FakeServer, export: bytes, target: str, query: str) -> None:
    server.answers["GET", "/v1/trajectories"] = export
    assert run("export", target, "--format", "verl", "--base-url", server.url).exit_code == 0
    assert server.asked[-1][1] == f"/v1/trajectories?{query}&format=verl"


def test_a_format_nobody_knows_is_an_error_with_the_names_there_are(server: FakeServer) -> None:
    done = run("export", RUN, "--format", "csv", "--base-url", server.url)
    assert isinstance(done.exception, ClientError)
    assert "verl" in done.exception.message and server.asked == []


def test_no_record_is_an_error_that_says_why(server: FakeServer) -> None:
    server.answers["GET", "/v1/trajectories"] = b""
    done = run("export", RUN, "--base-url", server.url)
    assert isinstance(done.exception, ClientError)
    assert "take and give token ids" in done.exception.message


def test_a_database_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    done = run("export", RUN, "--database", tmp_path / "no.db")
    assert isinstance(done.exception, ClientError) and "no file" in done.exception.message.lower()
