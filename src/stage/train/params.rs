//! What a train stage may be told, checked before anything runs.

use super::super::buckets::{at_least_one, count};
use super::super::{Footprint, Holds, Inputs, Reference, Stage, StageParams, Wants};
use super::TrainStage;
use super::dtype::Dtype;
use super::external::TrainedBy;
use super::mix::{self, DataOf, Highest, Portion};
use candle_core::DType;
use mindgap_base::error::{Error, Result};
use mindgap_lm::train::{
    Accumulation, AdamWParams, Decay, LoraParams, Loss, PackingParams, PlanLength, PlanParams, PlannedStep, Rounding,
    Schedule, Stratum, TooLong, TrainerParams, plan,
};
use mindgap_store::table::rewrites::Source;
use serde::{Deserialize, Serialize};

/// Passes over the data; a plan lists every row of each.
const MOST_EPOCHS: u32 = 10_000;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// What is trained on: a rewrite stage, a rollout stage, or a documents stage; or portions of several:
    /// `[{ from = "rewrites" }, { from = "replay", share = 0.1 }]`.
    pub data: DataOf,
    /// The policy to start from.
    pub policy: String,
    /// Start from random weights drawn from this seed, of the shape the policy's config says.
    pub init_seed: Option<u64>,
    /// Log-probs of the data's targets under a frozen reference policy, for losses that compare with one.
    pub logprobs: Option<String>,
    /// A soft stage over the data's rows, for losses that go by a teacher's distributions. Rows of which it says nothing are left out.
    pub soft: Option<String>,
    /// A column of rewards of the data's samples, for losses that compare the samples of a problem.
    pub rewards: Option<Highest>,
    /// Only rows of these sources; all where none is named.
    #[serde(default)]
    pub sources: Vec<Source>,
    /// A weight for every row of the data, from a file or from a column of a stage; 1 where none is named.
    pub row_weights: Option<RowWeights>,
    /// Held-out rows whose loss is measured on the way: a rewrite stage, or a documents stage.
    pub eval_data: Option<String>,
    /// Steps between two evaluations. There is always one before the first step and one after the last.
    #[serde(default)]
    pub eval_steps: u32,
    /// Which weights become the policy.
    #[serde(default)]
    pub publish: Publish,
    /// Name of a loss, or a table with its name and parameters. See docs/design/loss.md.
    pub loss: serde_json::Value,
    /// What a step's loss is a mean over.
    #[serde(default)]
    pub normalise: Normalise,
    pub learning_rate: f64,
    pub batch_size: u32,
    /// Passes over the data. Either this or `steps`.
    pub epochs: Option<u32>,
    /// Optimizer steps. Either this or `epochs`.
    pub steps: Option<u32>,
    /// End after this many steps of the schedule. Checkpoints are shared with runs that go further.
    pub stop_step: Option<u32>,
    #[serde(default)]
    pub warmup_steps: u32,
    /// Share of all steps; added to `warmup_steps`.
    #[serde(default)]
    pub warmup_ratio: f64,
    #[serde(default = "cosine")]
    pub schedule: Decay,
    /// Learning rate at the end, as a share of the peak.
    #[serde(default)]
    pub floor_share: f64,
    #[serde(default = "decay_share")]
    pub decay_share: f64,
    #[serde(default)]
    pub optimizer: AdamWParams,
    #[serde(default = "clip_norm")]
    pub clip_norm: f64,
    #[serde(default)]
    pub seed: u64,
    #[serde(default)]
    pub drop_last: bool,
    #[serde(default = "micro_batch_tokens")]
    pub micro_batch_tokens: u32,
    #[serde(default = "max_length")]
    pub max_length: u32,
    #[serde(default = "too_long")]
    pub too_long: TooLong,
    /// Steps between checkpoints.
    #[serde(default = "checkpoint_steps")]
    pub checkpoint_steps: u32,
    /// Which checkpoints stay in the store.
    #[serde(default)]
    pub keep_checkpoints: Keep,
    /// Train as the paper's released code does, known faults included. See docs/design/reference-quirks.md.
    #[serde(default)]
    pub reference_quirks: bool,
    /// Train low-rank adapters and merge them into the published policy, instead of training every weight.
    pub lora: Option<LoraParams>,
    /// What products are taken in, frozen weights are held in, and the policy is saved in.
    #[serde(default)]
    pub dtype: Dtype,
    /// Who trains: `"mindgap"`, `"trl"`, `"verl"`, or `{ kind = "command", launch = ".." }`. See docs/trainers.md.
    #[serde(default)]
    pub trainer: TrainedBy,
    /// Hold less on the way forward and compute it again on the way back: slower, less memory, the same result.
    #[serde(default)]
    pub gradient_checkpointing: bool,
}

