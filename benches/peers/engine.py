"""Speed of this engine beside transformers on PyTorch, llama.cpp and vLLM, on random Qwen2 checkpoints or on a real one.

    python3 benches/peers/engine.py [--binary target/release/mindgap] [--shapes tiny,small] [--policy FOLDER] [--types f32,bf16,int8]
                                    [--cases generate,prefill,score,train] [--batches 1,16,64] [--threads 1] [--rounds 3] [--vllm PYTHON] [--json FILE]

They run in turn, round after round, and medians are compared, so that a busy machine slows all alike; the ratio is to the best of the
others. Each figure is the difference of a long and a short run of the same kind, so that loading and compiling do not count. Rows:

    generate B   B prompts of 64 tokens, sampled at temperature 1 (this engine returns two log-probs per token as well)
    prefill      prompts of 2,048 tokens, and one new token (not llama.cpp, whose sequences here are shorter)
    score        log-probs of every token of 256-token texts
    train        steps of 16 x 256 tokens (a real policy: 4), cross-entropy, AdamW (not llama.cpp, nor does it score)
    lora         the same with adapters of rank 16 on every projection (PyTorch with PEFT, where it is installed)

Figures are tokens per second of wall time and per CPU-second. A type is what weights are held in: PyTorch computes in the same (not in
int8) and trains in bf16 without a second copy of the weights, llama.cpp holds int8 as Q8_0. llama.cpp takes part where
`llama-cpp-python` is installed, vLLM's CPU build where the Python that has it is named: it samples in bf16 and f32.
"""

import argparse
import contextlib
import gc
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow
import pyarrow.parquet
import torch
import transformers
from tokenizers import Tokenizer
from transformers import Qwen2Config, Qwen2ForCausalLM

from cost import Cost

try:
    from llama import Llama
except ImportError as missing:
    Llama = None
    print(f"without llama.cpp: {missing}")
try:
    import peft
except ImportError:
    peft = None

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "tests/fixtures/model/qwen2/tokenizer.json"
SHAPES = {
    "tiny": dict(hidden_size=256, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2, intermediate_size=768, vocab_size=2048),
    "small": dict(hidden_size=512, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=4, intermediate_size=1536, vocab_size=8192),
}
# New tokens per prompt, by shape and batch: a second or a few of work each.
NEW = {("tiny", 1): 384, ("tiny", 16): 384, ("tiny", 64): 256, ("small", 1): 256, ("small", 16): 128, ("small", 64): 96, ("real", 1): 96, ("real", 16): 48, ("real", 64): 32}
PROMPT, LONG_PROMPT, TEXT = 64, 2048, 256
# Rows of a training step, steps, and texts scored beyond the first 8.
ROWS, STEPS, SCORED = {"tiny": 16, "small": 16, "real": 4}, {"tiny": 4, "small": 2, "real": 2}, {"tiny": 32, "small": 32, "real": 4}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def make_policy(shape, folder):
    """A random checkpoint in Hugging Face layout, without EOS, so that every sample has its full length."""
    torch.manual_seed(0)
    config = Qwen2Config(max_position_embeddings=4096, tie_word_embeddings=True, rope_theta=10000.0, bos_token_id=None, eos_token_id=None, pad_token_id=None, **SHAPES[shape])
    Qwen2ForCausalLM(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(TOKENIZER.read_bytes())
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')


def texts(tokenizer, count, length, seed):
    """Texts of exactly so many tokens."""
    draw = random.Random(seed)
    words = "one two three four five six seven eight nine ten and so the sum of all is not what it was before".split()
    found = []
    while len(found) < count:
        text = ""
        while len(tokenizer.encode(text).ids) < length:
            text += " " + draw.choice(words)
        if len(tokenizer.encode(text).ids) == length:
            found.append((text, tokenizer.encode(text).ids))
    return found


def long_text(tokenizer, seed):
    """A text of `LONG_PROMPT` tokens: words begin with a space, so tokens do not join across texts."""
    parts = texts(tokenizer, LONG_PROMPT // PROMPT, PROMPT, seed)
    return "".join(text for text, _ in parts), [token for _, ids in parts for token in ids]


class Prefills:
    """Long prompts, by way of `generate`."""

    def prefill(self, prompts):
        cost, _ = self.generate(prompts, 1)
        return cost, sum(len(ids) for _, ids in prompts)


class Mindgap(Prefills):
    """One process per run."""

    def __init__(self, binary, policy, scratch, tokenizer, kind, threads, rows):
        self.binary, self.policy, self.scratch, self.tokenizer, self.kind = binary, policy, scratch, tokenizer, kind
        self.threads, self.rows = threads, rows

    def run(self, *args):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        out = subprocess.run([self.binary, "--threads", str(self.threads), *map(str, args)], check=True, capture_output=True).stdout
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime), out

    def lines(self, rows):
        path = self.scratch / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def generate(self, prompts, new):
        rows = self.lines({"id": i, "prompt": text} for i, (text, _) in enumerate(prompts))
        seconds, out = self.run("generate", "--policy", self.policy, "--weights", self.kind, "--raw", "--max-new-tokens", new, rows)
        return seconds, sum(len(json.loads(line)["token_ids"]) for line in out.splitlines())

    def score(self, rows):
        first = self.tokenizer
        split = [(text[:4], text[4:]) for text, _ in rows]
        path = self.lines({"id": i, "prompt": a, "completion": b} for i, (a, b) in enumerate(split))
        seconds, _ = self.run("score", "--policy", self.policy, "--weights", self.kind, "--raw", path)
        return seconds, sum(len(first.encode(a).ids) + len(first.encode(b).ids) for a, b in split)

    def lora(self, rows, steps):
        return self.train(rows, steps, "lora = { rank = 16, alpha = 32 }")

    def train(self, rows, steps, more=""):
        segments = [{"segments": [{"text": text, "label": True}], "source": "x"} for text, _ in rows]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(segments), self.scratch / "rows.parquet")
        pipeline = self.scratch / "train.toml"
        pipeline.write_text(
            f'[policies]\nbase = {{ path = "{self.policy}" }}\n[stages.rows]\nkind = "documents"\nfiles = ["rows.parquet"]\npolicy = "base"\n'
            f'[stages.train]\nkind = "train"\ndata = "rows"\npolicy = "base"\nloss = "sft"\nlearning_rate = 1e-5\nbatch_size = {self.rows}\nsteps = {steps}\n'
            f'dtype = "{self.kind}"\n{more}\n'
        )
        with tempfile.TemporaryDirectory() as store:
            seconds, _ = self.run("--store", store, "run", pipeline)
            _, out = self.run("--store", store, "show", pipeline, "train", "--limit", steps, "--json")
        return seconds, sum(json.loads(line)["token_count"] for line in out.splitlines())


