//! A pipeline file, read and checked: unknown keys, dangling names, wrong kinds and cycles are errors before anything runs.

use super::excerpt::{Source, did_you_mean};
use super::matrix::{self, Variables};
use super::references::resolve;
use super::rounds::{self, Round};
use crate::params::Misfit;
use crate::policy::PolicySpec;
use crate::stage::Params;
use mindgap_base::error::{Error, Result};
use mindgap_store::{check_name, fs};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

/// A stage, its matrix expanded.
#[derive(Clone, Debug)]
pub struct StageSpec {
    pub name: String,
    /// The name as written, before expansion.
    pub written: String,
    /// Axis and name of the entry it takes there, of every axis of its matrix; and the round, of a stage in the loop.
    pub entries: Vec<(String, String)>,
    /// It stands under `[loop]`.
    pub is_looped: bool,
    pub params: Params,
    /// Part of the recipe, and of nothing else: another text makes the stage anew.
    pub salt: Option<String>,
}

impl StageSpec {
    /// What an error in it is about.
    pub fn place(&self) -> String {
        let entries: Vec<String> = self.entries.iter().map(|(axis, name)| format!("{axis} = {name}")).collect();
        match entries.is_empty() {
            true => format!("stage `{}`", self.name),
            false => format!("stage `{}` ({})", self.name, entries.join(", ")),
        }
    }

    /// Where in the file it stands.
    pub fn path(&self) -> Vec<&str> {
        path(self.is_looped, &self.written)
    }
}

/// Where in a pipeline file a stage stands.
fn path(is_looped: bool, written: &str) -> Vec<&str> {
    match is_looped {
        true => vec!["loop", "stages", written],
        false => vec!["stages", written],
    }
}

/// A checked pipeline. Stages are in an order in which each comes after what it needs.
#[derive(Clone, Debug)]
pub struct Pipeline {
    pub name: String,
    pub folder: PathBuf,
    pub policies: BTreeMap<String, PolicySpec>,
    pub stages: Vec<StageSpec>,
    pub source: Source,
}

/// Stages that a pipeline may have, each of a matrix and of every round counted.
const MOST_STAGES: usize = 50_000;
const TOP_KEYS: [&str; 5] = ["name", "vars", "policies", "stages", "loop"];

impl Pipeline {
    /// Reads a pipeline file. `settings` override its `[vars]`.
    pub fn load(path: &Path, settings: &[(String, String)]) -> Result<Pipeline> {
        let bytes = fs::read(path).map_err(|e| e.hint("a pipeline is a TOML file; see pipelines/ for some"))?;
        let text = String::from_utf8(bytes)
            .map_err(|_| Error::usage("pipeline file is not UTF-8").at(path.display().to_string()))?;
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        Pipeline::parse(&stem, folder, Source { path: path.display().to_string(), text }, settings)
    }

    fn parse(stem: &str, folder: PathBuf, source: Source, settings: &[(String, String)]) -> Result<Pipeline> {
        let syntax = |e: toml::de::Error| source.error(e.message().to_string(), e.span());
        let spans = DeTable::parse(&source.text).map_err(syntax)?;
        let table: Table = toml::from_str(&source.text).map_err(syntax)?;
        let reader = Reader { source: &source, spans: &spans };
        if let Some(key) = table.keys().find(|key| !TOP_KEYS.contains(&key.as_str())) {
            return Err(reader.error(&[key], format!("unknown key `{key}`")).hint(did_you_mean(key, TOP_KEYS)));
        }
        let name = reader.name(&table, stem)?;
        let mut variables = reader.variables(&table, settings)?;
        let rounds = reader.rounds(&table, &variables)?;
        if let Some(last) = rounds.last() {
            variables.insert("loop.last".to_string(), Value::from(last.name.as_str()));
        }
        let policies = reader.policies(&table, &variables)?;
        let mut stages = reader.stages(&table, &variables, &rounds)?;
        reader.check_references(&policies, &stages)?;
        stages = reader.sorted(&policies, stages)?;
        Ok(Pipeline { name, folder, policies, stages, source: source.clone() })
    }