/// What a step's loss is a mean over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalise {
    /// Target tokens: a long row weighs more than a short one.
    #[default]
    Tokens,
    /// Rows, each divided by the length of the longest target its problem has: tokens of one problem weigh the same, and no
    /// problem weighs more for having long targets.
    LongestOfProblem,
    /// Rows, each by its own length: a token of a short row weighs more than one of a long row (GRPO as it was published).
    Rows,
    /// Rows, each divided by `max_length`: every token weighs the same, however many there are (Dr. GRPO).
    MaxLength,
}

/// Which weights become the policy of a train stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Publish {
    /// Those after the last step.
    #[default]
    Last,
    /// Those with the lowest negative log-prob per token of `eval_data`.
    Best,
}

/// Which checkpoints stay in the store. Any holds the latest weights and the best ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// All: a training with another `stop_step` starts from the nearest.
    #[default]
    All,
    /// The latest: one is removed as soon as the next is there.
    Last,
}

/// Where row weights come from: a file or a stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowWeights {
    /// A Parquet file with the data's key (`problem_id` and, if rows of a problem differ, `choice_index`; or `example_id`).
    pub file: Option<String>,
    /// A stage with a table of problems, and of choices where rows of a problem differ.
    pub from: Option<String>,
    /// Its column of weights: non-negative numbers.
    #[serde(default = "weight")]
    pub column: String,
}

impl RowWeights {
    pub fn check(&self) -> Result<()> {
        match self.file.is_some() == self.from.is_some() {
            true => Err(Error::usage("`row_weights` needs either a `file` or a stage that they are `from`")),
            false => Ok(()),
        }
    }
}

fn weight() -> String {
    "weight".to_string()
}
fn cosine() -> Decay {
    Decay::Cosine
}
fn decay_share() -> f64 {
    0.1
}
fn clip_norm() -> f64 {
    1.0
}
fn micro_batch_tokens() -> u32 {
    1024
}
fn max_length() -> u32 {
    2048
}
fn too_long() -> TooLong {
    TooLong::TruncateRight
}
fn checkpoint_steps() -> u32 {
    100
}

