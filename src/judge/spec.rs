//! What is written of a judge: a word, or a table with a `kind` and the options of that kind.

use super::{Command, Judge, Schema, command, model};
use clap::ValueEnum;
use mindgap_base::error::{Error, Result};
use serde::de::value::StrDeserializer;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum JudgeKind {
    /// Mathematical equality of final answers
    #[default]
    Math,
    /// The same text
    Exact,
    /// Numbers within a tolerance
    Numeric,
    /// A multiple-choice letter
    Choice,
    /// Equal JSON values
    Json,
    /// Calls of tools, by names and arguments
    ToolCall,
    /// A program in FinQA's arithmetic language, by its result
    Program,
    /// JSON that fits a JSON schema
    Schema,
    /// A program of yours, in a sandbox: JSON lines in and out
    Command,
    /// A policy of a pipeline's, asked for its verdict
    #[value(hide = true)]
    Model,
}

impl JudgeKind {
    /// The policy that options name, where judges of this kind ask one.
    pub fn policy(self, options: &BTreeMap<String, Setting>) -> Option<&str> {
        match options.get("policy") {
            Some(Setting::Word(policy)) if self == JudgeKind::Model => Some(policy),
            _ => None,
        }
    }
}

/// The value of an option, as it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "an option is true, false, a number, a word or a list of words")]
pub enum Setting {
    Flag(bool),
    Number(u64),
    Decimal(f64),
    Word(String),
    List(Vec<String>),
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Setting::Flag(flag) => flag.fmt(f),
            Setting::Number(number) => number.fmt(f),
            Setting::Decimal(number) => number.fmt(f),
            Setting::Word(word) => word.fmt(f),
            Setting::List(words) => words.join(" ").fmt(f),
        }
    }
}

impl Setting {
    /// A list, or the words of a text.
    fn words(&self) -> Vec<String> {
        match self {
            Setting::List(words) => words.clone(),
            other => other.to_string().split_whitespace().map(str::to_string).collect(),
        }
    }
}

/// A kind of judge with its options.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JudgeSpec {
    pub kind: JudgeKind,
    pub options: BTreeMap<String, Setting>,
}

/// What the options of a kind say.
enum Parsed {
    Rules(mindgap_math::Judge),
    Schema(Option<String>),
    Command(command::Options),
    Model(model::Options),
}

impl JudgeSpec {
    /// Errors: an option that the kind does not have, or a value that it does not take. Looks at no file.
    pub fn check(&self) -> Result<()> {
        self.parsed().map(drop)
    }

    /// What is said of the policy that judges, where one does. Errors: as `check`.
    pub fn model(&self) -> Result<Option<model::Options>> {
        match self.parsed()? {
            Parsed::Model(options) => Ok(Some(options)),
            Parsed::Rules(_) | Parsed::Schema(_) | Parsed::Command(_) => Ok(None),
        }
    }

    /// The judge, which is no policy; relative paths start at `folder`. Errors: as `check`, and files that cannot be used.
    pub fn judge(&self, folder: &Path) -> Result<Judge> {
        Ok(match self.parsed()? {
            Parsed::Rules(rules) => Judge::Rules(rules),
            Parsed::Schema(file) => Judge::Schema(Schema::new(file.map(|file| folder.join(file)).as_deref())?),
            Parsed::Command(options) => Judge::Command(Command::new(options, folder)?),
            Parsed::Model(_) => {
                return Err(
                    Error::usage("the judge `model` asks a policy of a pipeline's").hint("name it in a judge stage")
                );
            }
        })
    }

    fn parsed(&self) -> Result<Parsed> {
        match self.kind {
            JudgeKind::Schema => {
                self.only(&["schema"])?;
                Ok(Parsed::Schema(self.options.get("schema").map(Setting::to_string)))
            }
            JudgeKind::Command => {
                self.only(&command::OPTIONS)?;
                let mut options = command::Options::new(self.options.get("command").map(Setting::words))?;
                for (name, value) in self.options.iter().filter(|(name, _)| *name != "command") {
                    options.set(name, &value.to_string())?;
                }
                Ok(Parsed::Command(options))
            }
            JudgeKind::Model => {
                self.only(&model::OPTIONS)?;
                model::Options::new(&self.options).map(Parsed::Model)
            }
            _ => {
                let options = self.options.iter().map(|(name, value)| (name.as_str(), value.to_string()));
                let options: Vec<(&str, String)> = options.collect();
                let settings = options.iter().map(|(name, value)| (*name, value.as_str()));
                mindgap_math::Judge::of(&self.name(), settings).map(Parsed::Rules).map_err(Error::usage)
            }
        }
    }

    /// The kind, as it is written.
    fn name(&self) -> String {
        self.kind.to_possible_value().expect("every kind has a name").get_name().to_string()
    }

    fn only(&self, known: &[&str]) -> Result<()> {
        let Some(unknown) = self.options.keys().find(|name| !known.contains(&name.as_str())) else { return Ok(()) };
        let error = Error::usage(format!("the judge `{}` has no option `{unknown}`", self.name()));
        Err(error.hint(format!("it has {}", known.join(", "))))
    }
}

impl Serialize for JudgeSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.options.is_empty() {
            return self.kind.serialize(serializer);
        }
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("kind", &self.kind)?;
        self.options.iter().try_for_each(|(name, value)| map.serialize_entry(name, value))?;
        map.end()
    }
}

/// By hand, so that an error says which key is wrong.
impl<'de> Deserialize<'de> for JudgeSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<JudgeSpec, D::Error> {
        struct SpecVisitor;
        impl<'de> Visitor<'de> for SpecVisitor {
            type Value = JudgeSpec;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a kind of judge, or a table with `kind` and its options")
            }

            fn visit_str<E: serde::de::Error>(self, kind: &str) -> Result<JudgeSpec, E> {
                Ok(JudgeSpec { kind: JudgeKind::deserialize(StrDeserializer::new(kind))?, options: BTreeMap::new() })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<JudgeSpec, A::Error> {
                let (mut kind, mut options) = (None, BTreeMap::new());
                while let Some(name) = map.next_key::<String>()? {
                    match name.as_str() {
                        "kind" => kind = Some(map.next_value()?),
                        _ => {
                            let value = map.next_value().map_err(|e| A::Error::custom(format!("`{name}`: {e}")))?;
                            options.insert(name, value);
                        }
                    }
                }
                let kind = kind.ok_or_else(|| A::Error::missing_field("kind"))?;
                Ok(JudgeSpec { kind, options })
            }
        }
        deserializer.deserialize_any(SpecVisitor)
    }
}
