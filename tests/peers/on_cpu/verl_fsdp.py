"""Runs a script with verl on a machine without GPUs: `python -m torch.distributed.run .. verl_fsdp.py SCRIPT [ARGUMENTS..]`.

verl's engine is for accelerators. Told that the processor is one, it does the same arithmetic over gloo.
"""

import os
import runpy
import sys
import types

import torch
from verl.plugin.platform import set_platform
from verl.plugin.platform.platform_cuda import PlatformCUDA


class Processor(PlatformCUDA):
    device_name = "cpu"
    device_module = types.SimpleNamespace(
        is_available=lambda: False,
        get_device_name=lambda *_: "processor",
        set_device=lambda index: None,
        synchronize=lambda *_: None,
        empty_cache=lambda: None,
        max_memory_allocated=lambda *_: 0,
        max_memory_reserved=lambda *_: 0,
        memory_allocated=lambda *_: 0,
        memory_reserved=lambda *_: 0,
        mem_get_info=lambda *_: (0, 0),
    )

    def current_device(self):
        return torch.device("cpu")

    def synchronize(self, device_index=None):
        pass

    def set_device(self, device_index):
        pass

    def empty_cache(self):
        pass

    def communication_backend_name(self):
        return "gloo"


os.environ["VERL_ENGINE_DEVICE"] = "cuda"
set_platform(Processor())
# verl would name the processor twice.
torch.distributed.init_process_group("gloo")
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
