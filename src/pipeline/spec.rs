//! A pipeline file, read and checked: unknown keys, dangling names, wrong kinds and cycles are errors before anything runs.

use super::excerpt::{Source, did_you_mean};
use super::matrix::{self, Variables};
use crate::params::Misfit;
use crate::policy::{PolicySource, PolicySpec};
use crate::stage::{Params, Reference, Wants};
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
    /// Axis and name of the entry it takes there, of every axis of its matrix.
    pub entries: Vec<(String, String)>,
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

const TOP_KEYS: [&str; 4] = ["name", "vars", "policies", "stages"];

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
        let variables = reader.variables(&table, settings)?;
        let policies = reader.policies(&table, &variables)?;
        let mut stages = reader.stages(&table, &variables)?;
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
        let resolved = stage.params.references().into_iter().map(|r| resolve(&self.policies, &r).to_string());
        let mut needs: BTreeSet<String> = resolved.collect();
        // Rewrites and evals read the rollouts behind the verdicts they name.
        for name in needs.clone() {
            let read = self.stages.iter().find(|s| s.name == name);
            needs.extend(read.and_then(|s| s.params.read_along()).map(str::to_string));
        }
        self.stages.iter().filter(|s| needs.contains(&s.name)).map(|s| s.name.as_str()).collect()
    }
}

/// The stage a reference leads to: through a named policy, if it is one.
fn resolve<'a>(policies: &'a BTreeMap<String, PolicySpec>, reference: &'a Reference) -> &'a str {
    match (reference.wants, policies.get(&reference.name).map(|spec| &spec.source)) {
        (Wants::Policy, Some(PolicySource::Stage(stage))) => stage,
        _ => &reference.name,
    }
}

/// A stage after its matrix was expanded, before its parameters are typed.
struct Raw {
    name: String,
    written: String,
    entries: Vec<(String, String)>,
    kind: String,
    body: Table,
}

/// Reads a pipeline's sections, with the file at hand for errors.
struct Reader<'a> {
    source: &'a Source,
    spans: &'a Spanned<DeTable<'a>>,
}

