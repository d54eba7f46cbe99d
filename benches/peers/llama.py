"""llama.cpp as a peer: a checkpoint written as GGUF in f32, and batched sampling over its C interface, on one thread."""

import ctypes
import time

import gguf
import llama_cpp
import numpy
from safetensors.numpy import load_file

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


def write_gguf(policy, shape, path):
    """A tied Qwen2 checkpoint as GGUF, without a tokenizer: token ids go in and come out."""
    writer = gguf.GGUFWriter(str(path), "qwen2")
    writer.add_context_length(1024)
    writer.add_embedding_length(shape["hidden_size"])
    writer.add_block_count(shape["num_hidden_layers"])
    writer.add_feed_forward_length(shape["intermediate_size"])
    writer.add_head_count(shape["num_attention_heads"])
    writer.add_head_count_kv(shape["num_key_value_heads"])
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(shape["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for name, tensor in load_file(policy / "model.safetensors").items():
        writer.add_tensor(gguf_name(name), numpy.ascontiguousarray(tensor, dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@llama_cpp.llama_log_callback
def silent(level, text, data):
    pass


class Llama:
    """Sequences side by side in one context, each step one call of `llama_decode` over all of them."""

    def __init__(self, policy, shape, path, sequences=64, length=512):
        llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        write_gguf(policy, shape, path)
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max = sequences * length, sequences
        params.n_batch = params.n_ubatch = 2048
        params.n_threads = params.n_threads_batch = 1
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
        """CPU seconds and new tokens of `new` tokens for each of the prompts of one length, at temperature 1."""
        prompts = [ids for _, ids in prompts]
        length = len(prompts[0])
        start = time.process_time()
        self.clear()
        tokens, group = [], self.batch_size(length)
        for first in range(0, len(prompts), group):
            some = prompts[first : first + group]
            self.decode([(t, p, first + s, p + 1 == length) for s, ids in enumerate(some) for p, t in enumerate(ids)])
            tokens += [self.sample((s + 1) * length - 1) for s in range(len(some))]
        for position in range(length, length + new - 1):
            self.decode([(token, position, sequence, True) for sequence, token in enumerate(tokens)])
            tokens = [self.sample(row) for row in range(len(tokens))]
        return time.process_time() - start, len(prompts) * new

    @staticmethod
    def batch_size(length):
        return max(1, 2048 // length)
