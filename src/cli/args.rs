//! The command line as typed.

mod runs;

pub use runs::{Plan, Run, Stages, Status, Work};

use crate::export::{Format, Rejected};
use crate::judge::JudgeKind;
use crate::study::Condition;
use candle_core::Device;
use clap::{Args as ClapArgs, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use mindgap_base::error::Result;
use mindgap_lm::model::device;
use mindgap_lm::model::held::Held;
use mindgap_lm::model::kv_cache::KvType;
use mindgap_lm::model::ops::WeightType;
use mindgap_store::table::rewrites::Source;
use std::path::PathBuf;

/// Rewrite fine-tuning data in the policy's own words, then train on it.
///
/// A pipeline file names stages; each stage reads and writes tables in a content-addressed store. What was computed once is
/// not computed again, and a run can be stopped at any moment and taken up by the same command.
#[derive(Parser)]
#[command(name = "mindgap", version, after_help = EXAMPLES)]
pub struct Args {
    /// Where all tables and policies are: a folder, or s3://bucket/prefix (gs://, az://) for many machines.
    #[arg(long, global = true, env = "MINDGAP_STORE", default_value = "data/store")]
    pub store: PathBuf,
    /// Worker threads; all cores by default. Results do not depend on it.
    #[arg(long, global = true, value_parser = threads)]
    pub threads: Option<usize>,
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "Examples:
  mindgap run pipelines/demo.toml                 everything that is missing
  mindgap run pipelines/demo.toml rewrites        only what the rewrites need
  mindgap plan pipelines/demo.toml                what would run, and why
  mindgap show pipelines/demo.toml rewrites --row 0b1f   one problem through all tables
  mindgap report pipelines/demo.toml              the results as one HTML page
  mindgap export pipelines/demo.toml rewrites --format trl --to data/trl   the training targets for another trainer
  echo '{\"id\":1,\"gold\":\"1/2\",\"response\":\"so \\\\boxed{0.5}\"}' | mindgap judge -

Exit codes: 0 done, 1 a check failed, 2 wrong usage, 3 bad input, 4 disk, device or network, 70 internal, 130 interrupted.";

#[derive(Subcommand)]
pub enum Command {
    /// Run what is missing: all stages, or the named ones and what they need.
    Run(Run),
    /// Take missing parts of any stage that is ready, beside other workers on this store, until the pipeline is done.
    Work(Work),
    /// Say what would run and why, without running it.
    Plan(Plan),
    /// Say how far each stage is.
    Status(Status),
    /// Print where a table or policy is: a Parquet glob, or a folder.
    Path(Path),
    /// Show rows of a stage's table, or of a Parquet file; with --row, everything about one problem.
    Show(Show),
    /// List past runs.
    Log(Log),
    /// Read everything in the store and say what is damaged, missing or inconsistent.
    Check(Check),
    /// Remove what no finished stage refers to. Says what it would remove, unless told to --delete.
    Gc(Gc),
    /// Write the results of a pipeline as one HTML page and as Markdown; print where.
    Report(Report),
    /// Print the accuracies of a study over replications, with intervals and paired differences, as Markdown.
    Results(Results),
    /// Write training targets, prompts or a teacher's distributions as data for another trainer.
    Export(Export),
    /// Judge final answers: JSON lines {"id","gold","response"} in, {"id","verdict","extracted","method"} out.
    Judge(Judge),
    /// Per-token log-probs of completions: JSON lines {"id","prompt","completion"} in.
    Score(Score),
    /// Sample completions, as JSON lines with token ids and log-probs.
    Generate(Generate),
    /// Measure generation, scoring and training speed beside the machine's ceilings.
    Bench(Bench),
    /// Print shell completions.
    Completions { shell: Shell },
    /// Become a judge's command, within the limits of a plan: the program starts itself so.
    #[command(hide = true)]
    Contained { plan: String },
}

#[derive(ClapArgs)]
pub struct Pipeline {
    /// Pipeline file.
    pub pipeline: PathBuf,
    /// Set a variable of the pipeline: --set name=value. May be repeated.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    pub settings: Vec<(String, String)>,
}

/// Machines have some hundred cores; every command starts its threads.
const MOST_THREADS: usize = 1024;

fn threads(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (1..=MOST_THREADS).contains(count));
    count.ok_or_else(|| format!("expected a number from 1 to {MOST_THREADS}"))
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_string(), value.to_string()))
}

