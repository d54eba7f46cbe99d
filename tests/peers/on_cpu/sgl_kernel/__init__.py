"""What SGLang 0.5.23 calls of its kernels on a processor without AMX: a copy of indices. It has a form in PyTorch of the rest.

Its package of kernels is for GPUs. This stands in its place where tests/peers/engines.py runs it on a CPU.
"""

import torch

_library = torch.library.Library("sgl_kernel", "DEF")
# Looked up where modules are imported, and not called.
for _name in ["apply_rotary_pos_emb_cpu", "flash_attn_varlen_func", "conv3d_embed_cpu"]:
    _library.define(f"{_name}(Tensor x) -> Tensor")


def assign_req_to_token_pool_cpu(req_pool_indices, req_to_token, start_offset, end_offset, out_cache_loc, _row):
    start = 0
    for index, begin, end in zip(req_pool_indices.tolist(), start_offset.tolist(), end_offset.tolist()):
        req_to_token[index, begin:end] = out_cache_loc[start : start + end - begin].to(req_to_token.dtype)
        start += end - begin


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)

    def absent(*_, **__):
        raise NotImplementedError(f"sgl_kernel.{name} on a processor")

    return absent