impl Reader<'_> {
    /// An error about the value at a path of keys; the deepest key that exists is shown.
    fn error(&self, path: &[&str], what: impl Into<String>) -> Error {
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

    fn stages(&self, table: &Table, variables: &Variables) -> Result<Vec<StageSpec>> {
        let mut raw: Vec<Raw> = Vec::new();
        for (written, value) in self.section(table, "stages")? {
            let fail = |message: String| self.error(&["stages", written], format!("stage `{written}`: {message}"));
            let Value::Table(stage) = value else { return Err(fail("not a table".into())) };
            let mut stage = stage.clone();
            let kind = stage.remove("kind").and_then(|kind| kind.as_str().map(str::to_string));
            let kind = kind.ok_or_else(|| {
                fail("has no `kind`".into()).hint(did_you_mean("", crate::stage::KINDS.iter().copied()))
            })?;
            if !crate::stage::KINDS.contains(&kind.as_str()) {
                let error = self.error(&["stages", written, "kind"], format!("unknown stage kind `{kind}`"));
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
                let name = format!("{written}{}", cell.suffix());
                raw.push(Raw { name, written: written.clone(), entries: cell.entries, kind: kind.clone(), body });
            }
        }
        let names: Vec<String> = raw.iter().map(|stage| stage.name.clone()).collect();
        if let Some(twice) = names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)) {
            return Err(self.error(&["stages"], format!("two stages are called `{}`", twice.1)));
        }
        raw.into_iter().map(|stage| self.stage(stage, &names)).collect()
    }

    fn stage(&self, raw: Raw, names: &[String]) -> Result<StageSpec> {
        let Raw { name, written, entries, kind, mut body } = raw;
        check_name(&name).map_err(|wrong| self.error(&["stages", &written], format!("stage name `{name}` {wrong}")))?;
        let salt = match body.remove("salt") {
            None => None,
            Some(Value::String(salt)) => Some(salt),
            Some(_) => {
                return Err(
                    self.error(&["stages", &written, "salt"], format!("stage `{name}`: `salt` must be a string"))
                );
            }
        };
        let mut params =
            Params::parse(&kind, body).map_err(|misfit| self.misfit(&["stages", &written], "stage", &name, misfit))?;
        for (field, list) in params.lists() {
            let path = ["stages", written.as_str(), field];
            *list = expand(list, names).map_err(|pattern| {
                let what = format!("stage `{name}`: `{field}` names `{pattern}`, which fits no stage");
                self.error(&path, what).hint(did_you_mean(&pattern, names.iter().map(String::as_str)))
            })?;
        }
        params.validate().map_err(|e| {
            let error = self.error(&["stages", &written], format!("stage `{name}`: {}", e.what()));
            match e.remedy() {
                Some(hint) => error.hint(hint),
                None => error,
            }
        })?;
        Ok(StageSpec { name, written, entries, params, salt })
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

    fn check_references(&self, policies: &BTreeMap<String, PolicySpec>, stages: &[StageSpec]) -> Result<()> {
        for (name, policy) in policies {
            let PolicySource::Stage(target) = &policy.source else { continue };
            let reference = Reference::new("stage", target, Wants::Policy);
            self.check_reference(
                &["policies", name],
                &format!("policy `{name}`"),
                &reference,
                &BTreeMap::new(),
                stages,
            )?;
        }
        for stage in stages {
            for reference in stage.params.references() {
                let path = ["stages", stage.written.as_str(), reference.field];
                self.check_reference(&path, &format!("stage `{}`", stage.name), &reference, policies, stages)?;
                let trained = policies.get(&reference.name).filter(|_| stage.params.trains());
                if let Some(PolicySpec { source: PolicySource::Server(_), .. }) = trained {
                    let what =
                        format!("stage `{}`: `{}` is on servers and cannot be trained", stage.name, reference.name);
                    return Err(self.error(&path, what).hint(
                        "train a policy whose weights are here: { path = \"..\" } or { hub = \"..\" }; or take the targets to another \
                         trainer with `mindgap export`",
                    ));
                }
                if let Some(weights) = trained.and_then(|spec| spec.weights) {
                    let (name, weights) = (&reference.name, weights.name());
                    let what =
                        format!("stage `{}`: `{name}` is held in {weights}, which is not for training", stage.name);
                    return Err(self.error(&path, what).hint(
                        "`weights` is what a policy samples and scores with; name the same policy again without it, and train that",
                    ));
                }
            }
        }
        Ok(())
    }

    fn check_reference(
        &self,
        path: &[&str],
        who: &str,
        reference: &Reference,
        policies: &BTreeMap<String, PolicySpec>,
        stages: &[StageSpec],
    ) -> Result<()> {
        let Reference { field, name, wants } = reference;
        if *wants == Wants::Policy && policies.contains_key(name) {
            return Ok(());
        }
        let fits = |stage: &&StageSpec| wants.kinds().contains(&stage.params.kind());
        match stages.iter().find(|stage| stage.name == *name) {
            Some(stage) if fits(&stage) => Ok(()),
            Some(stage) => {
                let (kind, kinds) = (stage.params.kind(), wants.kinds().join("` or `"));
                Err(self.error(
                    path,
                    format!("{who}: `{field}` names `{name}`, a `{kind}` stage; it needs a `{kinds}` stage"),
                ))
            }
            None => {
                let mut candidates: Vec<&str> = stages.iter().filter(fits).map(|stage| stage.name.as_str()).collect();
                if *wants == Wants::Policy {
                    candidates.extend(policies.keys().map(String::as_str));
                }
                let hint = did_you_mean(name, candidates.iter().copied());
                Err(self.error(path, format!("{who}: `{field}` names `{name}`, which does not exist")).hint(hint))
            }
        }
    }

    /// Stages in an order in which each comes after what it needs, else in file order.
    fn sorted(&self, policies: &BTreeMap<String, PolicySpec>, mut left: Vec<StageSpec>) -> Result<Vec<StageSpec>> {
        let mut sorted: Vec<StageSpec> = Vec::new();
        while !left.is_empty() {
            let waits = |stage: &StageSpec| -> bool {
                stage.params.references().iter().any(|r| left.iter().any(|other| other.name == resolve(policies, r)))
            };
            let (blocked, ready): (Vec<_>, Vec<_>) = left.iter().cloned().partition(waits);
            if ready.is_empty() {
                let names: Vec<&str> = blocked.iter().map(|stage| stage.name.as_str()).collect();
                let error = self
                    .error(&["stages", &blocked[0].written], format!("stages need each other: {}", names.join(", ")));
                return Err(error.hint("a pipeline flows one way: break the cycle"));
            }
            sorted.extend(ready);
            left = blocked;
        }
        Ok(sorted)
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