/// Of commands that run a policy.
#[derive(ClapArgs)]
pub struct Compute {
    /// Where policies run: cpu, cuda (the first GPU) or cuda:N. A GPU needs a build with `--features cuda`.
    #[arg(long, env = "MINDGAP_DEVICE", default_value = "cpu")]
    device: String,
}

impl Compute {
    pub fn device(&self) -> Result<Device> {
        device::open(&self.device)
    }

    pub fn name(&self) -> &str {
        &self.device
    }
}

#[derive(ClapArgs)]
#[command(after_help = "Example:
  duckdb -c \"select source, count(*) from '$(mindgap path pipelines/demo.toml rewrites)' group by 1\"

Of a store in a bucket the files are fetched into its cache first; --remote names them where they are.")]
pub struct Path {
    #[command(flatten)]
    pub stage: Stage,
    /// Print the URLs of the stage's Parquet files or weights in the bucket, one a line, and fetch nothing.
    #[arg(long)]
    pub remote: bool,
}

#[derive(ClapArgs)]
pub struct Stage {
    #[command(flatten)]
    pub pipeline: Pipeline,
    /// The stage.
    pub stage: String,
}

#[derive(ClapArgs)]
#[command(after_help = "Examples:
  mindgap show pipelines/demo.toml rewrites --where source=guided --limit 3
  mindgap show pipelines/demo.toml verdicts --where verdict!=correct --columns problem_id,extracted,method
  mindgap show pipelines/demo.toml problems --table rejects     rows of the files that became no problem, and why
  mindgap show pipelines/demo.toml --row 1f0c    one problem through all tables, by the start of its id
  mindgap show stray.parquet                     what a file says of itself, and its rows")]
pub struct Show {
    #[command(flatten)]
    pub pipeline: Pipeline,
    /// The stage; none where a Parquet file is named instead of a pipeline.
    pub stage: Option<String>,
    /// Another table of the stage than its main one: rejects of ingest, untargeted of rewrite, gap_warnings of gap.
    #[arg(long, requires = "stage", conflicts_with = "row")]
    pub table: Option<String>,
    /// Start of a problem id: print its whole lineage.
    #[arg(long)]
    pub row: Option<String>,
    /// Only rows that fit: --where source=guided, --where 'verdict!=correct', --where 'attempts>=3', --where 'prompt~dozen'
    /// (contains). May be repeated; all must hold.
    #[arg(long = "where", value_name = "COLUMN=VALUE", value_parser = Condition::parse)]
    pub conditions: Vec<Condition>,
    /// Only these columns, by commas.
    #[arg(long, value_delimiter = ',')]
    pub columns: Vec<String>,
    /// Rows to print.
    #[arg(long, default_value_t = 10)]
    pub limit: usize,
    /// One JSON object per row.
    #[arg(long)]
    pub json: bool,
}

#[derive(ClapArgs)]
#[command(after_help = "Examples:
  mindgap log                                    the last runs: parts computed, parts cached
  mindgap log --limit 1 --json | jq -r .text     the pipeline as the last run read it")]
pub struct Log {
    /// Runs to list, the newest first.
    #[arg(long, default_value_t = 20)]
    pub limit: usize,
    #[arg(long)]
    pub json: bool,
}

#[derive(ClapArgs)]
#[command(after_help = "Exit code 1 if anything was found. `mindgap run` makes what is damaged or missing again.")]
pub struct Check {
    #[arg(long)]
    pub json: bool,
}

#[derive(ClapArgs)]
#[command(after_help = "Examples:
  mindgap gc                       what could go
  mindgap gc --delete              remove it
  mindgap gc --forget old-trial    what could go if the pipeline `old-trial` were no more

