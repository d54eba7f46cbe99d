"""Samples with vLLM's CPU build, in a Python of its own: requests as JSON lines on stdin, costs as JSON lines on stdout.

    VLLM_CPU_KVCACHE_SPACE=1 VLLM_ENABLE_V1_MULTIPROCESSING=0 python vllm_rows.py POLICY bfloat16

A request is {"prompts": [[token id, ..], ..], "new": tokens per prompt}; the answer {"wall": s, "cpu": s, "tokens": sampled}.
"""

import json
import os
import sys
import time

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # What the engine prints is no answer.

from vllm import LLM, SamplingParams  # noqa: E402


def main(policy, dtype):
    engine = LLM(policy, dtype=dtype, max_model_len=4096, skip_tokenizer_init=True, enable_prefix_caching=False, max_num_seqs=64)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        params = SamplingParams(temperature=1.0, max_tokens=request["new"], ignore_eos=True, detokenize=False)
        prompts = [{"prompt_token_ids": ids} for ids in request["prompts"]]
        wall, cpu = time.perf_counter(), time.process_time()
        outputs = engine.generate(prompts, params, use_tqdm=False)
        cost = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps(cost | {"tokens": sum(len(o.outputs[0].token_ids) for o in outputs)}), file=answers, flush=True)


main(*sys.argv[1:])
