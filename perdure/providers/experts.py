"""What engines tell of a mixture of experts: raw numbers, or an `.npy` file, in base64.

Invariant: what is given out is whole rows that begin where they were asked for, as many as the engine's ids allow; anything
else is a ProviderError.
"""

import ast
import binascii
import struct
from collections.abc import Sequence

from msgspec import Struct

from perdure.core.errors import ProviderError
from perdure.core.experts import Dtype, ExpertRows, as_dtype, joined, narrowed
from perdure.core.syntax import parse_python

PIECE = 1 << 20  # characters of base64: whole numbers
HEAVY = 512 * 1024  # characters that take a while to read

_NPY = b"\x93NUMPY"
_WIDTHS = {"|u1": "uint8", "<u2": "uint16"}


class ExpertsAsked(Struct, frozen=True, kw_only=True):
    """Rows are wanted from id `start` of the prompt on. `layers`, `top_k`, `num_experts`: the model's, where they are known."""

    start: int = 0
    layers: int | None = None
    top_k: int | None = None
    num_experts: int | None = None


def from_int32(told: str, asked: ExpertsAsked, rows: int, provider: str) -> ExpertRows:
    """SGLang's: int32 without a shape. `rows`: how many the sampled ids make."""
    if asked.layers is None or asked.top_k is None:
        raise ProviderError(
            f"{provider} told the routed experts without their shape, and the model's config.json is not here to say how many "
            "layers and experts it has. Set model_settings.routed_experts_shape to [layers, experts an id].",
            kind="llm_bad_request",
        )
    size = rows * asked.layers * asked.top_k * 4
    if len(told) != (size + 2) // 3 * 4:
        raise ProviderError(
            f"{provider} told {len(told) * 3 // 4} bytes of routed experts; {rows} rows of {asked.layers} layers and "
            f"{asked.top_k} experts an id are {size}. Does the model have another shape? Correct "
            "model_settings.routed_experts_shape or the config.json beside the tokenizer."
        )
    try:
        # piece by piece, so that a thread that does this lets others run in between
        pieces = [narrowed(_decoded(told[at : at + PIECE], provider)) for at in range(0, len(told), PIECE)]
    except ValueError as cause:
        raise ProviderError(f"{provider} told routed experts that cannot be: {cause}.") from cause
    dtype: Dtype = "uint16" if any(found == "uint16" for found, _ in pieces) else "uint8"
    data = b"".join(as_dtype(piece, found, dtype) for found, piece in pieces)
    return ExpertRows(
        start=asked.start,
        layers=asked.layers,
        top_k=asked.top_k,
        dtype=dtype,
        data=data,
        num_experts=asked.num_experts,
    )


def from_npy(told: str, asked: ExpertsAsked, rows: int, provider: str, *, partial: bool = False) -> ExpertRows | None:
    """vLLM's: an array in NumPy's file format. `partial`: of an answer that was broken off, which may lack rows at its end."""
    data = _decoded(told, provider)
    try:
        dtype, shape, body = _npy(data)
        if len(shape) != 3 or len(body) != shape[0] * shape[1] * shape[2] * (1 if dtype == "uint8" else 2):
            raise ValueError(f"an array of shape {list(shape)} in {len(body)} bytes")
    except (ValueError, SyntaxError, KeyError, TypeError, struct.error) as cause:
        raise ProviderError(f"{provider} told routed experts that cannot be read: {cause}.") from cause
    if shape[0] == 0 and partial:
        return None
    if shape[0] > rows or (shape[0] < rows and not partial):
        raise ProviderError(f"{provider} told the routed experts of {shape[0]} ids where there are {rows}.")
    if (asked.layers or shape[1], asked.top_k or shape[2]) != shape[1:]:
        raise ProviderError(
            f"{provider} told {shape[1]} layers and {shape[2]} routed experts an id; the model is said to have {asked.layers} "
            f"and {asked.top_k}. Correct model_settings.routed_experts_shape or the config.json beside the tokenizer."
        )
    return ExpertRows(
        start=asked.start,
        layers=shape[1],
        top_k=shape[2],
        dtype="uint8" if dtype == "uint8" else "uint16",
        data=body,
        num_experts=asked.num_experts,
    )


def one_after_another(parts: Sequence[ExpertRows | None], engine: str) -> ExpertRows | None:
    """The rows of a generation's attempts, each of which was asked to begin where the ones before it had ended."""
    found = [part for part in parts if part is not None and part.data]
    if not found:
        return None
    try:
        return joined(*found)
    except ValueError as cause:
        raise ProviderError(f"The routed experts of {engine} do not fit together: {cause}.") from cause


def _decoded(told: str, provider: str) -> bytes:
    try:
        return binascii.a2b_base64(told, strict_mode=True)
    except (binascii.Error, ValueError) as cause:
        raise ProviderError(f"{provider} told routed experts that are no base64: {cause}.") from cause


def _npy(data: bytes) -> tuple[str, tuple[int, ...], bytes]:
    """(dtype, shape, numbers) of an array of unsigned numbers in C order. ValueError, or what reading its header raises."""
    if data[:6] != _NPY:
        raise ValueError("no NumPy file")
    large = data[6] > 1
    (size,) = struct.unpack_from("<I" if large else "<H", data, 8)
    begin = 12 if large else 10
    header = ast.literal_eval(parse_python(data[begin : begin + size].decode("latin-1").strip(), "eval"))
    if header["fortran_order"] or header["descr"] not in _WIDTHS:
        raise ValueError(f"numbers of type {header['descr']}, fortran_order {header['fortran_order']}")
    return _WIDTHS[header["descr"]], tuple(int(each) for each in header["shape"]), data[begin + size :]