Safe while pipelines run. Parts of an interrupted run are kept: nothing is removed that was used in the last days.")]
pub struct Gc {
    /// Remove it; without this nothing is changed.
    #[arg(long)]
    pub delete: bool,
    /// Let go of a pipeline's results. May be repeated.
    #[arg(long, value_name = "PIPELINE")]
    pub forget: Vec<String>,
    /// Keep parts used in the last so many days, even if no finished stage refers to them. Those of the stage that a run
    /// is at work on stay anyway.
    #[arg(long, value_name = "DAYS", default_value_t = 7, value_parser = clap::value_parser!(u64).range(..=36_500))]
    pub keep_days: u64,
    #[arg(long)]
    pub json: bool,
}

#[derive(ClapArgs)]
pub struct Report {
    #[command(flatten)]
    pub pipeline: Pipeline,
    /// The page; the Markdown lies beside it. STORE/reports/PIPELINE.html by default.
    #[arg(long, value_name = "FILE.html")]
    pub out: Option<PathBuf>,
    /// Print the Markdown instead of writing files.
    #[arg(long, conflicts_with = "out")]
    pub markdown: bool,
    /// Print the figures as JSON instead of writing files.
    #[arg(long, conflicts_with_all = ["out", "markdown"])]
    pub json: bool,
}

#[derive(ClapArgs)]
pub struct Results {
    #[command(flatten)]
    pub pipeline: Pipeline,
    /// Policies to compare, as BETTER:THAN. May be repeated.
    #[arg(value_name = "BETTER:THAN", value_parser = pair)]
    pub pairs: Vec<(String, String)>,
    /// Page to put the tables into, between the lines that mark their place.
    #[arg(long, value_name = "PAGE")]
    pub into: Option<PathBuf>,
    /// Which place, where the page has several: `<!-- mindgap results NAME: begin -->`
    #[arg(long, value_name = "NAME", requires = "into")]
    pub section: Option<String>,
    #[arg(long)]
    pub json: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (better, than) = text.split_once(':').ok_or("expected BETTER:THAN, dr+dft:dft say")?;
    Ok((better.to_string(), than.to_string()))
}

#[derive(ClapArgs)]
pub struct Export {
    #[command(flatten)]
    pub stage: Stage,
    /// The layout of the files. See docs/export.md.
    #[arg(long, value_enum)]
    pub format: Format,
    /// Folder to write to. Files that are there already are never overwritten.
    #[arg(long)]
    pub to: PathBuf,
    /// swift: weight of a source's rows, --weight expert=0.3 say. May be repeated.
    #[arg(long = "weight", value_name = "SOURCE=WEIGHT", value_parser = weight)]
    pub weights: Vec<(Source, f32)>,
    /// preference: what the target is preferred to.
    #[arg(long, value_enum, default_value_t)]
    pub rejected: Rejected,
    #[arg(long)]
    pub json: bool,
}

fn weight(text: &str) -> Result<(Source, f32), String> {
    let (source, weight) = text.split_once('=').ok_or("expected SOURCE=WEIGHT")?;
    let Some(source) = Source::ALL.iter().find(|known| known.as_str() == source) else {
        let known: Vec<&str> = Source::ALL.iter().map(|known| known.as_str()).collect();
        return Err(format!("unknown source `{source}`; sources are {}", known.join(", ")));
    };
    match weight.parse::<f32>() {
        Ok(weight) if weight.is_finite() && weight >= 0.0 => Ok((*source, weight)),
        _ => Err(format!("weight `{weight}` must be a non-negative number")),
    }
}

#[derive(ClapArgs)]
pub struct Judge {
    /// JSON lines {"id","gold","response"}, for commands also "source", "question" and "meta"; `-` reads stdin. Verdicts come
    /// out line by line, in order.
    #[arg(required_unless_present = "gold", conflicts_with_all = ["gold", "answer"])]
    pub file: Option<PathBuf>,
    /// Gold answer, for one pair.
    #[arg(long, requires = "answer", allow_hyphen_values = true)]
    pub gold: Option<String>,
    /// Response to judge, for one pair.
    #[arg(long, requires = "gold", allow_hyphen_values = true)]
    pub answer: Option<String>,
    /// How answers are compared.
    #[arg(long, value_enum, default_value_t)]
    pub judge: JudgeKind,
    /// An option of the judge, such as `scale=ignore`; may be given more than once. docs/judges.md lists them.
    #[arg(long, value_name = "NAME=VALUE")]
    pub option: Vec<String>,
    /// Relative tolerance of `--judge numeric` [default: 1e-6].
    #[arg(long)]
    pub rel_tol: Option<f64>,
    /// Absolute tolerance of `--judge numeric` [default: 0].
    #[arg(long)]
    pub abs_tol: Option<f64>,
}

