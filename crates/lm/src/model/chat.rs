//! Chat templates: messages -> the text a checkpoint was trained to see, by the checkpoint's own Jinja template.
//!
//! The environment is the one Hugging Face gives its templates: block trimming, loop controls, Python's string methods,
//! `raise_exception`, `strftime_now`, and `tojson` as Python's `json.dumps` writes it. One thing differs on purpose: the
//! date is fixed. A prompt that changes with the day would make the same recipe mean something else tomorrow; the date is the
//! one Llama 3's own template falls back to.

use mindgap_base::error::{Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, ErrorKind, Value, context};
use serde::Serialize;
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    pub content: String,
}

impl Message {
    pub fn user(content: impl Into<String>) -> Message {
        Message { role: "user".into(), content: content.into() }
    }
}

/// A compiled template with the strings it may use.
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// `bos_token`, `eos_token`, `pad_token`, ... as strings.
    specials: BTreeMap<String, String>,
    source: String,
}

const NAME: &str = "chat template";

impl ChatTemplate {
    /// Compiles a template. `specials` become variables of the same names. Errors are syntax errors, with their line.
    pub fn new(source: &str, specials: BTreeMap<String, String>) -> Result<ChatTemplate> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.expect("the usual delimiters do not clash"));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", |format: String| strftime(&format));
        environment.add_filter("tojson", to_json);
        environment.add_template_owned(NAME, source.to_string()).map_err(|e| template_error("does not compile", e))?;
        Ok(ChatTemplate { environment, specials, source: source.to_string() })
    }

    /// From the bytes of tokenizer_config.json and, if the checkpoint has it, chat_template.jinja, which has precedence.
    /// `None` if neither holds a template.
    pub fn from_files(tokenizer_config: Option<&[u8]>, jinja: Option<&[u8]>) -> Result<Option<ChatTemplate>> {
        let config = match tokenizer_config {
            Some(bytes) => parse_config(bytes)?,
            None => Json::Null,
        };
        let source = match jinja {
            Some(bytes) => {
                let text = std::str::from_utf8(bytes);
                Some(text.map_err(|e| Error::input("not UTF-8").at("chat_template.jinja").source(e))?.to_string())
            }
            None => default_template(&config),
        };
        source.map(|source| ChatTemplate::new(&source, special_strings(&config))).transpose()
    }

    /// The text of a conversation; with `add_generation_prompt`, up to where the assistant's answer begins. `extra` holds
    /// further variables of this template (`enable_thinking`, say). Errors: the template refuses the messages, or uses
    /// something that does not exist.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool, extra: &Json) -> Result<String> {
        let template = self.environment.get_template(NAME).expect("the template was added when it was compiled");
        // Hugging Face passes `tools` and `documents` as none, so templates test them with `is none` as well as for truth.
        let base = context! {
        messages => Value::from(Serde(messages)), add_generation_prompt, tools => (), documents => () };
        let specials = Value::from(Serde(&self.specials));
        let extra = if extra.is_null() {
            Value::from(Serde(Json::Object(Default::default())))
        } else {
            Value::from(Serde(extra))
        };
        template
            .render(context! { ..extra, ..base, ..specials })
            .map_err(|e| template_error("does not render these messages", e))
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }
}

/// The JSON of tokenizer_config.json.
pub(super) fn parse_config(bytes: &[u8]) -> Result<Json> {
    serde_json::from_slice(bytes).map_err(|e| Error::input("not valid JSON").at("tokenizer_config.json").source(e))
}

/// `chat_template` is a string, or a list of named ones of which `default` is for plain conversations.
fn default_template(config: &Json) -> Option<String> {
    match config.get("chat_template")? {
        Json::String(source) => Some(source.clone()),
        Json::Array(named) => {
            let default = named.iter().find(|t| t["name"] == "default")?;
            default["template"].as_str().map(str::to_string)
        }
        _ => None,
    }
}

/// `xxx_token` entries: a string, or an object with `content`.
pub(super) fn special_strings(config: &Json) -> BTreeMap<String, String> {
    let entries = config.as_object().into_iter().flatten().filter(|(key, _)| key.ends_with("_token"));
    let text = |v: &Json| v.as_str().or_else(|| v.get("content").and_then(Json::as_str)).map(str::to_string);
    entries.filter_map(|(key, value)| Some((key.clone(), text(value)?))).collect()
}

fn template_error(what: &str, error: minijinja::Error) -> Error {
    let line = error.line().map(|line| format!(":{line}")).unwrap_or_default();
    let detail = error.detail().map(|d| format!("`{d}`")).unwrap_or_else(|| error.kind().to_string());
    Error::input(format!("chat template {what}: {detail}")).at(format!("{NAME}{line}"))
}

fn raise_exception(message: String) -> Result<String, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// The fixed date, 26 July 2024 (a Friday), at midnight.
fn strftime(format: &str) -> Result<String, minijinja::Error> {
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = rest.next();
        // `%-d` asks for no padding, which nothing in this date has.
        if directive == Some('-') {
            directive = rest.next();
        }
        out.push_str(match directive {
            Some('a') => "Fri",
            Some('A') => "Friday",
            Some('b' | 'h') => "Jul",
            Some('B') => "July",
            Some('d' | 'e') => "26",
            Some('F') => "2024-07-26",
            Some('H' | 'M' | 'S') => "00",
            Some('I') => "12",
            Some('j') => "208",
            Some('m') => "07",
            Some('p') => "AM",
            Some('T') => "00:00:00",
            Some('y') => "24",
            Some('Y') => "2024",
            Some('%') => "%",
            other => {
                let said = other.map(String::from).unwrap_or_default();
                return Err(minijinja::Error::new(ErrorKind::InvalidOperation, format!("unknown date format %{said}")));
            }
        });
    }
    Ok(out)
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=indent)`: `", "` and `": "` on one line, no HTML escapes.
fn to_json(value: Value, kwargs: Kwargs) -> Result<Value, minijinja::Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    // Accepted for the templates that pass them; both are what happens anyway.
    let _: Option<bool> = kwargs.get("ensure_ascii")?;
    let _: Option<bool> = kwargs.get("sort_keys")?;
    kwargs.assert_all_used()?;
    let json = serde_json::to_value(&value)
        .map_err(|e| minijinja::Error::new(ErrorKind::BadSerialization, "cannot be written as JSON").with_source(e))?;
    let mut out = String::new();
    dump(&json, indent, 0, &mut out);
    Ok(Value::from_safe_string(out))
}

fn dump(value: &Json, indent: Option<usize>, depth: usize, out: &mut String) {
    let newline = |depth: usize, out: &mut String| {
        if let Some(width) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', width * depth));
        }
    };
    let separator = if indent.is_some() { "," } else { ", " };
    match value {
        Json::Array(items) if !items.is_empty() => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i > 0 { separator } else { "" });
                newline(depth + 1, out);
                dump(item, indent, depth + 1, out);
            }
            newline(depth, out);
            out.push(']');
        }
        Json::Object(fields) if !fields.is_empty() => {
            out.push('{');
            for (i, (key, item)) in fields.iter().enumerate() {
                out.push_str(if i > 0 { separator } else { "" });
                newline(depth + 1, out);
                out.push_str(&Json::from(key.as_str()).to_string());
                out.push_str(": ");
                dump(item, indent, depth + 1, out);
            }
            newline(depth, out);
            out.push('}');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
mod tests;
