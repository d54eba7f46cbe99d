//! tokenizer.json and tokenizer_config.json from metadata.
//!
//! Two kinds: byte-level BPE with merges, whose way of splitting text is a name (`tokenizer.ggml.pre`), and SentencePiece's BPE,
//! whose merges follow from the scores of its pieces.

use super::{Gguf, bad};
use candle_core::quantized::gguf_file;
use mindgap_base::error::Result;
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// Kinds of tokens in `tokenizer.ggml.token_type`.
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;

const CONTRACTIONS: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const WORDS: &str = r"[^\r\n\p{L}\p{N}]?\p{L}+";
const REST: &str = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

pub(super) fn json(gguf: &Gguf) -> Result<Value> {
    let tokens = tokens(gguf)?;
    let mut vocab = Map::new();
    for (id, token) in tokens.iter().enumerate() {
        vocab.insert(token.to_string(), id.into());
    }
    let mut tokenizer = match gguf.need_text("tokenizer.ggml.model")? {
        "gpt2" => byte_level(gguf, vocab)?,
        "llama" => sentence_piece(gguf, &tokens, vocab)?,
        other => {
            return Err(bad(format!("tokenizer `{other}` is not implemented")).hint(HINT));
        }
    };
    tokenizer["version"] = json!("1.0");
    tokenizer["truncation"] = Value::Null;
    tokenizer["padding"] = Value::Null;
    tokenizer["added_tokens"] = added(gguf, &tokens)?;
    tokenizer["post_processor"] = post_processor(gguf, &tokens)?;
    Ok(tokenizer)
}

const HINT: &str = "name a folder with the model's tokenizer: { gguf = \"model.gguf\", tokenizer = \"folder\" }";

fn tokens<'a>(gguf: &'a Gguf) -> Result<Vec<&'a str>> {
    let token = |value: &'a gguf_file::Value| match value {
        gguf_file::Value::String(token) => Ok(token.as_str()),
        _ => Err(bad("`tokenizer.ggml.tokens` holds something that is no text")),
    };
    gguf.list("tokenizer.ggml.tokens")?.iter().map(token).collect()
}

/// Special tokens, and those that stand for themselves wherever they are written.
fn added(gguf: &Gguf, tokens: &[&str]) -> Result<Value> {
    let kinds = gguf.list("tokenizer.ggml.token_type")?;
    if kinds.len() != tokens.len() {
        return Err(bad(format!("{} types of {} tokens", kinds.len(), tokens.len())));
    }
    let kind = |value: &gguf_file::Value| match value {
        gguf_file::Value::I32(kind) => u64::try_from(*kind).unwrap_or(0),
        other => other.to_u64().unwrap_or(0),
    };
    let list =
        tokens.iter().zip(kinds).enumerate().filter(|(_, (_, k))| [UNKNOWN, CONTROL, USER_DEFINED].contains(&kind(k)));
    let token = |(id, (token, k)): (usize, (&&str, &gguf_file::Value))| {
        json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": kind(k) != USER_DEFINED})
    };
    Ok(list.map(token).collect())
}

/// Puts the token of beginning before a text, and that of its end behind it, where the file says so.
fn post_processor(gguf: &Gguf, tokens: &[&str]) -> Result<Value> {
    let (mut single, mut specials) = (vec![json!({"Sequence": {"id": "A", "type_id": 0}})], Map::new());
    let spm = gguf.text("tokenizer.ggml.model") == Some("llama");
    for (kind, usual) in [("bos", spm), ("eos", false)] {
        if !gguf.flag(&format!("tokenizer.ggml.add_{kind}_token")).unwrap_or(usual) {
            continue;
        }
        let Some(token) = named(gguf, tokens, kind)? else { continue };
        let id = gguf.optional_size(&format!("tokenizer.ggml.{kind}_token_id"))?;
        let place = if kind == "bos" { 0 } else { single.len() };
        single.insert(place, json!({"SpecialToken": {"id": token, "type_id": 0}}));
        specials.insert(token.to_string(), json!({"id": token, "ids": [id], "tokens": [token]}));
    }
    if specials.is_empty() {
        return Ok(Value::Null);
    }
    let pair = [single.clone(), vec![json!({"Sequence": {"id": "B", "type_id": 1}})]].concat();
    Ok(json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": specials}))
}

/// A token that has a role.
fn named<'a>(gguf: &Gguf, tokens: &[&'a str], role: &str) -> Result<Option<&'a str>> {
    let key = format!("tokenizer.ggml.{role}_token_id");
    match gguf.optional_size(&key)? {
        None => Ok(None),
        Some(id) => match tokens.get(id) {
            Some(token) => Ok(Some(token)),
            None => Err(bad(format!("`{key}` is {id}, and there are {} tokens", tokens.len()))),
        },
    }
}