/// How a policy is held in memory.
#[derive(ClapArgs)]
pub struct Holding {
    /// What the weights are held in on a CPU: `f32`, `bf16` or `int8` [default: bf16 for checkpoints in bf16, else f32].
    #[arg(long, value_parser = weight_type)]
    weights: Option<WeightType>,
    /// What keys and values are held in on a CPU: `f32` or `bf16`.
    #[arg(long, value_parser = kv_type, default_value = "f32")]
    keys_values: KvType,
}

impl Holding {
    pub fn held(&self) -> Held {
        Held { weights: self.weights, keys_values: self.keys_values }
    }
}

fn kv_type(name: &str) -> Result<KvType, String> {
    KvType::named(name).ok_or_else(|| "keys and values are held in `f32` or `bf16`".to_string())
}

fn weight_type(name: &str) -> Result<WeightType, String> {
    WeightType::named(name).ok_or_else(|| "weights are held in `f32`, `bf16` or `int8`".to_string())
}

#[derive(ClapArgs)]
pub struct Score {
    /// Folder in Hugging Face layout, a GGUF file, or `hub:org/name[@revision]`.
    #[arg(long)]
    pub policy: String,
    /// Take prompt and completion as they are: no chat template, no end-of-sequence token.
    #[arg(long)]
    pub raw: bool,
    /// System turn in front of every prompt.
    #[arg(long, conflicts_with = "raw")]
    pub system: Option<String>,
    /// JSON lines {"id","prompt","completion"}, or "messages" for "prompt"; `-` reads stdin.
    pub file: PathBuf,
    #[command(flatten)]
    pub holding: Holding,
    #[command(flatten)]
    pub compute: Compute,
}

#[derive(ClapArgs)]
pub struct Generate {
    /// Folder in Hugging Face layout, a GGUF file, or `hub:org/name[@revision]`.
    #[arg(long)]
    pub policy: String,
    /// JSON lines {"id","prompt"}, or "messages" for "prompt"; `-` reads stdin.
    #[arg(required_unless_present = "prompt", conflicts_with = "prompt")]
    pub file: Option<PathBuf>,
    /// One prompt.
    #[arg(long)]
    pub prompt: Option<String>,
    /// Take the prompt as it is: no chat template.
    #[arg(long)]
    pub raw: bool,
    /// System turn in front of every prompt.
    #[arg(long, conflicts_with = "raw")]
    pub system: Option<String>,
    /// Samples per prompt.
    #[arg(short = 'n', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub samples: u32,
    /// 0 is greedy.
    #[arg(long, default_value_t = 1.0)]
    pub temperature: f32,
    #[arg(long, default_value_t = 1.0)]
    pub top_p: f32,
    #[arg(long, default_value_t = 0)]
    pub top_k: u32,
    #[arg(long, default_value_t = 0.0)]
    pub min_p: f32,
    #[arg(long, default_value_t = 256)]
    pub max_new_tokens: u32,
    /// Text at which a completion ends. May be repeated.
    #[arg(long)]
    pub stop: Vec<String>,
    /// Tokens guessed ahead per sample and step, at most, from text that repeats; saves time, changes no sample (CPU).
    #[arg(long, default_value_t = 0)]
    pub speculate: u32,
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    #[command(flatten)]
    pub holding: Holding,
    #[command(flatten)]
    pub compute: Compute,
}

#[derive(ClapArgs)]
pub struct Bench {
    /// Folder in Hugging Face layout, a GGUF file, or `hub:org/name[@revision]`.
    #[arg(long, required_unless_present = "config")]
    pub policy: Option<String>,
    /// A policy's config.json alone: a policy of that shape with random weights in bf16.
    #[arg(long, conflicts_with = "policy")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub holding: Holding,
    #[command(flatten)]
    pub compute: Compute,
    #[arg(long)]
    pub json: bool,
}

pub fn completions(shell: Shell) {
    clap_complete::generate(shell, &mut Args::command(), "mindgap", &mut std::io::stdout());
}
