//! Which judge which problems have.

use super::model::{ModelJudge, Shared};
use crate::judge::{Judge, JudgeSpec};
use crate::stage::spec::Inputs;
use mindgap_base::error::Result;
use serde::de::{Deserializer, Error as _};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What a pipeline says: one judge, or a `default` and judges `by_source`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Judges {
    pub default: JudgeSpec,
    /// By source; `name-*` is every source whose name starts so.
    pub by_source: BTreeMap<String, JudgeSpec>,
}

impl Judges {
    /// Errors: options that a kind does not have, named with their source.
    pub fn check(&self) -> Result<()> {
        self.default.check()?;
        self.by_source.iter().try_for_each(|(name, spec)| spec.check().map_err(|e| e.at(place(name))))
    }

    /// Errors: as `check`, and files that cannot be used.
    pub fn ready(&self, inputs: &Inputs) -> Result<BySource> {
        let mut loaded = Shared::default();
        let default = Named::new(&self.default, inputs, &mut loaded)?;
        let judge = |(name, spec): (&String, &JudgeSpec)| {
            Ok((name.clone(), Named::new(spec, inputs, &mut loaded).map_err(|e| e.at(place(name)))?))
        };
        Ok(BySource { default, by_source: self.by_source.iter().map(judge).collect::<Result<_>>()? })
    }
}

fn place(source: &str) -> String {
    format!("source `{source}`")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Several {
    #[serde(default)]
    default: JudgeSpec,
    by_source: BTreeMap<String, JudgeSpec>,
}

/// One judge is written as its word or its table.
impl<'de> Deserialize<'de> for Judges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Judges, D::Error> {
        let value = toml::Value::deserialize(deserializer)?;
        let wrong = |e: toml::de::Error| D::Error::custom(e.message());
        match value.get("by_source").or(value.get("default")) {
            None => Ok(Judges { default: value.try_into().map_err(wrong)?, by_source: BTreeMap::new() }),
            Some(_) => {
                let Several { default, by_source } = value.try_into().map_err(wrong)?;
                Ok(Judges { default, by_source })
            }
        }
    }
}

impl Serialize for Judges {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.by_source.is_empty() {
            return self.default.serialize(serializer);
        }
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("default", &self.default)?;
        map.serialize_entry("by_source", &self.by_source)?;
        map.end()
    }
}

/// A judge, ready, and its name.
pub struct Named {
    pub judge: Ready,
    pub name: String,
}

/// Who judges.
pub enum Ready {
    /// What looks at one sample at a time.
    Judge(Judge),
    /// A policy, which is asked about many at once.
    Model(Box<ModelJudge>),
}

impl Named {
    fn new(spec: &JudgeSpec, inputs: &Inputs, loaded: &mut Shared) -> Result<Named> {
        if let Some(options) = spec.model()? {
            let model = ModelJudge::new(options, inputs, loaded)?;
            return Ok(Named { name: model.name(), judge: Ready::Model(Box::new(model)) });
        }
        let judge = spec.judge(inputs.folder)?;
        Ok(Named { name: judge.name(), judge: Ready::Judge(judge) })
    }

    pub fn judge(&self) -> Option<&Judge> {
        match &self.judge {
            Ready::Judge(judge) => Some(judge),
            Ready::Model(_) => None,
        }
    }

    pub fn model(&self) -> Option<&ModelJudge> {
        match &self.judge {
            Ready::Judge(_) => None,
            Ready::Model(model) => Some(model),
        }
    }

    /// It looks at more of a problem than its question and its answer.
    pub fn sees_problem(&self) -> bool {
        self.judge().is_none_or(Judge::is_command)
    }
}

/// The judges, ready.
pub struct BySource {
    pub default: Named,
    by_source: BTreeMap<String, Named>,
}

impl BySource {
    /// Whether every problem has the default one.
    pub fn is_one(&self) -> bool {
        self.by_source.is_empty()
    }

    pub fn all(&self) -> impl Iterator<Item = &Named> {
        std::iter::once(&self.default).chain(self.by_source.values())
    }

    /// The judge of a source: the one under its own name, else the one under the longest pattern that fits.
    pub fn judge(&self, source: &str) -> &Named {
        let fitting = self.by_source.iter().filter(|(name, _)| fits(name, source));
        fitting.max_by_key(|(name, _)| (*name == source, name.len())).map_or(&self.default, |(_, judge)| judge)
    }

    /// What verdicts on problems of these sources depend on, beyond the default judge; and whether also on which problem is of which
    /// source, or on more of a problem than its question and its answer.
    pub fn key(&self, sources: &BTreeSet<String>) -> (Vec<String>, bool) {
        let judges: BTreeMap<&str, &Named> =
            sources.iter().map(|source| (source.as_str(), self.judge(source))).collect();
        let names: BTreeSet<&str> = judges.values().map(|named| named.name.as_str()).collect();
        let is_several = names.len() > 1;
        let line = |(source, named): (&&str, &&Named)| match is_several {
            true => format!("judge {source} {}", named.name),
            false => format!("judge {}", named.name),
        };
        let others = judges.iter().filter(|(_, named)| named.name != self.default.name).map(line);
        let lines: BTreeSet<String> = others.collect();
        let sees_problem = judges.values().any(|named| named.sees_problem());
        (lines.into_iter().collect(), is_several || sees_problem)
    }