impl StageParams for Params {
    fn validate(&self) -> Result<()> {
        if self.epochs.is_some() == self.steps.is_some() {
            return Err(Error::usage("give either `epochs` or `steps`"));
        }
        // TOML's infinity and what is not a number become null in JSON, which would pass for a parameter that is not given.
        if let Some((name, _)) = self.loss.as_object().into_iter().flatten().find(|(_, value)| value.is_null()) {
            return Err(Error::usage(format!("`{name}` of `loss` is not a finite number")));
        }
        count(self.epochs.unwrap_or(1), "epochs", MOST_EPOCHS)?;
        let beside = [self.logprobs.is_some(), self.row_weights.is_some(), !self.sources.is_empty()];
        let beside = beside.contains(&true) || self.soft.is_some() || self.rewards.is_some();
        if beside && matches!(self.data, DataOf::Portions(_)) {
            return Err(Error::usage(
                "`sources`, `row_weights`, `logprobs`, `soft` and `rewards` are of one table, and `data` names portions of several",
            )
            .hint("give them to the portion they are of: { from = \"rewrites\", sources = [\"self\"] }"));
        }
        mix::check(&self.portions())?;
        self.plan_params(vec![Stratum { row_count: 1, batch_size: self.batch_size as usize, groups: None }]).check()?;
        if !(0.0..=1.0).contains(&self.warmup_ratio) {
            return Err(Error::usage(format!("`warmup_ratio` is `{}`; it must be between 0 and 1", self.warmup_ratio)));
        }
        // How many steps the epochs take is not known before there are rows.
        let trainer = self.trainer_params(self.steps.unwrap_or(u32::MAX), &[])?;
        trainer.check()?;
        self.check_external(&trainer.loss)?;
        self.check_beside(&trainer.loss)?;
        at_least_one(self.checkpoint_steps, "checkpoint_steps")?;
        at_least_one(self.stop_step.unwrap_or(1), "stop_step")?;
        if self.eval_data.is_none() && (self.eval_steps > 0 || self.publish == Publish::Best) {
            let error = Error::usage("`eval_steps` and `publish = \"best\"` need held-out rows");
            return Err(error.hint("name a rewrite or documents stage in `eval_data`"));
        }
        let own = (self.micro_batch_tokens, self.max_length, self.too_long);
        if self.reference_quirks && own != (micro_batch_tokens(), max_length(), too_long()) {
            let error = Error::usage("`reference_quirks` decides how rows are cut and packed");
            return Err(error.hint("remove `micro_batch_tokens`, `max_length` and `too_long`"));
        }
        if self.reference_quirks && self.normalise != Normalise::default() {
            return Err(
                Error::usage("`reference_quirks` decides what the loss is divided by").hint("remove `normalise`")
            );
        }
        Ok(())
    }

    fn references(&self) -> Vec<Reference> {
        let mut references = vec![Reference::new("policy", &self.policy, Wants::Policy)];
        for portion in self.portions() {
            let is_of_texts = portion.soft.is_some() || portion.rewards.is_some();
            let wants = if is_of_texts { Wants::Texts } else { Wants::Trainable };
            references.push(Reference::new("data", &portion.from, wants));
            references.extend(portion.logprobs.iter().map(|name| Reference::new("logprobs", name, Wants::Logprobs)));
            references.extend(portion.soft.iter().map(|name| Reference::new("soft", name, Wants::Soft)));
            references.extend(portion.rewards.iter().map(|of| Reference::new("rewards", &of.from, Wants::Table)));
            let weights = portion.row_weights.iter().filter_map(|weights| weights.from.as_ref());
            references.extend(weights.map(|name| Reference::new("row_weights", name, Wants::Table)));
            references
                .extend(portion.highest.iter().map(|highest| Reference::new("data", &highest.from, Wants::Table)));
            references.extend(portion.per_source.iter().map(|name| Reference::new("data", name, Wants::Problems)));
        }
        references.extend(self.eval_data.iter().map(|name| Reference::new("eval_data", name, Wants::Trainable)));
        references
    }

    fn bind(&self, inputs: &Inputs) -> Result<Box<dyn Stage>> {
        Ok(Box::new(TrainStage::bind(self, inputs)?))
    }

    fn footprint(&self) -> Option<Footprint<'_>> {
        let holds = match self.trainer.other() {
            Some(_) => Holds::Nothing,
            None => Holds::Training { bytes_per_parameter: self.bytes_per_weight() },
        };
        Some(Footprint { policy: &self.policy, holds })
    }

    fn trains(&self) -> bool {
        true
    }
}

impl Params {
    /// What `data` and what stands beside it say, portion by portion.
    pub(super) fn portions(&self) -> Vec<Portion> {
        match &self.data {
            DataOf::Portions(portions) => portions.clone(),
            DataOf::Stage(name) => vec![Portion {
                sources: self.sources.clone(),
                row_weights: self.row_weights.clone(),
                logprobs: self.logprobs.clone(),
                soft: self.soft.clone(),
                rewards: self.rewards.clone(),
                ..Portion::all(name)
            }],
        }
    }

