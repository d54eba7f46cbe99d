"""llama.cpp as a peer: a checkpoint written as GGUF in f32, bf16 or Q8_0, and batched sampling over its C interface."""

import ctypes
import json
import time

import gguf
import llama_cpp
import numpy
from safetensors import safe_open

from cost import Cost

NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TOP = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}


def gguf_name(name):
    """`model.layers.3.self_attn.q_proj.bias` -> `blk.3.attn_q.bias`."""
    if name in TOP:
        return TOP[name]
    layer, rest = name.removeprefix("model.layers.").split(".", 1)
    module, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{NAMES[module]}.{kind}"


# What matrices become; vectors stay in f32.
TYPES = {
    "f32": (gguf.LlamaFileType.ALL_F32, gguf.GGMLQuantizationType.F32),
    "bf16": (gguf.LlamaFileType.MOSTLY_BF16, gguf.GGMLQuantizationType.BF16),
    "int8": (gguf.LlamaFileType.MOSTLY_Q8_0, gguf.GGMLQuantizationType.Q8_0),
}


def write_gguf(policy, path, kind):
    """A tied Qwen2 checkpoint as GGUF, without a tokenizer: token ids go in and come out."""
    config = json.loads((policy / "config.json").read_text())
    writer = gguf.GGUFWriter(str(path), "qwen2")
    writer.add_context_length(1024)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config.get("rope_theta") or config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    file_type, matrix = TYPES[kind]
    writer.add_file_type(file_type)
    with safe_open(policy / "model.safetensors", "pt") as tensors:
        for name in tensors.keys():
            if name == "lm_head.weight":
                continue
            tensor = tensors.get_tensor(name).float().numpy()
            own = matrix if tensor.ndim > 1 else gguf.GGMLQuantizationType.F32
            writer.add_tensor(gguf_name(name), gguf.quantize(numpy.ascontiguousarray(tensor), own), raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@llama_cpp.llama_log_callback
def silent(level, text, data):
    pass


class Llama:
    """Sequences side by side in one context, each step one call of `llama_decode` over all of them."""

    def __init__(self, policy, path, kind, threads, sequences=64, length=512):
        llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        write_gguf(policy, path, kind)
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max = sequences * length, sequences
        params.n_batch = params.n_ubatch = 2048
        params.n_threads = params.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.batch = llama_cpp.llama_batch_init(params.n_batch, 0, 1)
        self.sampler = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        llama_cpp.llama_sampler_chain_add(self.sampler, llama_cpp.llama_sampler_init_dist(0))

    def decode(self, rows):
        """Runs (token, position, sequence, whether its logits are wanted) rows, at most a batch of them."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
        assert llama_cpp.llama_decode(self.context, batch) == 0

    def sample(self, row):
        return llama_cpp.llama_sampler_sample(self.sampler, self.context, row)

    def logits(self, ids):
        """Of the last position of one text: for comparing with others."""
        self.clear()
        self.decode([(token, position, 0, position + 1 == len(ids)) for position, token in enumerate(ids)])
        size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        return numpy.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.context, -1), (size,)).copy()

    def clear(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def generate(self, prompts, new):
        """What it costs, and new tokens, of `new` tokens for each of the prompts of one length, at temperature 1."""
        prompts = [ids for _, ids in prompts]
        length = len(prompts[0])
        start, cpu = time.perf_counter(), time.process_time()
        self.clear()
        tokens, group = [], self.batch_size(length)
        for first in range(0, len(prompts), group):
            some = prompts[first : first + group]
            self.decode([(t, p, first + s, p + 1 == length) for s, ids in enumerate(some) for p, t in enumerate(ids)])
            tokens += [self.sample((s + 1) * length - 1) for s in range(len(some))]
        for position in range(length, length + new - 1):
            self.decode([(token, position, sequence, True) for sequence, token in enumerate(tokens)])
            tokens = [self.sample(row) for row in range(len(tokens))]
        return Cost(time.perf_counter() - start, time.process_time() - cpu), len(prompts) * new

    @staticmethod
    def batch_size(length):
        return max(1, 2048 // length)
