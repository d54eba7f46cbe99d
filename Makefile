# Every target works on a fresh clone with Rust, make and a C compiler.
#   make demo                                   the whole method on the embedded world
#   make rewrites PIPELINE=pipelines/demo.toml  one stage and what it needs

PIPELINE ?= pipelines/demo.toml
CARGO ?= cargo
MINDGAP = $(CARGO) run --quiet --release --bin mindgap --
STAGES = problems rollouts verdicts guided rewrites logprobs train evals

.PHONY: help demo demo-seeds miniature family beyond smoke real gsm8k base-policy build install wheel test test-slow test-cuda-emulated ci lint fmt golden bench fuzz deny reproducible doc clean clean-store report $(STAGES)

help:
	@echo "make demo                 the whole method on the embedded world, with a report"
	@echo "make real FILE=...        all stages on a problem file of your own"
	@echo "make gsm8k POLICY=..      the paper's comparison with a real policy on GSM8K"
	@echo "make beyond               self-distillation, teachers, rewards: five seeds of each on the embedded world"
	@echo "make STAGE PIPELINE=...   one stage and what it needs: $(STAGES) report"
	@echo "make test lint            what CI runs; test-slow adds what takes minutes"
	@echo "make test-cuda-emulated   the build with CUDA, on an emulated driver"
	@echo "make wheel                wheels/*.whl: the program and the Python module; needs maturin"
	@echo "make bench fuzz doc       speed of the embedded policy; fuzzing the verifier; API pages"
	@echo "make deny reproducible    what dependencies may be; the same bytes from two builds"
	@echo "make clean                build outputs; clean-store deletes the computed tables too"

demo: build
	$(MINDGAP) run pipelines/demo.toml
	$(MINDGAP) report pipelines/demo.toml

# The same over three training seeds.
demo-seeds: build
	$(MINDGAP) run pipelines/demo-seeds.toml
	$(MINDGAP) report pipelines/demo-seeds.toml

# The paper with its ablations over five seeds; writes the tables of docs/results.md.
COMPARE = sft:base dft:sft dr+sft:sft dr+dft:dft dr+dft:dr+sft \
	dr+sft:no-guided+sft dr+dft:no-guided+dft dr+sft:no-fallback+sft dr+dft:no-fallback+dft \
	dr+sft:self+sft dr+dft:self+dft dr+sft:self-equal+sft dr+dft:self-equal+dft \
	two-round+sft:dr+sft two-round+dft:dr+dft two-round+sft:dr-more+sft two-round+dft:dr-more+dft
miniature: build
	$(MINDGAP) run pipelines/miniature.toml
	$(MINDGAP) results pipelines/miniature.toml $(COMPARE) --into docs/results.md

# The neighbours of the method over five seeds; writes the tables of docs/results-family.md.
FAMILY = on-policy-sft likeliest teachers rounds replay
PAIRS_on-policy-sft = round-2:base fixed:base round-2:fixed
PAIRS_likeliest = first:expert likeliest:expert likeliest:first likeliest:random shortest:first
PAIRS_teachers = random:expert likeliest:expert likeliest:random
PAIRS_rounds = onward-2:onward-0 restart-2:restart-0 onward-2:one-round restart-2:one-round
PAIRS_replay = replay-reword:sequential-reword replay-reword:ordinary-reword ordinary-reword:sequential-reword
family: build
	@set -e; for name in $(FAMILY); do $(MAKE) --no-print-directory family-$$name; done
family-%:
	$(MINDGAP) run pipelines/family/$*.toml
	$(MINDGAP) results pipelines/family/$*.toml $(PAIRS_$*) --into docs/results-family.md --section $*

# Self-distillation, teachers, rewards, the rewriting agent and hinted decoding over five seeds; writes docs/results-beyond.md.
BEYOND = sdft:base sdft:sft sdft-js:sdft sdft-reverse:sdft sdft-all:sdft sdft-rounds:sdft taught:base taught:teacher grpo:base \
	grpo-rounds:grpo chord-mu:sft chord-mu:grpo chord-phi:grpo agent+sft:dr+sft dr+dft:agent+sft hinted+sft:sft hinted+sft:dr+sft
beyond: data/corpus.parquet
	$(MINDGAP) run pipelines/beyond.toml
	$(MINDGAP) results pipelines/beyond.toml $(BEYOND) --into docs/results-beyond.md

data/corpus.parquet: build
	$(CARGO) run --quiet --release --example world -- --corpus data/corpus.parquet --documents 115200 --seed 0

