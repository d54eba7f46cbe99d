"""Loads exports with the data sets of the trainers they are for, and compares token ids and labels with `pretokenized`.

    mindgap run pipelines/smoke.toml
    python tests/peers/trainers.py FOLDER [TRAINER ..] [--torch SITE_PACKAGES ..]

Every trainer gets a virtual environment of its own in FOLDER, with the version that is named here; one that is there is
used again. They take some 5 GB each, most of it torch: `--torch` names a site-packages folder with torch that environments of
the same Python see (once for each version of Python). Prints a table, and says of a trainer that cannot be installed or does
not load the rows why that is. Ends with an error where a row differs that should not.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from types import SimpleNamespace

SMOKE = ["pipelines/smoke.toml", "rewrites"]
IGNORED = -100
# As the trainers are told of it: the embedded policy's chat template for one user's turn and its answer.
USER, ANSWER = "<|user|>{}<|assistant|>", "{}<|end|>"


def masked(ids, mask):
    """Labels of ids, by a mask over them."""
    return [id if counts else IGNORED for id, counts in zip(ids, mask)]


def ahead(mask):
    """A mask over tokens, of one over the positions that predict them."""
    return [0] + list(mask)[:-1]


def trl(folder, policy):
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer

    config = SFTConfig(
        output_dir=tempfile.mkdtemp(), max_length=None, use_cpu=True, bf16=False, gradient_checkpointing=False,
        packing=False, report_to=[], model_init_kwargs={"dtype": "float32"},
    )
    trainer = SFTTrainer(model=policy, args=config, train_dataset=load_dataset(folder, split="train"))
    for row in trainer.train_dataset:
        batch = trainer.data_collator([row])
        yield batch["input_ids"][0].tolist(), batch["labels"][0].tolist()


def llamafactory_rows(policy, **options):
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    model, data, training, _, _ = get_train_args(dict(
        stage="sft", do_train=True, model_name_or_path=policy, finetuning_type="full", output_dir=tempfile.mkdtemp(),
        report_to="none", use_cpu=True, cutoff_len=4096, **options,
    ))
    module = load_tokenizer(model)
    template = get_template_and_fix_tokenizer(module["tokenizer"], data)
    for row in get_dataset(template, model, data, training, stage="sft", **module)["train_dataset"]:
        yield row["input_ids"], row["labels"]


def llamafactory(folder, policy):
    """The template derived from the policy's."""
    name, = json.loads(pathlib.Path(folder, "dataset_info.json").read_text())
    return llamafactory_rows(policy, dataset_dir=folder, dataset=name)


def llamafactory_registered(folder, policy):
    from llamafactory.data.formatter import StringFormatter
    from llamafactory.data.template import register_template

    register_template(
        name="embedded", format_user=StringFormatter(slots=[USER.format("{{content}}")]),
        format_assistant=StringFormatter(slots=[ANSWER.format("{{content}}")]),
    )
    name, = json.loads(pathlib.Path(folder, "dataset_info.json").read_text())
    return llamafactory_rows(policy, dataset_dir=folder, dataset=name, template="embedded")


def llamafactory_tokenized(folder, policy):
    from datasets import DatasetDict, load_dataset

    saved = tempfile.mkdtemp()
    rows = load_dataset("parquet", data_files=f"{folder}/train.parquet", split="train")
    DatasetDict({"train": rows}).save_to_disk(saved)
    return llamafactory_rows(policy, tokenized_path=saved, dataset="identity", template="empty")


def swift_rows(folder, policy, **options):
    from swift import get_processor, get_template, load_dataset
    from swift.template import TemplateMeta, register_template

    end = [ANSWER.format("")]
    own = TemplateMeta("embedded", prefix=[], prompt=[USER.format("{{QUERY}}")], chat_sep=end, suffix=end)
    register_template(own, exist_ok=True)
    processor = get_processor(policy, model_type="llama")
    template = get_template(processor, template_type="embedded", **options)
    template.set_mode("train")
    rows, _ = load_dataset([f"{folder}/train.jsonl"], num_proc=1)
    for row in rows:
        yield template.data_collator([template.encode(row)])