    pub fn stage(&self, name: &str) -> Result<&StageSpec> {
        self.stages.iter().find(|stage| stage.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.stages.iter().map(|stage| stage.name.as_str()).collect();
            Error::usage(format!("no stage `{name}` in pipeline `{}`", self.name)).hint(did_you_mean(name, names))
        })
    }

    /// The named stages and all they need, in order; everything where none is named. A name may be one before expansion.
    pub fn select(&self, names: &[String]) -> Result<Vec<&StageSpec>> {
        let mut wanted = BTreeSet::new();
        for name in names {
            let matching: Vec<&StageSpec> =
                self.stages.iter().filter(|stage| stage.name == *name || stage.written == *name).collect();
            if matching.is_empty() {
                self.stage(name)?;
            }
            wanted.extend(matching.into_iter().map(|stage| stage.name.as_str()));
        }
        // Stages come after what they need, so one pass from the end closes the set.
        for stage in self.stages.iter().rev() {
            if wanted.contains(stage.name.as_str()) {
                wanted.extend(self.needs(stage));
            }
        }
        Ok(self.stages.iter().filter(|stage| names.is_empty() || wanted.contains(stage.name.as_str())).collect())
    }

    /// Names of the stages a stage reads from, directly.
    pub fn needs<'a>(&'a self, stage: &StageSpec) -> Vec<&'a str> {
        let references = stage.params.references();
        let resolved = references.iter().filter_map(|r| resolve(&self.policies, r).map(str::to_string));
        let mut needs: BTreeSet<String> = resolved.collect();
        // Rewrites and evals read the rollouts behind the verdicts they name.
        for name in needs.clone() {
            let read = self.stages.iter().find(|s| s.name == name);
            needs.extend(read.and_then(|s| s.params.read_along()).map(str::to_string));
        }
        self.stages.iter().filter(|s| needs.contains(&s.name)).map(|s| s.name.as_str()).collect()
    }
}

/// A stage as written, and the round it is expanded for.
struct Written<'a> {
    name: &'a str,
    value: &'a Value,
    round: Option<&'a Round>,
}

impl Written<'_> {
    fn path(&self) -> Vec<&str> {
        path(self.round.is_some(), self.name)
    }
}

/// A stage after its matrix was expanded, before its parameters are typed.
struct Raw {
    name: String,
    written: String,
    entries: Vec<(String, String)>,
    is_looped: bool,
    kind: String,
    body: Table,
}

/// Reads a pipeline's sections, with the file at hand for errors.
pub struct Reader<'a> {
    source: &'a Source,
    spans: &'a Spanned<DeTable<'a>>,
}