    pub(super) fn rounding(&self) -> Rounding {
        match self.dtype {
            Dtype::F32 => Rounding::Kept,
            Dtype::Bf16 | Dtype::PureBf16 if self.reference_quirks => Rounding::Nearest,
            Dtype::Bf16 => Rounding::Kept,
            Dtype::PureBf16 => Rounding::Stochastic,
        }
    }

    /// Trained weights are held in f32.
    pub(super) fn has_master_weights(&self) -> bool {
        self.rounding() == Rounding::Kept
    }

    /// Bytes that a training cannot do without, for each weight: itself, and its gradient's sum and two moments in f32 unless it is
    /// frozen.
    fn bytes_per_weight(&self) -> u64 {
        let narrow = DType::from(self.dtype).size_in_bytes() as u64;
        match self.lora {
            Some(_) => narrow,
            None if self.has_master_weights() => 16,
            None => 12 + narrow,
        }
    }

    fn plan_params(&self, strata: Vec<Stratum>) -> PlanParams {
        let length = match (self.epochs, self.steps) {
            (Some(epochs), _) => PlanLength::Epochs(epochs),
            (None, steps) => PlanLength::Steps(steps.unwrap_or(0)),
        };
        PlanParams { strata, length, seed: self.seed, drop_last: self.drop_last }
    }

    /// The share of a step's rows that have no rewards, where the loss wants both kinds.
    pub(super) fn expert_share(&self) -> Result<Option<f64>> {
        Ok(match Loss::from_value(&self.loss)? {
            Loss::Chord(chord) => Some(chord.expert_share),
            _ => None,
        })
    }

    /// The batch plan over these rows.
    pub(super) fn plan(&self, strata: Vec<Stratum>) -> Result<Vec<PlannedStep>> {
        plan(&self.plan_params(strata)).map_err(|e| {
            let names: Vec<String> = self.portions().iter().map(|portion| format!("`{}`", portion.from)).collect();
            e.at(format!("training data {}", names.join(", ")))
                .hint("problems without an expert solution need a correct sample to be trained on; see the table `untargeted`")
        })
    }

    /// What the trainer is told, for a plan of so many steps.
    pub(super) fn trainer_params(&self, total_steps: u32, eos_token_ids: &[u32]) -> Result<TrainerParams> {
        let params = TrainerParams {
            loss: Loss::from_value(&self.loss)?,
            optimizer: self.optimizer,
            schedule: Schedule {
                peak: self.learning_rate,
                total_steps,
                warmup_steps: self
                    .warmup_steps
                    .saturating_add((self.warmup_ratio * f64::from(total_steps)).round() as u32),
                decay: self.schedule,
                floor_share: self.floor_share,
                decay_share: self.decay_share,
            },
            packing: PackingParams {
                micro_batch_tokens: self.micro_batch_tokens as usize,
                micro_batch_rows: 0,
                max_length: self.max_length as usize,
                too_long: self.too_long,
            },
            clip_norm: self.clip_norm,
            accumulation: match self.normalise {
                Normalise::Tokens => Accumulation::TokenMean,
                Normalise::LongestOfProblem => Accumulation::LongestOfProblem,
                Normalise::Rows => Accumulation::RowMean,
                Normalise::MaxLength => Accumulation::Constant { length: self.max_length },
            },
            eos_token_ids: eos_token_ids.to_vec(),
            skip_limit: 10,
            dtype: self.dtype.into(),
            rounding: self.rounding(),
            lora: self.lora.clone(),
            seed: self.seed,
            gradient_checkpointing: self.gradient_checkpointing,
        };
        Ok(if self.reference_quirks { params.with_reference_quirks() } else { params })
    }
}