    /// What is named and fits none of the sources.
    pub fn without_source<'a>(&'a self, sources: &'a BTreeSet<String>) -> impl Iterator<Item = &'a String> {
        self.by_source.keys().filter(|name| !sources.iter().any(|source| fits(name, source)))
    }

    /// Name or pattern of a source, and the name of its judge.
    pub fn names(&self) -> BTreeMap<&str, &str> {
        self.by_source.iter().map(|(source, named)| (source.as_str(), named.name.as_str())).collect()
    }
}

fn fits(name: &str, source: &str) -> bool {
    name.strip_suffix('*').map_or(name == source, |start| source.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mindgap_store::Store;

    fn read(text: &str) -> Result<Judges, String> {
        #[derive(Deserialize)]
        struct File {
            judge: Judges,
        }
        toml::from_str::<File>(text).map(|file| file.judge).map_err(|e| e.message().to_string())
    }

    const SEVERAL: &str = r#"judge = { default = "math", by_source = {
        tatqa = { kind = "numeric", scale = "from_gold", rel_tol = 1e-2 }, "sci-*" = "choice", "sci-open*" = "exact",
        "sci-open-1" = { kind = "tool_call", ordered = false } } }"#;

    #[test]
    fn the_nearest_name_decides() {
        let judges = read(SEVERAL).unwrap();
        judges.check().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let inputs = Inputs {
            store: &Store::open(folder.path()).unwrap(),
            folder: folder.path(),
            manifests: &BTreeMap::new(),
            params: &BTreeMap::new(),
            policies: &BTreeMap::new(),
        };
        let ready = judges.ready(&inputs).unwrap();
        let kind = |source: &str| ready.judge(source).name.split("-v").next().unwrap().to_string();
        let sources = ["tatqa", "tatqa2", "sci-a", "sci-open-2", "sci-open-1", ""];
        assert_eq!(sources.map(kind), ["numeric", "math", "choice", "exact", "tool_call", "math"]);
        assert!(ready.judge("tatqa").name.contains("(rel_tol=0.01,abs_tol=0,scale=from_gold)"));
        let key = |sources: &[&str]| ready.key(&sources.iter().map(|source| source.to_string()).collect());
        assert_eq!(key(&["a", "b"]), (vec![], false));
        assert_eq!(key(&["sci-a", "sci-b"]), (vec![format!("judge {}", ready.judge("sci-a").name)], false));
        assert_eq!(key(&["a", "sci-b"]), (vec![format!("judge sci-b {}", ready.judge("sci-b").name)], true));
        let there = BTreeSet::from(["tatqa".to_string(), "sci-open-2".to_string()]);
        assert_eq!(ready.without_source(&there).collect::<Vec<_>>(), ["sci-open-1"]);
    }

    #[test]
    fn what_is_written_comes_back() {
        for text in [SEVERAL, "judge = \"exact\"", "judge = { kind = \"math\", named_sums = false }"] {
            let judges = read(text).unwrap();
            let written = toml::Value::try_from(&judges).unwrap();
            assert_eq!(written.try_into::<Judges>().unwrap(), judges, "{text}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        for (text, what) in [
            ("judge = \"maths\"", "unknown variant `maths`, expected one of `math`"),
            ("judge = { scale = \"ignore\" }", "missing field `kind`"),
            ("judge = { default = \"math\", by_sources = {} }", "unknown field `by_sources`"),
            ("judge = 3", "a kind of judge"),
            ("judge = { by_source = { a = { kind = \"exact\", x = { y = 1 } } } }", "`x`: an option is"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(what), "{text}: {error}");
        }
        for (text, what) in [
            (
                "judge = { by_source = { a = { kind = \"exact\", scale = \"ignore\" } } }",
                "`exact` has no option `scale`",
            ),
            ("judge = { by_source = { a = { kind = \"numeric\", rel_tol = -1 } } }", "rel_tol"),
            ("judge = { kind = \"tool_call\", ordered = \"maybe\" }", "`ordered` has no value `maybe`"),
            ("judge = \"command\"", "needs the option `command`"),
            ("judge = { kind = \"model\", policy = \"base\" }", "needs the option `template`"),
            ("judge = { kind = \"model\", model = \"base\" }", "`model` has no option `model`"),
            ("judge = { kind = \"command\", command = \"true\", seconds = 0 }", "`seconds` is a count"),
        ] {
            let error = read(text).unwrap().check().expect_err(text);
            assert!(error.to_string().contains(what), "{text}: {error}");
        }
    }
}
