"""Tiny random GGUF files of every architecture that is read, in f32, and llama.cpp's next-token log-probs for them.

    pip install torch==2.13.0 transformers==5.24.0 gguf==0.19.0 && python tests/peers/gguf_families.py make FOLDER
    pip install xllamacpp==2026.10.11549                        && python tests/peers/gguf_families.py ask FOLDER
    for f in FOLDER/*.gguf; do MINDGAP_PEER=${f%.gguf}.json MINDGAP_PEER_POLICY=$f \\
        cargo test --release --test it a_real_policy -- --nocapture; done

The files are written as llama.cpp's converter writes them. Weights are f32, so llama.cpp rounds nothing, and what is left of
a difference is the order of sums.
"""

import json
import sys
from pathlib import Path

VOCABULARY = 96
LENGTHS = (3, 9, 20, 40, 70)


def families():
    from transformers import (
        Gemma2Config, Gemma3TextConfig, GraniteConfig, LlamaConfig, Olmo2Config, Olmo3Config, Phi3Config, Qwen2Config,
        Qwen3Config, SmolLM3Config,
    )

    common = {
        "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 0, "eos_token_id": 2,
        "num_hidden_layers": 4, "pad_token_id": None, "tie_word_embeddings": False,
    }
    llama3 = {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32, "rope_theta": 1e4,
    }
    yield "llama", "llama", LlamaConfig(**common, rope_parameters=llama3)
    yield "qwen2", "qwen2", Qwen2Config(**common)
    yield "qwen3", "qwen3", Qwen3Config(**common, head_dim=32)
    yield "gemma2", "gemma2", Gemma2Config(
        **{**common, "tie_word_embeddings": True}, head_dim=32, query_pre_attn_scalar=32, sliding_window=16,
        attn_logit_softcapping=3.0, final_logit_softcapping=6.0,
    )
    yield "gemma3", "gemma3", Gemma3TextConfig(
        **{**common, "tie_word_embeddings": True, "num_hidden_layers": 7}, head_dim=32, query_pre_attn_scalar=32,
        sliding_window=16, rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    )
    yield "phi3", "phi3", Phi3Config(**common)
    long = {
        "rope_type": "longrope", "short_factor": [1.0 + i / 10 for i in range(6)],
        "long_factor": [1.5 + i for i in range(6)], "rope_theta": 1e4, "partial_rotary_factor": 0.75,
    }
    # llama.cpp takes the factors for long texts if its context, 256 at least, is longer than the original.
    yield "phi4", "phi3", Phi3Config(
        **{**common, "max_position_embeddings": 1024}, original_max_position_embeddings=256, rope_parameters=long
    )
    yield "smollm3", "smollm3", SmolLM3Config(**common, no_rope_layer_interval=4)
    yield "olmo2", "olmo2", Olmo2Config(**common)
    yarn = {
        "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32, "beta_fast": 32.0, "beta_slow": 1.0,
        "rope_theta": 1e4,
    }
    yield "olmo3", "olmo2", Olmo3Config(
        **common, sliding_window=16, rope_parameters={
            "full_attention": yarn, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    )
    yield "granite", "granite", GraniteConfig(
        **common, embedding_multiplier=6.0, attention_multiplier=0.2, residual_multiplier=0.22, logits_scaling=2.5,
    )


NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.qkv_proj": "attn_qkv", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.gate_up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
}


def own_name(name, sandwiched):
    whole = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
    if name in whole:
        return whole[name]
    _, _, layer, rest = name.split(".", 3)
    place, kind = rest.rsplit(".", 1)
    after = {"post_attention_layernorm": "post_attention_norm" if sandwiched else "ffn_norm"}
    return f"blk.{layer}.{ {**NAMES, **after}[place] }.{kind}"


