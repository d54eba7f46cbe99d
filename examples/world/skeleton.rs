//! The base policy without its weights: tokenizer, chat template and model configuration, in Hugging Face layout.
//!
//! The tokenizer is a byte-level BPE without merges. Every piece the world is written in is one token; all else falls
//! back to bytes, so any text can be encoded and comes back unchanged.

use super::problem::{ITEMS, NAMES};
use super::solution::{ADVERBS, VARIABLES};
use serde_json::{Map, Value, json};

pub const PAD: u32 = 0;
pub const USER: u32 = 1;
pub const END: u32 = 3;
const SPECIALS: [&str; 4] = ["<pad>", "<|user|>", "<|assistant|>", "<|end|>"];

/// Pieces of text, each with the space before it. ASCII classes only where a piece can be a token, so that regex engines
/// cannot disagree about one.
pub const PIECES: &str = r" ?\\boxed\{| ?[A-Za-z]+| ?[0-9]| ?[^\sA-Za-z0-9]|\n";

/// The words of the world beside its names, items, adverbs and variables.
const WORDS: &str = "has have buys finds more gives away loses The number doubles triples How many now \
    A box holds Then go in come out it Count the Solve We start with Next get answer is \
    Reference solution Rewrite this in your own words Claim we Let Therefore So Start at a dozen Recall";

const SYMBOLS: &str = "0123456789+-*/=.,:;?}";

const CHAT_TEMPLATE: &str = "{%- set ns = namespace(system='') -%}\
    {%- for message in messages -%}\
    {%- if message['role'] == 'system' -%}\
    {%- if not loop.first -%}{{- raise_exception('a system message must come first') -}}{%- endif -%}\
    {%- set ns.system = message['content'] + '\\n' -%}\
    {%- elif message['role'] == 'user' -%}\
    {{- '<|user|>' + ns.system + message['content'] -}}\
    {%- set ns.system = '' -%}\
    {%- elif message['role'] == 'assistant' -%}\
    {{- '<|assistant|>' + message['content'] + '<|end|>' -}}\
    {%- else -%}\
    {{- raise_exception('unknown role: ' + message['role']) -}}\
    {%- endif -%}\
    {%- endfor -%}\
    {%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}";

/// The vocabulary in the order of its ids: specials, the 256 bytes, then the world's pieces.
pub fn vocabulary() -> Vec<String> {
    let mut tokens: Vec<String> = SPECIALS.iter().map(ToString::to_string).collect();
    tokens.extend((0..=255u8).map(|byte| byte_char(byte).to_string()));
    let names = NAMES.iter().flat_map(|(name, pronoun)| [*name, *pronoun]);
    let symbols = SYMBOLS.split("").filter(|s| !s.is_empty());
    let words = names.chain(ITEMS).chain(ADVERBS).chain(VARIABLES).chain(WORDS.split_whitespace()).chain(symbols);
    for word in words.chain(["\\boxed{"]) {
        for piece in [word.to_string(), format!(" {word}")] {
            let token: String = piece.bytes().map(byte_char).collect();
            if !tokens.contains(&token) {
                tokens.push(token);
            }
        }
    }
    tokens
}

/// The printable character that stands for a byte in a byte-level vocabulary (the scheme of GPT-2): printable Latin-1
/// stands for itself, the rest is counted up from U+0100.
fn byte_char(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let rank = (0..byte).filter(|b| !printable(*b)).count() as u32;
    char::from_u32(0x100 + rank).expect("below U+0200 every number is a character")
}

/// The files of the folder, by name.
pub fn files() -> Vec<(&'static str, String)> {
    let pretty = |value: Value| serde_json::to_string_pretty(&value).expect("JSON is printable") + "\n";
    vec![
        ("config.json", pretty(config())),
        ("generation_config.json", pretty(generation_config())),
        ("tokenizer.json", pretty(tokenizer())),
        ("tokenizer_config.json", pretty(tokenizer_config())),
    ]
}

/// A Llama of less than a million parameters. Not a Qwen2: for that family transformers 5 replaces the pre-tokenizer of
/// `tokenizer.json` by Qwen's own, and would cut the text into other tokens than we do.
fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary().len(),
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 4096,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": null,
        "tie_word_embeddings": true,
        "attention_bias": false,
        "mlp_bias": false,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": true,
        "bos_token_id": USER,
        "eos_token_id": END,
        "pad_token_id": PAD,
        "torch_dtype": "float32"
    })
}

fn generation_config() -> Value {
    json!({
        "bos_token_id": USER,
        "eos_token_id": END,
        "pad_token_id": PAD,
        "do_sample": true,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0
    })
}

fn tokenizer() -> Value {
    let tokens = vocabulary();
    let ids: Map<String, Value> = tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let added: Vec<Value> = SPECIALS
        .iter()
        .enumerate()
        .map(|(id, content)| {
            json!({
                "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true
            })
        })
        .collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": PIECES}, "behavior": "Isolated", "invert": false},
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}
            ]
        },
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            // A piece that is in the vocabulary is taken whole, so no merges are needed to build it up.
            "ignore_merges": true,
            "vocab": ids,
            "merges": []
        }
    })
}

fn tokenizer_config() -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": SPECIALS[END as usize],
        "pad_token": SPECIALS[PAD as usize],
        "clean_up_tokenization_spaces": false,
        "model_max_length": 4096,
        "chat_template": CHAT_TEMPLATE
    })
}