def swift(folder, policy):
    for batch in swift_rows(folder, policy):
        yield batch["input_ids"][0].tolist(), batch["labels"][0].tolist()


def swift_weights(folder, policy):
    """With the weight of each target token beside its label, as its trainer multiplies the loss."""
    for batch in swift_rows(folder, policy, is_binary_loss_scale=False):
        labels, scale = batch["labels"][0].tolist(), batch["loss_scale"][0].tolist()
        yield batch["input_ids"][0].tolist(), [(id, scale[at] if id != IGNORED else 0.0) for at, id in enumerate(labels)]


def axolotl_rows(policy, **dataset):
    from axolotl.cli.config import load_cfg
    from axolotl.loaders import load_tokenizer
    from axolotl.utils.data import prepare_datasets
    from axolotl.utils.dict import DictDefault

    cfg = load_cfg(DictDefault(dict(
        base_model=policy, datasets=[dataset], sequence_len=4096, micro_batch_size=1, gradient_accumulation_steps=1,
        num_epochs=1, learning_rate=1e-4, optimizer="adamw_torch", output_dir=tempfile.mkdtemp(), bf16=False, fp16=False,
        dataset_prepared_path=tempfile.mkdtemp(), shuffle_merged_datasets=False, dataset_num_proc=1,
        special_tokens={"pad_token": "<pad>"}, lr_scheduler="constant", attn_implementation="eager",
    )))
    for row in prepare_datasets(cfg, load_tokenizer(cfg))[0]:
        yield row["input_ids"], row["labels"]


def axolotl(folder, policy):
    return axolotl_rows(policy, path=f"{folder}/train.jsonl", ds_type="json", type="chat_template")


def axolotl_tokenized(folder, policy):
    return axolotl_rows(policy, path=f"{folder}/train.parquet", ds_type="parquet", type="")


def tokenizer_of(policy):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(policy)


def verl(folder, policy):
    from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

    rows = MultiTurnSFTDataset(f"{folder}/train.parquet", tokenizer_of(policy), {"pad_mode": "no_padding", "max_length": 4096})
    for row in rows:
        ids = row["input_ids"].tolist()
        yield ids, masked(ids, row["loss_mask"].tolist())