smoke: build
	$(MINDGAP) run pipelines/smoke.toml
	$(MINDGAP) report pipelines/smoke.toml

# All stages on a file of your own: make real FILE=problems.jsonl
real: build
	@test -n "$(FILE)" || { echo "name a file: make real FILE=problems.jsonl"; exit 2; }
	$(MINDGAP) run pipelines/real-input.toml --set file=$(abspath $(FILE))
	$(MINDGAP) report pipelines/real-input.toml --set file=$(abspath $(FILE))

# The paper's comparison with a real policy on GSM8K: make gsm8k POLICY=folder TRAIN=rows.jsonl TEST=rows.jsonl OTHER=rows.jsonl
gsm8k: build
	@test -n "$(POLICY)" && test -n "$(TRAIN)" && test -n "$(TEST)" && test -n "$(OTHER)" || \
	    { echo "name a policy and files: make gsm8k POLICY=folder TRAIN=.. TEST=.. OTHER=.. (SET='--set samples=10')"; exit 2; }
	$(MINDGAP) run pipelines/gsm8k.toml $(GSM8K) $(SET)
	$(MINDGAP) report pipelines/gsm8k.toml $(GSM8K) $(SET)
GSM8K = --set policy=$(abspath $(POLICY)) --set train=$(abspath $(TRAIN)) --set test=$(abspath $(TEST)) --set other=$(abspath $(OTHER))

$(STAGES): build
	$(MINDGAP) run $(PIPELINE) $@

report: build
	$(MINDGAP) report $(PIPELINE)

# Pre-trains the base policy again, from random weights; resumable.
base-policy: data/corpus.parquet
	$(MINDGAP) run pipelines/00-base-policy.toml
	cp -L data/store/tables/base-policy/train/model.safetensors data/base-policy/model.safetensors
	$(MINDGAP) report pipelines/00-base-policy.toml

build:
	$(CARGO) build --release --bin mindgap

test:
	$(CARGO) test --release --workspace

# What takes minutes: the long kill loop.
test-slow:
	MINDGAP_SLOW_TESTS=1 $(CARGO) test --release --workspace

# The program with CUDA on an emulated driver; needs g++ and no GPU. A build of its own, in target/cuda-emulated.
test-cuda-emulated:
	CARGO="$(CARGO)" tests/cuda-emulated/run.sh

golden:
	UPDATE_GOLDEN=1 $(CARGO) test --release -p mindgap-math --test goldens
	UPDATE_GOLDEN=1 $(CARGO) test --release --test it

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings

fmt:
	$(CARGO) fmt --all

bench: build
	$(MINDGAP) bench --policy data/base-policy

# Needs a nightly toolchain and cargo-fuzz.
FUZZ = $(CARGO) +nightly fuzz run -s none --no-trace-compares
FUZZ_SECONDS ?= 60
fuzz:
	cd crates/math/fuzz && for target in extract parse compare; do $(FUZZ) $$target -- -max_total_time=$(FUZZ_SECONDS) || exit 1; done
	cd fuzz && for target in pipelines templates records parquet answers; do \
	    mkdir -p corpus/$$target && $(FUZZ) $$target corpus/$$target $$(cat seeds/$$target.from 2>/dev/null || echo seeds/$$target) -- -max_total_time=$(FUZZ_SECONDS) || exit 1; done

# Licences, advisories and sources of what this is built of; needs cargo-deny, and the network for advisories.
deny:
	for lock in Cargo.toml crates/python/Cargo.toml; do $(CARGO) deny --manifest-path $$lock --config deny.toml check $(CHECKS) || exit 1; done

# Builds the program twice from the last commit, with nothing shared, and compares the bytes: an hour on two cores.
reproducible:
	tests/reproducible.sh

doc:
	$(CARGO) doc --workspace --no-deps

# What CI runs.
ci: lint test

install:
	$(CARGO) install --path . --locked

# One wheel with the program and the Python module: pip install maturin, make wheel, pip install wheels/*.whl.
# PROGRAM=path packs a program that is built already.
SCRIPTS = crates/python/mindgap._mindgap.data/scripts
wheel: $(if $(PROGRAM),,build)
	mkdir -p $(SCRIPTS)
	cp $(or $(PROGRAM),$(or $(CARGO_TARGET_DIR),target)/release/mindgap) $(SCRIPTS)/mindgap
	strip $(SCRIPTS)/mindgap
	cd crates/python && maturin build --release --locked --out ../../wheels

clean:
	$(CARGO) clean

# Deletes every table and policy that was computed here: hours of sampling.
clean-store:
	rm -rf data/store
