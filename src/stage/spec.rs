//! Stage parameters as written in a pipeline file, what they refer to, and how they become a stage.

use super::template::{PLAIN, Template};
use super::{
    Footprint, Stage, difficulty, documents, evaluate, gap, ingest, judge, logprob, reward, rewrite, rollout, samples,
    soft, train,
};
use crate::params::{Misfit, typed};
use crate::policy::PolicyHandle;
use mindgap_base::address::Address;
use mindgap_base::error::{Error, Result};
use mindgap_store::table::Row;
use mindgap_store::table::rollouts::PromptKind;
use mindgap_store::{Manifest, Store, Table, fs};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Seek;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

/// What a name in a stage's parameters must stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    Policy,
    Problems,
    Rollouts,
    Verdicts,
    Rewrites,
    Logprobs,
    Soft,
    /// Log-probs of texts' tokens: of a logprob or a soft stage.
    Scores,
    /// Rewrites, samples, or examples of pre-training documents.
    Trainable,
    /// Rewrites or samples: texts of problems.
    Texts,
    /// Any stage: a column of one of its tables is meant.
    Table,
}

impl Wants {
    /// Stage kinds that satisfy it.
    pub fn kinds(self) -> &'static [&'static str] {
        match self {
            Wants::Policy => &["train"],
            Wants::Problems => &["ingest", "difficulty"],
            Wants::Rollouts => &["rollout", "samples"],
            Wants::Verdicts => &["judge"],
            Wants::Rewrites => &["rewrite"],
            Wants::Logprobs => &["logprob"],
            Wants::Soft => &["soft"],
            Wants::Scores => &["logprob", "soft"],
            Wants::Trainable => &["rewrite", "rollout", "documents"],
            Wants::Texts => &["rewrite", "rollout"],
            Wants::Table => KINDS,
        }
    }
}

/// A name used in a stage's parameters.
#[derive(Clone, Debug)]
pub struct Reference {
    pub field: &'static str,
    pub name: String,
    pub wants: Wants,
}

impl Reference {
    pub fn new(field: &'static str, name: &str, wants: Wants) -> Reference {
        Reference { field, name: name.to_string(), wants }
    }
}

/// What the parameters of every kind of stage answer.
pub trait StageParams {
    /// What must hold of the parameters, checked before anything runs.
    fn validate(&self) -> Result<()>;

    /// The names used, and what each must stand for.
    fn references(&self) -> Vec<Reference>;

    /// The stage, its inputs resolved.
    fn bind(&self, inputs: &Inputs) -> Result<Box<dyn Stage>>;

    /// Lists of stages, by field, in which `name-*` stands for all stages whose names start so.
    fn lists(&mut self) -> Vec<(&'static str, &mut Vec<String>)> {
        Vec::new()
    }

    /// A stage that is read along by whoever reads this one: the rollouts behind verdicts.
    fn read_along(&self) -> Option<&str> {
        None
    }

    /// The memory it cannot do without, where a policy runs in this process.
    fn footprint(&self) -> Option<Footprint<'_>> {
        None
    }

    /// It makes a policy of one whose weights are here, each part from the part before it.
    fn trains(&self) -> bool {
        false
    }
}

/// The kinds of stages: what each is called in a pipeline file, and the module its parameters are in. A new kind is a line
/// in the list below and nothing else here.
macro_rules! kinds {
    ($($kind:literal => $variant:ident in $module:ident,)+) => {
        /// Typed parameters of a stage, one variant per kind.
        #[derive(Clone, Debug, Serialize)]
        #[serde(untagged)]
        #[expect(clippy::large_enum_variant, reason = "a pipeline has some hundred, and they stay where they are made")]
        pub enum Params {
            $($variant($module::Params),)+
        }

        /// Every stage kind, in data-flow order.
        pub const KINDS: &[&str] = &[$($kind),+];

        impl Params {
            /// Reads the parameters of a stage of `kind`. `table` no longer holds `kind` and `matrix`.
            pub fn parse(kind: &str, table: toml::Table) -> Result<Params, Misfit> {
                match kind {
                    $($kind => typed(toml::Value::Table(table)).map(Params::$variant),)+
                    other => Err(Misfit {
                        path: "kind".into(),
                        message: format!("unknown stage kind `{other}`"),
                        hint: None,
                    }),
                }
            }

            pub fn kind(&self) -> &'static str {
                match self {
                    $(Params::$variant(_) => $kind,)+
                }
            }
        }

        impl Deref for Params {
            type Target = dyn StageParams;

            fn deref(&self) -> &Self::Target {
                match self {
                    $(Params::$variant(params) => params,)+
                }
            }
        }

        impl DerefMut for Params {
            fn deref_mut(&mut self) -> &mut Self::Target {
                match self {
                    $(Params::$variant(params) => params,)+
                }
            }
        }
    };
}

kinds! {
    "ingest" => Ingest in ingest,
    "documents" => Documents in documents,
    "rollout" => Rollout in rollout,
    "samples" => Samples in samples,
    "judge" => Judge in judge,
    "difficulty" => Difficulty in difficulty,
    "rewrite" => Rewrite in rewrite,
    "logprob" => Logprob in logprob,
    "soft" => Soft in soft,
    "reward" => Reward in reward,
    "gap" => Gap in gap,
    "train" => Train in train,
    "evaluate" => Evaluate in evaluate,
}

/// What a stage's names resolve to.
pub struct Inputs<'a> {
    pub store: &'a Store,
    /// Folder of the pipeline file: relative paths start there.
    pub folder: &'a Path,
    /// Finished stages by name.
    pub manifests: &'a BTreeMap<String, Manifest>,
    /// Parameters of every stage by name.
    pub params: &'a BTreeMap<String, Params>,
    /// Policies by name.
    pub policies: &'a BTreeMap<String, PolicyHandle>,
}

