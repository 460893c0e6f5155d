"""Stand-in for SGLang's compiled kernel package `sgl_kernel`, for CPU-only functional tests.

On a CPU without AMX kernels SGLang computes everything with plain torch and needs one real function from
`sgl_kernel`; every other name only has to be importable. Calling one of those raises NotImplementedError. Where torch has no
CUDA, memory for it is said to be pinned without being so: SGLang pins the buffer of routed experts on every device.
"""

import importlib.machinery
import sys
import types

import torch

__version__ = "0.4.10"  # the release SGLang 0.5.23 asks for


def assign_req_to_token_pool_cpu(req_pool_indices, req_to_token, start_offset, end_offset, out_cache_loc, pool_len):
    """Write each request's newly allocated KV slots into its row of the request-to-token table, in place.

    req_pool_indices [B] rows; req_to_token [R, pool_len]; start_offset, end_offset [B] column ranges, end exclusive;
    out_cache_loc [sum(end - start)] slots, requests one after another.
    """
    lengths = (end_offset - start_offset).tolist()
    rows = zip(req_pool_indices.tolist(), start_offset.tolist(), out_cache_loc.split(lengths), strict=True)
    for row, start, slots in rows:
        req_to_token[row, start : start + len(slots)] = slots.to(req_to_token.dtype)


class _NoCuda:
    """What SGLang asks of the CUDA runtime to pin host memory, where there is none to pin it for: 0 is success."""

    cudaHostRegister = cudaHostUnregister = staticmethod(lambda *_args: 0)


if not torch.backends.cuda.is_built():
    torch.cuda.cudart = _NoCuda


def _missing(name):
    if name.startswith("__"):
        raise AttributeError(name)

    def kernel(*_args, **_kwargs):
        raise NotImplementedError(f"sgl_kernel stand-in has no {name}")

    return kernel


__getattr__ = _missing

_MODULES = (
    "allreduce",
    "attention",
    "elementwise",
    "flash_attn",
    "gemm",
    "grammar",
    "kvcacheio",
    "mamba",
    "memory",
    "moe",
    "quantization",
    "sampling",
    "spatial",
    "speculative",
    "top_k",
    "utils",
)
for _name in _MODULES:
    _module = types.ModuleType(f"{__name__}.{_name}")
    _module.__spec__ = importlib.machinery.ModuleSpec(_module.__name__, None)
    _module.__getattr__ = _missing
    sys.modules[_module.__name__] = _module
    globals()[_name] = _module