fn byte_level(gguf: &Gguf, vocab: Map<String, Value>) -> Result<Value> {
    let mut merges = Vec::new();
    for merge in gguf.list("tokenizer.ggml.merges")? {
        let pair = match merge {
            gguf_file::Value::String(merge) => merge.split_once(' '),
            _ => None,
        };
        let (first, second) = pair.ok_or_else(|| bad("`tokenizer.ggml.merges` holds something that is no pair"))?;
        merges.push(json!([first, second]));
    }
    let pre = gguf.text("tokenizer.ggml.pre").unwrap_or("default");
    let bytes = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let split = |digits: &str| {
        let pattern = format!("{CONTRACTIONS}|{WORDS}|{digits}|{REST}");
        let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        json!({"type": "Sequence", "pretokenizers": [split, bytes(false)]})
    };
    let pre_tokenizer = match pre {
        "qwen2" => split(r"\p{N}"),
        "llama-bpe" | "llama3" | "dbrx" => split(r"\p{N}{1,3}"),
        "smollm" | "refact" | "starcoder" => {
            json!({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, bytes(true)]})
        }
        "gpt-2" => bytes(true),
        other => return Err(bad(format!("the way of splitting text `{other}` is not implemented")).hint(HINT)),
    };
    // Llama 3 takes a word that is a token as it is.
    let whole_words = ["llama-bpe", "llama3"].contains(&pre);
    let normalizer = if pre == "qwen2" { json!({"type": "NFC"}) } else { Value::Null };
    Ok(json!({
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "decoder": bytes(true),
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": whole_words, "vocab": vocab, "merges": merges},
    }))
}

/// SentencePiece's BPE joins the two neighbours whose whole has the highest score: a merge for every way to cut a piece in two.
fn sentence_piece(gguf: &Gguf, tokens: &[&str], vocab: Map<String, Value>) -> Result<Value> {
    let scores = gguf.list("tokenizer.ggml.scores")?;
    if scores.len() != tokens.len() {
        return Err(bad(format!("{} scores of {} tokens", scores.len(), tokens.len())));
    }
    let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, token)| (*token, id)).collect();
    let mut merges: Vec<(f32, &str, &str)> = Vec::new();
    for (token, score) in tokens.iter().zip(scores) {
        let score =
            score.to_f32().map_err(|e| bad("`tokenizer.ggml.scores` holds something that is no number").source(e))?;
        let mut own: Vec<(&str, &str)> = token
            .char_indices()
            .skip(1)
            .map(|(at, _)| token.split_at(at))
            .filter(|(first, second)| ids.contains_key(first) && ids.contains_key(second))
            .collect();
        own.sort_by_key(|(first, second)| (ids[first], ids[second]));
        merges.extend(own.into_iter().map(|(first, second)| (score, first, second)));
    }
    let length = |text: &str| text.chars().count();
    // transformers' order: by score, then by the parts' lengths; the sort is stable.
    merges.sort_by(|a, b| {
        b.0.total_cmp(&a.0).then_with(|| length(b.1).cmp(&length(a.1))).then_with(|| length(b.2).cmp(&length(a.2)))
    });
    let merges: Vec<Value> = merges.into_iter().map(|(_, first, second)| json!([first, second])).collect();
    let unknown = named(gguf, tokens, "unknown")?;
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
    let prefix = gguf.flag("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let normalizer = match prefix {
        true => json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u{2581}"}, replace]}),
        false => replace,
    };
    Ok(json!({
        "normalizer": normalizer,
        "pre_tokenizer": null,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {"type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false, "vocab": vocab,
            "merges": merges},
    }))
}

/// Roles of tokens and the chat template.
pub(super) fn config(gguf: &Gguf) -> Result<Value> {
    let tokens = tokens(gguf)?;
    let mut config = json!({"tokenizer_class": "PreTrainedTokenizerFast"});
    for (role, key) in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")] {
        if let Some(token) = named(gguf, &tokens, key)? {
            config[format!("{role}_token")] = json!(token);
        }
    }
    if let Some(template) = gguf.text("tokenizer.chat_template") {
        config["chat_template"] = json!(template);
    }
    Ok(config)
}