/// What samples are of.
pub struct Origin<'a> {
    /// The stage with their problems.
    pub problems: &'a str,
    /// The template of their prompt; of imported ones the training prompt's.
    pub template: Option<&'a str>,
    pub prompt_kind: PromptKind,
}

/// A file outside the store, known by the hash of its bytes. They are read when they are needed: planning holds none.
#[derive(Clone, Debug)]
pub struct SourceFile {
    pub path: PathBuf,
    pub address: Address,
}

impl SourceFile {
    /// Reads the file, which must still be the one that was hashed.
    pub fn read(&self) -> Result<Vec<u8>> {
        let bytes = fs::read(&self.path)?;
        self.check(Address::of(&bytes))?;
        Ok(bytes)
    }

    /// Lets `work` read the file in pieces. It must be the one that was hashed when that is done, whatever came of it.
    pub fn with<T>(&self, work: impl FnOnce(&fs::File) -> Result<T>) -> Result<T> {
        let mut file = fs::open(&self.path)?;
        let done = work(&file);
        file.rewind().map_err(|e| fs::error("read file", &self.path, e))?;
        self.check(fs::address_of(&file, &self.path)?)?;
        done
    }

    fn check(&self, found: Address) -> Result<()> {
        match found == self.address {
            true => Ok(()),
            false => Err(Error::input("file changed while the pipeline was running")
                .at(self.path.display().to_string())
                .hint("run again")),
        }
    }
}

impl Inputs<'_> {
    /// A table of a finished stage.
    pub fn table<R: Row>(&self, stage: &str) -> Result<Table<R>> {
        let manifest = self.manifests.get(stage);
        let manifest = manifest.ok_or_else(|| Error::internal(format!("stage `{stage}` is used before it is done")))?;
        Ok(Table::new(self.store, manifest.table(R::TABLE)))
    }

    pub fn manifest(&self, stage: &str) -> Option<&Manifest> {
        self.manifests.get(stage)
    }

    pub fn policy(&self, name: &str) -> Result<PolicyHandle> {
        if let Some(policy) = self.policies.get(name) {
            return Ok(policy.clone());
        }
        let manifest = self.manifests.get(name);
        let manifest = manifest.ok_or_else(|| Error::internal(format!("policy `{name}` is used before it is done")))?;
        Ok(PolicyHandle::of_objects(name, self.store, train::policy_files(manifest.files())))
    }

    /// The rollouts a verdict stage judged.
    pub fn rollouts_of(&self, verdicts: &str) -> Result<&rollout::Params> {
        self.rollouts(self.rollouts_name(verdicts)?)
    }

    /// What a rollout stage was told. Error where samples are from elsewhere.
    pub fn rollouts(&self, name: &str) -> Result<&rollout::Params> {
        match self.params.get(name) {
            Some(Params::Rollout(rollout)) => Ok(rollout),
            Some(Params::Samples(_)) => {
                Err(Error::usage(format!("`{name}` are imported samples: how they were drawn is not known"))
                    .hint("the counts of their verdicts, and the report, say how many are correct"))
            }
            _ => Err(Error::internal(format!("`{name}` is not a rollout stage"))),
        }
    }

    /// The policy in whose tokens the samples of a stage are.
    pub fn policy_of(&self, rollouts: &str) -> Result<&str> {
        match self.params.get(rollouts) {
            Some(Params::Samples(samples)) => Ok(&samples.policy),
            _ => Ok(&self.rollouts(rollouts)?.policy),
        }
    }

    /// What is known of the samples of a stage.
    pub fn origin(&self, rollouts: &str) -> Result<Origin<'_>> {
        match self.params.get(rollouts) {
            Some(Params::Samples(samples)) => Ok(samples.origin()),
            _ => Ok(self.rollouts(rollouts)?.origin()),
        }
    }

    /// Name of the rollouts a verdict stage judged.
    pub fn rollouts_name(&self, verdicts: &str) -> Result<&str> {
        match self.params.get(verdicts) {
            Some(Params::Judge(judge)) => Ok(&judge.rollouts),
            _ => Err(Error::internal(format!("`{verdicts}` is not a judge stage"))),
        }
    }

    /// What a logprob stage scored, and under which policy.
    pub fn scored_by(&self, logprobs: &str) -> Result<&logprob::Params> {
        match self.params.get(logprobs) {
            Some(Params::Logprob(params)) => Ok(params),
            _ => Err(Error::internal(format!("`{logprobs}` is not a logprob stage"))),
        }
    }

    pub fn file(&self, path: &str) -> Result<SourceFile> {
        let path = self.folder.join(path);
        Ok(SourceFile { address: fs::address(&path)?, path })
    }

    /// A prompt template: of a whole conversation where its file is TOML, and the problem as it is where none is named.
    pub fn template(&self, path: Option<&str>) -> Result<Template> {
        let Some(path) = path else { return Template::new(PLAIN) };
        self.compiled(path, |text, is_conversation| match is_conversation {
            true => Template::conversation(text),
            false => Template::new(text),
        })
    }

    /// The prompt template of a policy that judges.
    pub fn judge_template(&self, path: &str) -> Result<Template> {
        self.compiled(path, Template::of_judge)
    }

    fn compiled(&self, path: &str, compile: impl Fn(&str, bool) -> Result<Template>) -> Result<Template> {
        let file = self.file(path)?;
        let place = file.path.display().to_string();
        let text = String::from_utf8(file.read()?).map_err(|_| Error::input("template is not UTF-8").at(&place))?;
        let is_conversation = file.path.extension().is_some_and(|extension| extension == "toml");
        compile(&text, is_conversation).map_err(|e| e.at(place))
    }
}
