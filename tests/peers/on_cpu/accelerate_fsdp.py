"""Runs a script with accelerate's FSDP on a machine without GPUs: `accelerate launch .. accelerate_fsdp.py SCRIPT [ARGUMENTS..]`.

accelerate shards on accelerators alone. Told that processes on processors are such, it does the same over gloo.
"""

import os
import runpy
import sys

import accelerate.state
from accelerate.utils import DistributedType


def shard(state, *args, fsdp_plugin=None, **kwargs):
    begin(state, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None and state.distributed_type == DistributedType.MULTI_CPU:
        state.distributed_type = DistributedType.FSDP
        accelerate.state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        if state._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(state._mixed_precision)
        state.fsdp_plugin = fsdp_plugin


begin, accelerate.state.AcceleratorState.__init__ = accelerate.state.AcceleratorState.__init__, shard
os.environ["ACCELERATE_USE_CPU"] = "true"
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