def make(folder):
    import gguf
    import torch
    import transformers

    folder.mkdir(exist_ok=True)
    for seed, (name, arch, config) in enumerate(families()):
        model = transformers.AutoModelForCausalLM.from_config(config)
        generator = torch.Generator().manual_seed(seed)
        writer = gguf.GGUFWriter(folder / f"{name}.gguf", arch)
        w, own = writer, config.to_dict()
        head_dim = own.get("head_dim") or config.hidden_size // config.num_attention_heads
        w.add_context_length(config.max_position_embeddings), w.add_embedding_length(config.hidden_size)
        w.add_block_count(config.num_hidden_layers), w.add_feed_forward_length(config.intermediate_size)
        w.add_head_count(config.num_attention_heads), w.add_head_count_kv(config.num_key_value_heads)
        w.add_layer_norm_rms_eps(config.rms_norm_eps), w.add_key_length(head_dim), w.add_value_length(head_dim)
        w.add_vocab_size(VOCABULARY), w.add_file_type(gguf.LlamaFileType.ALL_F32)
        rope = own["rope_parameters"]
        rope = rope.get("full_attention", rope)
        w.add_rope_freq_base(rope["rope_theta"])
        turned = int(head_dim * rope.get("partial_rotary_factor", 1.0))
        w.add_rope_dimension_count(turned)
        if rope["rope_type"] in ("linear", "yarn"):
            w.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"])), w.add_rope_scaling_factor(rope["factor"])
        if rope["rope_type"] == "yarn":
            w.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        if rope["rope_type"] == "llama3":
            from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

            plain = 1.0 / rope["rope_theta"] ** (torch.arange(0, head_dim, 2).float() / head_dim)
            scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config)
            w.add_tensor("rope_freqs.weight", (plain / scaled).numpy())
        if rope["rope_type"] == "longrope":
            import math

            original = config.original_max_position_embeddings
            w.add_rope_scaling_orig_ctx_len(original)
            grown = config.max_position_embeddings / original
            w.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(grown) / math.log(original)))
            for kind in ("short", "long"):
                w.add_tensor(f"rope_factors_{kind}.weight", torch.tensor(rope[f"{kind}_factor"]).numpy())
        if own.get("sliding_window") and arch != "qwen2":
            w.add_sliding_window(config.sliding_window)
        if arch == "gemma2":
            w.add_attn_logit_softcapping(3.0), w.add_final_logit_softcapping(6.0)
        if arch == "granite":
            w.add_attention_scale(config.attention_multiplier), w.add_embedding_scale(config.embedding_multiplier)
            w.add_residual_scale(config.residual_multiplier), w.add_logit_scale(config.logits_scaling)
        w.add_tokenizer_model("gpt2"), w.add_tokenizer_pre("gpt-2"), w.add_token_merges(["t 1"])
        w.add_token_list(["t", "1", "t1"] + [f"x{i}" for i in range(3, VOCABULARY)]), w.add_token_types([1] * VOCABULARY)
        w.add_bos_token_id(0), w.add_eos_token_id(2)
        gemma, permutes = arch.startswith("gemma"), arch in ("llama", "smollm3", "granite")
        for tensor, parameter in model.named_parameters():
            if tensor == "lm_head.weight" and config.tie_word_embeddings:
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            if tensor.endswith("norm.weight"):
                data = 1.0 + 0.2 * noise
            elif tensor.endswith("bias"):
                data = 0.3 * noise
            else:
                data = 0.5 * noise if "embed" in tensor or "lm_head" in tensor else noise * 1.2 / parameter.shape[1] ** 0.5
            data = data.detach().numpy()
            if permutes and ("q_proj" in tensor or "k_proj" in tensor):
                heads = config.num_attention_heads if "q_proj" in tensor else config.num_key_value_heads
                data = data.reshape(heads, 2, head_dim // 2, *data.shape[1:]).swapaxes(1, 2).reshape(data.shape)
            w.add_tensor(own_name(tensor, gemma or arch == "olmo2"), data)
        w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()
        print("made", name)


def ask(folder):
    import random
    import urllib.request

    import xllamacpp

    for file in sorted(folder.glob("*.gguf")):
        params = xllamacpp.CommonParams()
        params.model.path = str(file)
        params.n_ctx, params.n_parallel, params.warmup, params.cpuparams.n_threads = 128, 1, False, 1
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        server = xllamacpp.Server(params)
        draw = random.Random(1)
        ids = [draw.randrange(3, VOCABULARY) for _ in range(max(LENGTHS))]
        likeliest = []
        for length in LENGTHS:
            body = {
                "prompt": ids[:length], "n_predict": 1, "n_probs": 40, "temperature": 0.0, "cache_prompt": False,
                "samplers": [],
            }
            request = urllib.request.Request(server.listening_address + "/completion", json.dumps(body).encode())
            request.add_header("Content-Type", "application/json")
            answer = json.load(urllib.request.urlopen(request))
            top = answer.get("completion_probabilities", [{}])[0].get("top_logprobs")
            if top:
                likeliest.append({"ids": ids[:length], "top": [[t["id"], t["logprob"]] for t in top]})
        numbers = {"texts": [], "scores": [], "greedy": [], "likeliest": likeliest}
        file.with_suffix(".json").write_text(json.dumps(numbers))
        print("asked", file.stem, len(likeliest), flush=True)
        del server


if __name__ == "__main__":
    {"make": make, "ask": ask}[sys.argv[1]](Path(sys.argv[2]))