def verl_rl(folder, policy):
    """Reinforcement learning reads the prompts alone."""
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    tokenizer = tokenizer_of(policy)
    config = OmegaConf.create({"prompt_key": "prompt", "max_prompt_length": 4096, "cache_dir": tempfile.mkdtemp()})
    for row in RLHFDataset(f"{folder}/train.parquet", tokenizer, config):
        text = tokenizer.apply_chat_template(row["raw_prompt"], add_generation_prompt=True, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        yield ids, [IGNORED] * len(ids)


def verl_paper(folder, policy):
    from verl.utils.dataset.sft_dataset import SFTDataset

    rows = SFTDataset(f"{folder}/train.parquet", tokenizer_of(policy), {
        "prompt_key": "extra_info", "prompt_dict_keys": ["question"], "response_key": "extra_info",
        "response_dict_keys": ["answer"], "max_length": 1024,
    })
    for row in rows:
        count = int(row["attention_mask"].sum())
        ids = row["input_ids"].tolist()[:count]
        yield ids, masked(ids, ahead(row["loss_mask"].tolist()[:count]))


def openrlhf(folder, policy):
    from datasets import load_dataset
    from openrlhf.datasets import SFTDataset

    data = SimpleNamespace(input_key="input", output_key="output", apply_chat_template=True)
    rows = SFTDataset(
        load_dataset(folder, split="train"), tokenizer_of(policy), 4096, SimpleNamespace(args=SimpleNamespace(data=data)),
        num_processors=1,
    )
    for item in range(len(rows)):
        ids, _, mask = (part[0].tolist() for part in rows[item])
        yield ids, masked(ids, ahead(mask))


# Of each trainer: the Python it runs on, what is installed one after the other, the package whose version is told, and pairs of
# layout and loader. Where rows cannot load, what is said then.
PLACEHOLDER = "A placeholder is required in the string formatter"
OLD = ["transformers<5", "pandas<3", "pyarrow<21"]
REST = ["transformers==5.15.0", "deepspeed==0.19.6", "ray[default]==2.55.0", "accelerate", "datasets", "einops", "jsonlines",
        "loralib", "optree", "peft", "pylatexenc", "pynvml", "tensorboard", "torchdata", "torchmetrics"]
TRAINERS = {
    "trl": ("3.11", [["trl==1.16.0"]], "trl", [("trl", trl), ("pretokenized", trl)]),
    "llamafactory": ("3.11", [["llamafactory==0.9.5"]], "llamafactory", [
        ("llamafactory", llamafactory), ("llamafactory", llamafactory_registered), ("pretokenized", llamafactory_tokenized),
    ]),
    # Its trainers that sample, and their reward for mathematics, ask for two more.
    "swift": ("3.11", [["ms-swift==4.6.0", "msgspec", "math-verify"]], "ms-swift", [("swift", swift), ("swift-weights", swift_weights)]),
    "axolotl": ("3.12", [["axolotl==0.21.0"]], "axolotl", [("axolotl", axolotl), ("pretokenized", axolotl_tokenized)]),
    "verl": ("3.11", [["verl==0.9.1"]], "verl", [("verl", verl), ("verl-paper", verl_rl)]),
    "verl-old": ("3.11", [["verl==0.7.0", *OLD]], "verl", [("verl-paper", verl_paper)]),
    # It asks for flash-attn, which is built with a compiler for GPUs; its data sets do not need that.
    "openrlhf": ("3.12", [["--no-deps", "openrlhf==0.11.2"], REST], "openrlhf", [("openrlhf", openrlhf)]),
}
EXPECTED = {"llamafactory": PLACEHOLDER}
WEIGHT = 0.3


def reference(exports):
    """Ids and labels of `pretokenized`, and the source of each row."""
    import pyarrow.parquet

    folder = pathlib.Path(exports, "pretokenized")
    table = pyarrow.parquet.read_table(folder / "train.parquet")
    sources = [json.loads(line)["source"] for line in (folder / "rows.jsonl").read_text().splitlines()]
    return table["input_ids"].to_pylist(), table["labels"].to_pylist(), sources


def wanted_labels(loader, labels, sources):
    if loader is verl_rl:
        return [[IGNORED] * row.count(IGNORED) for row in labels]
    if loader is not swift_weights:
        return labels
    # The expert's answers have the weight, and every end-of-sequence token 1.
    weigh = {True: WEIGHT, False: 1.0}
    return [
        [(id, 0.0 if id == IGNORED else weigh[source == "expert" and at + 1 < len(row)]) for at, id in enumerate(row)]
        for row, source in zip(labels, sources)
    ]


def near(a, b):
    if a and isinstance(a[0], tuple):
        return len(a) == len(b) and all(x[0] == y[0] and abs(x[1] - y[1]) < 1e-6 for x, y in zip(a, b))
    return a == b


def compare(loader, layout, exports, policy):
    ids, labels, sources = reference(exports)
    labels = wanted_labels(loader, labels, sources)
    if loader is verl_rl:
        ids = [row[:len(prompt)] for row, prompt in zip(ids, labels)]
    try:
        rows = list(loader(str(pathlib.Path(exports, layout)), policy))
    except Exception as error:
        return {"problem": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    return {
        "total": len(ids), "loaded": len(rows),
        "ids": sum(list(row[0]) == want for row, want in zip(rows, ids)),
        "labels": sum(near(list(row[1]), want) for row, want in zip(rows, labels)),
    }


def load(name, exports, policy, to):
    """What runs in a trainer's environment: each layout of its own."""
    _, _, package, cases = TRAINERS[name]
    versions = {part: importlib.metadata.version(part) for part in [package, "transformers", "torch", "datasets"]}
    results = [{"layout": layout, "loader": f.__name__, **compare(f, layout, exports, policy)} for layout, f in cases]
    pathlib.Path(to).write_text(json.dumps({"versions": versions, "results": results}))


def environment(folder, name, shared):
    """The environment's python, or why there is none."""
    version, steps, _, _ = TRAINERS[name]
    home, ready = folder / name, folder / name / "ready"
    python = home / "bin" / "python"
    if ready.exists():
        return python, None
    interpreter = shutil.which(f"python{version}")
    if interpreter is None:
        return None, f"python{version} is not there"
    subprocess.run([interpreter, "-m", "venv", "--clear", str(home)], check=True)
    pins = []
    for site in shared:
        if f"python{version}" in site:
            (home / "lib" / f"python{version}" / "site-packages" / "shared.pth").write_text(site + "\n")
            command = [python, "-c", "import importlib.metadata as m; print('torch==' + m.version('torch').split('+')[0])"]
            pins_file = home / "pins.txt"
            pins_file.write_text(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            pins = ["--constraint", str(pins_file)]
    for step in [["--upgrade", "pip"], *steps]:
        run = subprocess.run([python, "-m", "pip", "install", "-q", *pins, *step], capture_output=True, text=True)
        if run.returncode != 0:
            errors = [line for line in run.stderr.splitlines() if "error" in line.lower()] or ["pip fails"]
            return None, f"not installed: {errors[-1][:200]}"
    ready.touch()
    return python, None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("trainers", nargs="*", default=list(TRAINERS))
    parser.add_argument("--torch", action="append", default=[])
    parser.add_argument("--mindgap", default="target/release/mindgap")
    parser.add_argument("--store", default="data/store")
    parser.add_argument("--policy", default="data/base-policy")
    args = parser.parse_args()
    folder, policy = args.folder.resolve(), str(pathlib.Path(args.policy).resolve())
    folder.mkdir(parents=True, exist_ok=True)
    failed = []
    with tempfile.TemporaryDirectory() as exports:
        def export(layout, *more):
            command = [args.mindgap, "--store", args.store, "export", *SMOKE, "--format", layout.removesuffix("-weights")]
            subprocess.run([*command, "--to", f"{exports}/{layout}", *more], check=True, capture_output=True)

        for layout in ["trl", "pretokenized", "llamafactory", "swift", "axolotl", "verl", "verl-paper", "openrlhf"]:
            export(layout)
        export("swift-weights", "--weight", f"expert={WEIGHT}")
        # What libraries keep of folders they have read is theirs; nothing is asked of a network.
        settings = {
            **os.environ, "HF_DATASETS_CACHE": f"{exports}/cache", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "",
            "AXOLOTL_DO_NOT_TRACK": "1", "DO_NOT_TRACK": "1", "WANDB_MODE": "disabled", "TOKENIZERS_PARALLELISM": "false",
        }
        print("| trainer | versions | layout | loader | ids equal | labels equal |\n|---|---|---|---|--:|--:|", flush=True)
        for name in args.trainers:
            python, problem = environment(folder, name, args.torch)
            if problem:
                print(f"| {name} | | | | skipped: {problem} | |", flush=True)
                continue
            to, log = f"{exports}/{name}.json", folder / f"{name}.log"
            with log.open("w") as out:
                command = [python, __file__, "--load", name, exports, policy, to]
                run = subprocess.run(command, env=settings, cwd=exports, stdout=out, stderr=out)
            if run.returncode != 0:
                failed.append(name)
                print(f"| {name} | | | | fails, see {log} | |", flush=True)
                continue
            told = json.loads(pathlib.Path(to).read_text())
            versions = ", ".join(f"{part} {version}" for part, version in told["versions"].items())
            for result in told["results"]:
                head = f"| {name} | {versions} | {result['layout']} | {result['loader']} |"
                if "problem" in result:
                    known = EXPECTED.get(result["loader"])
                    if known is None or known not in result["problem"]:
                        failed.append(name)
                    print(f"{head} {result['problem']} | |", flush=True)
                    continue
                total, same = result["total"], [result["ids"], result["labels"], result["loaded"]]
                if same != [total] * 3:
                    failed.append(name)
                print(f"{head} {same[0]}/{total} | {same[1]}/{total} |", flush=True)
    assert not failed, failed


if __name__ == "__main__":
    if sys.argv[1:2] == ["--load"]:
        load(*sys.argv[2:])
    else:
        main()
