"""`traj/1` as Parquet: one row a segment, so that a column reader gets ids, masks and logprobs as typed lists.

Nothing is lost: what is no column is in `segment` and, on a rollout's first row, in `rollout`, both as JSON, and reading gives
back the very record that was written, its seal included. The footer names the schema, the tokenizers and every record's seal.
"""

import base64
import io
import json
from collections.abc import Iterable
from importlib import import_module
from typing import Any

import msgspec

from perdure.core.errors import Invalid
from perdure.tokens.export import Unreadable
from perdure.tokens.record import ARRAYS, SCHEMA

MAGIC = b"PAR1"
SMALL = {"loss_mask", "role", "is_content"}
EXPERTS = "routed_experts"
PLAIN = ("segment_id", "index", "parent_segment_id", "parent_offset", "cause", "trainable")
_encode, _decode = msgspec.json.encode, msgspec.json.decode


def _arrow() -> Any:
    """pyarrow with its `parquet` module. Invalid if it is not installed."""
    try:
        import_module("pyarrow.parquet")
        return import_module("pyarrow")
    except ImportError as error:
        raise Invalid("format: parquet needs pyarrow. Install it with: pip install 'perdure[export]'") from error


def _schema(arrow: Any) -> Any:
    def array(name: str) -> Any:
        if name in SMALL:
            return arrow.uint8()
        if name == "check":
            return arrow.uint32()
        return arrow.float32() if name == "logprobs" else arrow.int32()

    text, whole = arrow.string(), arrow.int32()
    kinds = {"index": whole, "parent_offset": whole, "trainable": arrow.bool_()}
    fields = [("rollout_id", text), ("group_id", text), ("group_index", whole), ("status", text)]
    fields += [("reward", arrow.float64()), *((name, kinds.get(name, text)) for name in PLAIN)]
    fields += [(name, arrow.list_(array(name))) for name in ARRAYS]
    fields += [("segment", text), ("rollout", text), (EXPERTS, arrow.binary())]
    return arrow.schema(fields)


