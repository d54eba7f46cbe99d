# Every target works on a fresh clone with Rust, make and a C compiler.
#   make demo                                   the whole method on the embedded world
#   make rewrites PIPELINE=pipelines/demo.toml  one stage and what it needs

PIPELINE ?= pipelines/demo.toml
CARGO ?= cargo
MINDGAP = $(CARGO) run --quiet --release --bin mindgap --
STAGES = problems rollouts verdicts guided rewrites logprobs train evals

.PHONY: demo demo-seeds miniature smoke real base-policy build test test-slow lint fmt golden bench fuzz doc clean report $(STAGES)

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

smoke: build
	$(MINDGAP) run pipelines/smoke.toml
	$(MINDGAP) report pipelines/smoke.toml

# All stages on a file of your own: make real FILE=problems.jsonl
real: build
	@test -n "$(FILE)" || { echo "name a file: make real FILE=problems.jsonl"; exit 2; }
	$(MINDGAP) run pipelines/real-input.toml --set file=$(abspath $(FILE))
	$(MINDGAP) report pipelines/real-input.toml --set file=$(abspath $(FILE))

$(STAGES): build
	$(MINDGAP) run $(PIPELINE) $@

report: build
	$(MINDGAP) report $(PIPELINE)

# Pre-trains the base policy again, from random weights; resumable.
base-policy: build
	$(CARGO) run --quiet --release --example world -- --corpus data/corpus.parquet --documents 115200 --seed 0
	$(MINDGAP) run pipelines/00-base-policy.toml
	cp -L data/store/tables/base-policy/train/model.safetensors data/base-policy/model.safetensors
	$(MINDGAP) report pipelines/00-base-policy.toml

build:
	$(CARGO) build --release --bin mindgap

test:
	$(CARGO) test --release

# What takes minutes: the long kill loop, and the comparison with another implementation of the models.
test-slow:
	MINDGAP_SLOW_TESTS=1 $(CARGO) test --release --features oracle

golden:
	UPDATE_GOLDEN=1 $(CARGO) test --release --test it

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --release --all-targets -- -D warnings

fmt:
	$(CARGO) fmt

bench: build
	$(MINDGAP) bench --policy data/base-policy

# Needs a nightly toolchain and cargo-fuzz.
fuzz:
	cd fuzz && for target in extract parse compare; do $(CARGO) +nightly fuzz run $$target -- -max_total_time=60 || exit 1; done

doc:
	$(CARGO) doc --no-deps

clean:
	$(CARGO) clean
	rm -rf data/store
