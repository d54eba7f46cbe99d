//! Chat templates: messages -> the text a checkpoint was trained to see, by the checkpoint's own Jinja template.
//!
//! The environment is the one Hugging Face gives its templates: block trimming, loop controls, `generation` tags, Python's
//! literals and string methods, `raise_exception`, `strftime_now`, and `tojson` as Python's `json.dumps` writes it. One thing differs on purpose: the
//! date is fixed. A prompt that changes with the day would make the same recipe mean something else tomorrow; the date is the
//! one Llama 3's own template falls back to.

pub mod bounds;
mod json;
mod methods;
mod python;
mod source;

use mindgap_base::error::{Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    pub content: String,
}

impl Message {
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: content.into() }
    }

    pub fn user(content: impl Into<String>) -> Message {
        Message::new("user", content)
    }
}

/// What a policy is shown, up to where it goes on by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conversation {
    /// System turn, earlier turns, and the user's last.
    pub messages: Vec<Message>,
    /// What the assistant's turn begins with.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefill: String,
    /// Further variables of the chat template, by name.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub template_kwargs: serde_json::Map<String, Json>,
}

impl Conversation {
    /// One turn of the user's.
    pub fn user(content: impl Into<String>) -> Conversation {
        Conversation { messages: vec![Message::user(content)], ..Conversation::default() }
    }

    /// True where there is no more to it than the user's turn.
    pub fn is_plain(&self) -> bool {
        let [only] = &self.messages[..] else { return false };
        only.role == "user" && self.prefill.is_empty() && self.template_kwargs.is_empty()
    }

    /// An answer written by somebody who was given no prefill, as it stands behind it: without the prefill where it begins with
    /// that, and a space apart from it.
    pub fn behind_prefill<'a>(&self, answer: &'a str) -> Cow<'a, str> {
        let rest = answer.strip_prefix(&self.prefill).unwrap_or(answer);
        let apart = |text: &str, c: Option<char>| text.is_empty() || c.is_none_or(char::is_whitespace);
        match apart(&self.prefill, self.prefill.chars().last()) || apart(rest, rest.chars().next()) {
            true => Cow::Borrowed(rest),
            false => Cow::Owned(format!(" {rest}")),
        }
    }

    /// The user's last turn.
    pub fn question(&self) -> &str {
        self.messages.last().map_or("", |message| &message.content)
    }
}

/// A compiled template with the strings it may use.
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// `bos_token`, `eos_token`, `pad_token`, ... as strings.
    specials: BTreeMap<String, String>,
    source: String,
    /// Whether `strftime_now` was called.
    asked_for_date: Arc<AtomicBool>,
}

const NAME: &str = "chat template";

impl ChatTemplate {
    /// Compiles a template. `specials` become variables of the same names. Errors are syntax errors, with their line.
    pub fn new(source: &str, specials: BTreeMap<String, String>) -> Result<ChatTemplate> {
        // Before it is looked through, which takes time.
        bounds::check_length(source)?;
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.expect("the usual delimiters do not clash"));
        python::extend(&mut environment);
        environment.add_function("raise_exception", raise_exception);
        let asked_for_date = Arc::new(AtomicBool::new(false));
        let asked = asked_for_date.clone();
        environment.add_function("strftime_now", move |format: String| {
            asked.store(true, Ordering::Relaxed);
            strftime(&format)
        });
        bounds::add(&mut environment, NAME, source::prepare(source), |e| template_error("does not compile", e))?;
        Ok(ChatTemplate { environment, specials, source: source.to_string(), asked_for_date })
    }

    /// From the bytes of tokenizer_config.json and, if the checkpoint has them, chat_template.jinja, which has precedence, and
    /// special_tokens_map.json. `None` if there is no template.
    pub fn from_files(
        tokenizer_config: Option<&[u8]>,
        jinja: Option<&[u8]>,
        special_map: Option<&[u8]>,
    ) -> Result<Option<ChatTemplate>> {
        let config = tokenizer_config.map_or(Ok(Json::Null), parse_config)?;
        let source = match jinja {
            Some(bytes) => {
                let text = std::str::from_utf8(bytes);
                Some(text.map_err(|e| Error::input("not UTF-8").at("chat_template.jinja").source(e))?.to_string())
            }
            None => default_template(&config),
        };
        let specials = special_strings(tokenizer_config, special_map)?;
        source.map(|source| ChatTemplate::new(&source, specials)).transpose()
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
        bounds::render(&template, context! { ..extra, ..base, ..specials })
            .map_err(|e| template_error("does not render these messages", e))
    }

    /// Whether a conversation that was rendered so far asked for the date: the same has another text elsewhere, where it is the
    /// day's.
    pub fn asked_for_date(&self) -> bool {
        self.asked_for_date.load(Ordering::Relaxed)
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }
}

/// The JSON of tokenizer_config.json.
fn parse_config(bytes: &[u8]) -> Result<Json> {
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

/// Special tokens by their roles (`eos_token`), as transformers finds them: special_tokens_map.json has precedence over
/// tokenizer_config.json, but is only read where that lists no `added_tokens_decoder`.
pub(super) fn special_strings(
    tokenizer_config: Option<&[u8]>,
    special_map: Option<&[u8]>,
) -> Result<BTreeMap<String, String>> {
    let config = tokenizer_config.map_or(Ok(Json::Null), parse_config)?;
    let mut specials = roles(&config);
    if let Some(bytes) = special_map.filter(|_| config.get("added_tokens_decoder").is_none()) {
        let map = serde_json::from_slice(bytes)
            .map_err(|e| Error::input("not valid JSON").at("special_tokens_map.json").source(e))?;
        specials.extend(roles(&map));
    }
    Ok(specials)
}

/// Whether special_tokens_map.json says anything that tokenizer_config.json does not.
pub(super) fn special_map_matters(tokenizer_config: Option<&[u8]>, special_map: &[u8]) -> Result<bool> {
    Ok(special_strings(tokenizer_config, Some(special_map))? != special_strings(tokenizer_config, None)?)
}

/// `xxx_token` entries: a string, or an object with `content`.
fn roles(config: &Json) -> BTreeMap<String, String> {
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
        // `%-m` asks for no padding.
        let padded = directive != Some('-');
        if !padded {
            directive = rest.next();
        }
        out.push_str(match directive {
            Some('a') => "Fri",
            Some('A') => "Friday",
            Some('b' | 'h') => "Jul",
            Some('B') => "July",
            Some('d' | 'e') => "26",
            Some('F') => "2024-07-26",
            Some('H' | 'M' | 'S') => {
                if padded {
                    "00"
                } else {
                    "0"
                }
            }
            Some('I') => "12",
            Some('j') => "208",
            Some('m') => {
                if padded {
                    "07"
                } else {
                    "7"
                }
            }
            Some('p') => "AM",
            Some('T' | 'X') => "00:00:00",
            Some('R') => "00:00",
            Some('D' | 'x') => "07/26/24",
            Some('c') => "Fri Jul 26 00:00:00 2024",
            Some('f') => "000000",
            Some('u' | 'w') => "5",
            Some('U') => "29",
            Some('V' | 'W') => "30",
            Some('G') => "2024",
            Some('z' | 'Z') => "",
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

#[cfg(test)]
mod tests;