class _Sink(io.RawIOBase):
    """Holds what was written until it is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.pieces.append(bytes(data))
        return len(self.pieces[-1])


class ParquetWriter:
    """Writes records one by one; `take` gives the bytes that are ready, `close` the rest with the footer."""

    def __init__(self) -> None:
        self._arrow = _arrow()
        self._schema = _schema(self._arrow)
        self._out = _Sink()
        texts = [str(field.name) for field in self._schema if field.type == self._arrow.string()]
        self._writer = self._arrow.parquet.ParquetWriter(
            self._out, self._schema, compression="zstd", use_dictionary=[t for t in texts if t != "rollout"]
        )
        self._tokenizers: dict[str, str] = {}
        self._digests: dict[str, str] = {}

    def write(self, record: dict[str, Any]) -> None:
        """One row group a record: a reader can take rollouts one at a time."""
        if record.get("tokenizer"):
            self._tokenizers[record["tokenizer"]["name"]] = record["tokenizer"]["sha256"]
        self._digests[record["rollout_id"]] = record["record_sha256"]
        table = self._arrow.Table.from_pylist(_rows(record), schema=self._schema)
        self._writer.write_table(table)

    def take(self) -> bytes:
        pieces, self._out.pieces = self._out.pieces, []
        return b"".join(pieces)

    def close(self) -> bytes:
        self._writer.add_key_value_metadata(
            {
                "schema": SCHEMA,
                "tokenizers": json.dumps(self._tokenizers, sort_keys=True),
                "digests": json.dumps(self._digests),
            }
        )
        self._writer.close()
        return self.take()


def dump_parquet(records: Iterable[dict[str, Any]]) -> bytes:
    writer = ParquetWriter()
    for record in records:
        writer.write(record)
    return writer.close()


def _rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    """A call's own ids and logprobs are its segment's: they are cut out again when it is read."""
    calls = [{k: v for k, v in call.items() if k not in ("token_ids", "logprobs")} for call in record["calls"]]
    head = {**record, "calls": calls, "segments": None}
    return [
        {
            **{name: record.get(name) for name in ("rollout_id", "group_id", "group_index", "status", "reward")},
            **{name: segment[name] for name in (*PLAIN, *ARRAYS)},
            "segment": _encode({k: [] if k in ARRAYS else v for k, v in _without_rows(segment).items()}).decode(),
            EXPERTS: base64.b64decode(segment[EXPERTS]["data"]) if EXPERTS in segment else None,
            "rollout": None if at else _encode(head).decode(),
        }
        for at, segment in enumerate(record["segments"])
    ]


def _without_rows(segment: dict[str, Any]) -> dict[str, Any]:
    """The rows of routed experts are a column of their own, as bytes."""
    return {**segment, EXPERTS: {**segment[EXPERTS], "data": ""}} if EXPERTS in segment else segment


def load_parquet(data: bytes) -> list[dict[str, Any]]:
    """The records of a Parquet export. Unreadable: damaged, or another schema."""
    arrow = _arrow()
    try:
        file = arrow.parquet.ParquetFile(io.BytesIO(data))
        footer = file.metadata.metadata or {}
        told = footer.get(b"schema")
        if told != SCHEMA.encode():
            raise Unreadable(f"The Parquet file's schema is {told!r}; this reads {SCHEMA!r}.")
        if lost := sorted(set(_schema(arrow).names) - {EXPERTS} - set(file.schema_arrow.names)):
            raise Unreadable(f"The Parquet file has no column {lost[0]}.")
        digests: dict[str, str] = json.loads(footer[b"digests"])
        rows = file.read().to_pylist()
    except (arrow.ArrowException, OSError, KeyError, ValueError, OverflowError) as error:
        raise Unreadable(f"The file is no Parquet export, or damaged: {error}") from error
    records = _records(rows)
    found = {str(record.get("rollout_id")): record.get("record_sha256") for record in records}
    if found != digests:
        missing = sorted(set(digests) ^ set(found)) or [name for name in digests if digests[name] != found[name]]
        raise Unreadable(f"The footer's digests are not those of the rollouts in the file: {', '.join(missing[:3])}")
    return records


def _records(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for number, row in enumerate(rows, 1):
        try:
            if row["rollout"] is not None:
                records.append({**_decode(row["rollout"]), "segments": []})
            segment = _decode(row["segment"])
            whole = segment.keys() >= {*PLAIN, *ARRAYS}
        except (msgspec.DecodeError, TypeError, AttributeError) as error:
            raise Unreadable(f"Row {number}: {error}") from error
        if not whole:
            raise Unreadable(f"Row {number}: its segment lacks fields.")
        if not records or records[-1].get("rollout_id") != row["rollout_id"]:
            raise Unreadable(f"Row {number} is a segment of {row['rollout_id']}, whose first row is missing.")
        told = [name for name in PLAIN if segment.get(name) != row[name]]
        if told:
            raise Unreadable(f"Row {number}: the columns {', '.join(told)} are not what its segment says.")
        if EXPERTS in segment:
            segment[EXPERTS] |= {"data": base64.b64encode(row.get(EXPERTS) or b"").decode()}
        records[-1]["segments"].append({**segment, **{name: row[name] for name in ARRAYS}})
    for record in records:
        try:
            for call in record["calls"]:
                _give_back(record, call)
        except (KeyError, TypeError, IndexError) as error:
            raise Unreadable(f"{record.get('rollout_id')}: a call is damaged: {error!r}") from error
    return records


def _give_back(record: dict[str, Any], call: dict[str, Any]) -> None:
    segment = record["segments"][call["segment_index"]]
    begin, end = call["start"], call["start"] + call["length"]
    after = {name: call.pop(name) for name in ("digest", "call_type", "routed_experts") if name in call}
    call |= {name: segment[name][begin:end] for name in ("token_ids", "logprobs")} | after