impl Reader<'_> {
    /// An error about the value at a path of keys; the deepest key that exists is shown.
    pub fn error(&self, path: &[&str], what: impl Into<String>) -> Error {
        let mut table = Some(self.spans.get_ref());
        let mut span: Option<Range<usize>> = None;
        for key in path {
            let Some((found, value)) = table.and_then(|t| t.iter().find(|(k, _)| k.get_ref() == key)) else { break };
            span = Some(found.span());
            table = match value.get_ref() {
                DeValue::Table(inner) => Some(inner),
                _ => None,
            };
        }
        self.source.error(what, span)
    }

    fn section<'t>(&self, table: &'t Table, key: &str) -> Result<Vec<(&'t String, &'t Value)>> {
        match table.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Table(section)) => Ok(section.iter().collect()),
            Some(_) => Err(self.error(&[key], format!("`{key}` is not a table"))),
        }
    }

    /// The pipeline's name: as given, or the file's without the digits and dashes that put files in order.
    fn name(&self, table: &Table, stem: &str) -> Result<String> {
        let (name, origin) = match table.get("name") {
            None => {
                let name = stem.trim_start_matches(|c: char| c.is_ascii_digit() || c == '-');
                (name, format!(", from the file `{stem}`,"))
            }
            Some(Value::String(name)) => (name.as_str(), String::new()),
            Some(_) => return Err(self.error(&["name"], "`name` must be a string")),
        };
        match check_name(name) {
            Ok(()) => Ok(name.to_string()),
            Err(wrong) => Err(self
                .error(&["name"], format!("pipeline name `{name}`{origin} {wrong}"))
                .hint("give the pipeline a `name` that can be one folder: name = \"experiment-1\"")),
        }
    }

    fn variables(&self, table: &Table, settings: &[(String, String)]) -> Result<Variables> {
        let mut variables: Variables =
            self.section(table, "vars")?.into_iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        for (key, value) in settings {
            let Some(default) = variables.get(key) else {
                let names: Vec<&str> = variables.keys().map(String::as_str).collect();
                let error = Error::usage(format!("the pipeline has no variable `{key}`")).at(self.source.path.clone());
                return Err(error.hint(did_you_mean(key, names)));
            };
            // A number stays a number: the setting is read as the type of the default.
            let value = match default {
                Value::String(_) => Value::String(value.clone()),
                _ => value
                    .parse()
                    .map_err(|_| Error::usage(format!("`{key}={value}` is not a {}", default.type_str())))?,
            };
            variables.insert(key.clone(), value);
        }
        Ok(variables)
    }

    fn policies(&self, table: &Table, variables: &Variables) -> Result<BTreeMap<String, PolicySpec>> {
        let mut policies = BTreeMap::new();
        for (name, value) in self.section(table, "policies")? {
            let fail = |message: String| self.error(&["policies", name], format!("policy `{name}`: {message}"));
            let value = matrix::substitute(value, variables).map_err(fail)?;
            let spec =
                PolicySpec::read(value).map_err(|misfit| self.misfit(&["policies", name], "policy", name, misfit))?;
            policies.insert(name.clone(), spec);
        }
        Ok(policies)
    }

    /// The rounds of the loop; none without one.
    fn rounds(&self, table: &Table, variables: &Variables) -> Result<Vec<Round>> {
        let section = match table.get("loop") {
            None => return Ok(Vec::new()),
            Some(Value::Table(section)) => section,
            Some(_) => return Err(self.error(&["loop"], "`loop` is not a table")),
        };
        if let Some(key) = section.keys().find(|key| !rounds::KEYS.contains(&key.as_str())) {
            let error = self.error(&["loop", key], format!("unknown key `{key}` in `loop`"));
            return Err(error.hint(did_you_mean(key, rounds::KEYS)));
        }
        rounds::rounds(section, variables).map_err(|wrong| {
            self.error(&["loop"], wrong).hint("rounds = 3, or a list with the name of each round; see docs/rounds.md")
        })
    }

    /// All stages as they are written: those of the loop once for every round they are in.
    fn written<'t>(&self, table: &'t Table, rounds: &'t [Round]) -> Result<Vec<(Written<'t>, Table)>> {
        let as_table = |written: &Written| match written.value {
            Value::Table(stage) => Ok(stage.clone()),
            _ => Err(self.error(&written.path(), format!("stage `{}`: not a table", written.name))),
        };
        let mut all = Vec::new();
        for (name, value) in self.section(table, "stages")? {
            let written = Written { name, value, round: None };
            let stage = as_table(&written)?;
            all.push((written, stage));
        }
        let Some(Value::Table(section)) = table.get("loop") else { return Ok(all) };
        let looped = self.section(section, "stages")?;
        for round in rounds {
            for (name, value) in &looped {
                let written = Written { name, value, round: Some(round) };
                let mut stage = as_table(&written)?;
                let first = match stage.remove("first_round") {
                    None => 0,
                    Some(Value::Integer(first)) if (0..rounds.len() as i64).contains(&first) => first,
                    Some(_) => {
                        let what = format!("stage `{name}`: `first_round` must be the number of a round, from 0 on");
                        return Err(self.error(&[&written.path()[..], &["first_round"]].concat(), what));
                    }
                };
                let known = matrix::substitute_known(&Value::Table(stage), &round.variables);
                if let Value::Table(stage) = known
                    && round.number as i64 >= first
                {
                    all.push((written, stage));
                }
            }
        }
        Ok(all)
    }

    fn stages(&self, table: &Table, variables: &Variables, rounds: &[Round]) -> Result<Vec<StageSpec>> {
        let mut raw: Vec<Raw> = Vec::new();
        for (written, mut stage) in self.written(table, rounds)? {
            let fail = |message: String| self.error(&written.path(), format!("stage `{}`: {message}", written.name));
            let kind = stage.remove("kind").and_then(|kind| kind.as_str().map(str::to_string));
            let kind = kind.ok_or_else(|| {
                fail("has no `kind`".into()).hint(did_you_mean("", crate::stage::KINDS.iter().copied()))
            })?;
            if !crate::stage::KINDS.contains(&kind.as_str()) {
                let path = [&written.path()[..], &["kind"]].concat();
                let error = self.error(&path, format!("unknown stage kind `{kind}`"));
                return Err(error.hint(did_you_mean(&kind, crate::stage::KINDS.iter().copied())));
            }
            let matrix = match stage.remove("matrix") {
                None => Table::new(),
                Some(Value::Table(matrix)) => matrix,
                Some(_) => return Err(fail("`matrix` is not a table of lists".into())),
            };
            for cell in matrix::expand(&matrix, variables).map_err(fail)? {
                let body = matrix::substitute(&Value::Table(stage.clone()), &cell.variables).map_err(fail)?;
                let Value::Table(body) = body else { continue };
                let mut name = format!("{}{}", written.name, cell.suffix());
                let mut entries = cell.entries;
                if let Some(round) = written.round {
                    name += &format!("-{}", round.name);
                    entries.push(("round".to_string(), round.name.clone()));
                }
                let (is_looped, written) = (written.round.is_some(), written.name.to_string());
                raw.push(Raw { name, written, entries, is_looped, kind: kind.clone(), body });
            }
            if raw.len() > MOST_STAGES {
                return Err(fail(format!("with it the pipeline has {} stages, more than {MOST_STAGES}", raw.len())));
            }
        }
        let names: Vec<String> = raw.iter().map(|stage| stage.name.clone()).collect();
        let mut seen = BTreeSet::new();
        if let Some(twice) = raw.iter().find(|stage| !seen.insert(stage.name.as_str())) {
            let what = format!("two stages are called `{}`", twice.name);
            return Err(self.error(&path(twice.is_looped, &twice.written), what));
        }
        raw.into_iter().map(|stage| self.stage(stage, &names)).collect()
    }

    fn stage(&self, raw: Raw, names: &[String]) -> Result<StageSpec> {
        let Raw { name, written, entries, is_looped, kind, mut body } = raw;
        let place = path(is_looped, &written);
        let within = |field| [&place[..], &[field]].concat();
        check_name(&name).map_err(|wrong| self.error(&place, format!("stage name `{name}` {wrong}")))?;
        let salt = match body.remove("salt") {
            None => None,
            Some(Value::String(salt)) => Some(salt),
            Some(_) => return Err(self.error(&within("salt"), format!("stage `{name}`: `salt` must be a string"))),
        };
        let mut params = Params::parse(&kind, body).map_err(|misfit| self.misfit(&place, "stage", &name, misfit))?;
        for (field, list) in params.lists() {
            *list = expand(list, names).map_err(|pattern| {
                let what = format!("stage `{name}`: `{field}` names `{pattern}`, which fits no stage");
                self.error(&within(field), what).hint(did_you_mean(&pattern, names.iter().map(String::as_str)))
            })?;
        }
        params.validate().map_err(|e| {
            let error = self.error(&place, format!("stage `{name}`: {}", e.what()));
            match e.remedy() {
                Some(hint) => error.hint(hint),
                None => error,
            }
        })?;
        Ok(StageSpec { name, written, entries, is_looped, params, salt })
    }

    /// An error about a value of a policy or a stage.
    fn misfit(&self, section: &[&str], who: &str, name: &str, misfit: Misfit) -> Error {
        let field = quoted(&misfit.message).next().filter(|_| misfit.message.starts_with("unknown field"));
        let mut path = section.to_vec();
        path.extend(misfit.path.split(['.', '[']).filter(|part| !part.is_empty() && *part != "."));
        path.extend(field);
        match field {
            Some(field) => {
                let known: Vec<&str> = quoted(&misfit.message).skip(1).collect();
                self.error(&path, format!("unknown key `{field}` in {who} `{name}`")).hint(did_you_mean(field, known))
            }
            None => {
                let error = self.error(&path, format!("{who} `{name}`: {}", misfit.message));
                match misfit.hint {
                    Some(hint) => error.hint(hint),
                    None => error,
                }
            }
        }
    }
}

/// A list of stages in which `name-*` stands for all that start so. Error: a pattern that fits none.
fn expand(list: &[String], names: &[String]) -> Result<Vec<String>, String> {
    let mut expanded = Vec::new();
    for item in list {
        let Some(prefix) = item.strip_suffix('*') else {
            expanded.push(item.clone());
            continue;
        };
        let before = expanded.len();
        expanded.extend(names.iter().filter(|name| name.starts_with(prefix)).cloned());
        if expanded.len() == before {
            return Err(item.clone());
        }
    }
    Ok(expanded)
}

/// The words a message has in backticks.
fn quoted(message: &str) -> impl Iterator<Item = &str> {
    message.split('`').skip(1).step_by(2)
}