class Torch(Prefills):
    """transformers, eager, in this process."""

    def __init__(self, policy, kind, threads, rows):
        torch.set_num_threads(threads)
        self.policy, self.dtype, self.rows = policy, DTYPES[kind], rows
        self.model = Qwen2ForCausalLM.from_pretrained(policy, dtype=self.dtype).eval()
        self.model.generation_config.eos_token_id = None

    @staticmethod
    @contextlib.contextmanager
    def clock(result):
        gc.collect()
        start, cpu = time.perf_counter(), time.process_time()
        yield
        result.append(Cost(time.perf_counter() - start, time.process_time() - cpu))

    def generate(self, prompts, new):
        ids, seconds = torch.tensor([ids for _, ids in prompts]), []
        with self.clock(seconds), torch.inference_mode():
            out = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                max_new_tokens=new, min_new_tokens=new, pad_token_id=0,
            )
        return seconds[0], out.shape[0] * (out.shape[1] - ids.shape[1])

    def score(self, rows):
        seconds = []
        with self.clock(seconds), torch.inference_mode():
            for start in range(0, len(rows), 8):
                ids = torch.tensor([ids for _, ids in rows[start : start + 8]])
                logits = self.model(ids).logits[:, :-1]
                torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None])
        return seconds[0], len(rows) * TEXT

    def lora(self, rows, steps):
        model = Qwen2ForCausalLM.from_pretrained(self.policy, dtype=self.dtype)
        return self.train(rows, steps, peft.get_peft_model(model, peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")))

    def train(self, rows, steps, model=None):
        model, seconds = model or Qwen2ForCausalLM.from_pretrained(self.policy, dtype=self.dtype), []
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
        with self.clock(seconds):
            for step in range(steps):
                ids = torch.tensor([ids for _, ids in rows[self.rows * step : self.rows * (step + 1)]])
                model(ids, labels=ids).loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
        return seconds[0], steps * self.rows * TEXT


class Vllm(Prefills):
    """One process for all runs."""

    def __init__(self, python, policy, kind, threads):
        script = Path(__file__).with_name("vllm_rows.py")
        own = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(threads)}
        kind = {"f32": "float32", "bf16": "bfloat16"}[kind]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([python, script, policy, kind], env=os.environ | own, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout.readline() == "ready\n"
        self.generate([("", [1, 2, 3])], 8)

    def generate(self, prompts, new):
        self.process.stdin.write(json.dumps({"prompts": [ids for _, ids in prompts], "new": new}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return Cost(answer["wall"], answer["cpu"]), answer["tokens"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def check_llama(torch_runner, llama, ids, bound):
    """The same network on both sides, or the comparison says nothing. llama.cpp keeps keys and values in half precision."""
    with torch.inference_mode():
        expected = torch_runner.model(torch.tensor([ids])).logits[0, -1].float().numpy()
    difference = abs(expected - llama.logits(ids)).max()
    assert difference < bound, f"llama.cpp's logits differ by {difference}"


def rate(run, long, short):
    """Tokens per second of wall time and per CPU-second of what the long run does beyond the short one."""
    (long_cost, long_tokens), (short_cost, short_tokens) = run(*long), run(*short)
    cost, tokens = long_cost - short_cost, long_tokens - short_tokens
    return tokens / cost.wall, tokens / cost.cpu


def cases(tokenizer, shape, batches):
    """Name, method, arguments of the long and of the short run."""
    for batch in batches:
        prompts = texts(tokenizer, batch, PROMPT, batch)
        yield f"generate {batch}", "generate", (prompts, NEW[shape, batch] + 1), (prompts, 1)
    prompts = [long_text(tokenizer, seed) for seed in range(3)]
    yield "prefill", "prefill", (prompts,), (prompts[:1],)
    rows = texts(tokenizer, SCORED[shape] + 8, TEXT, 7)
    yield "score", "score", (rows,), (rows[: SCORED[shape] // 2],)
    rows, steps, per_step = texts(tokenizer, ROWS[shape] * (STEPS[shape] + 1), TEXT, 8), STEPS[shape], ROWS[shape]
    for method in ["train"] + ["lora"] * (peft is not None):
        yield method, method, (rows, steps + 1), (rows[:per_step], 1)


def compare(args, shape, kind, policy, folder, results):
    """All programs on one checkpoint, in one type."""
    tokenizer = Tokenizer.from_file(str(policy / "tokenizer.json"))
    able = {"mindgap": Mindgap(args.binary, policy, folder, tokenizer, kind, args.threads, ROWS[shape])}
    if kind in DTYPES:
        able["torch"] = Torch(policy, kind, args.threads, ROWS[shape])
    if Llama:
        able["llama.cpp"] = Llama(policy, folder / f"policy-{kind}.gguf", kind, args.threads)
        if kind == "f32":
            check_llama(able["torch"], able["llama.cpp"], texts(tokenizer, 1, PROMPT, 3)[0][1], 0.02)
    if args.vllm and kind in DTYPES and {"generate", "prefill"} & set(args.cases.split(",")):
        able["vllm"] = Vllm(args.vllm, policy, kind, args.threads)
    for case, method, long, short in cases(tokenizer, shape, map(int, args.batches.split(","))):
        runners = {name: runner for name, runner in able.items() if hasattr(runner, method)}
        if method not in args.cases.split(",") or len(runners) == 1 or (method in ("train", "lora") and kind == "int8"):
            continue
        rates = {name: [] for name in runners}
        for _ in range(args.rounds):
            for name, runner in runners.items():
                rates[name].append(rate(getattr(runner, method), long, short))
        medians = {name: [statistics.median(kinds) for kinds in zip(*found)] for name, found in rates.items()}
        best = [max(values[i] for name, values in medians.items() if name != "mindgap") for i in range(2)]
        ratios = [own / other for own, other in zip(medians["mindgap"], best)]
        figures = "  ".join(f"{name} {wall:.1f} ({cpu:.1f})" for name, (wall, cpu) in medians.items())
        print(f"{shape:<6} {kind:<5} {case:<12} {figures}  ratio {ratios[0]:.2f} ({ratios[1]:.2f})", flush=True)
        results.append({"shape": shape, "type": kind, "case": case, "threads": args.threads, "rates": rates, "ratio": ratios})
    if "vllm" in able:
        able["vllm"].close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "target/release/mindgap"))
    parser.add_argument("--shapes", default="tiny,small")
    parser.add_argument("--policy", type=Path, help="a Qwen2 checkpoint to measure instead of random ones")
    parser.add_argument("--types", default="f32")
    parser.add_argument("--cases", default="generate,score,train")
    parser.add_argument("--batches", default="1,16,64")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--vllm", help="a Python with vLLM's CPU build")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json")
    args = parser.parse_args()
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}; load {os.getloadavg()[0]:.1f}; {args.threads} threads; "
        f"tokens per second of wall time (per CPU-second), medians of {args.rounds}"
    )
    results = []
    for shape in ["real"] if args.policy else args.shapes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            policy = args.policy or folder / "policy"
            if not args.policy:
                make_policy(shape, policy)
            for kind in args.types.split(","):
                compare(args, shape, kind, policy, folder, results)
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
