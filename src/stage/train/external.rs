//! A training done by another program: what it is to do goes into a work folder, what it says of its steps and the weights it leaves
//! there are taken from it (docs/trainers.md).
//!
//! The folder is this training's own and stays until its policy is published: a program that is started again finds its checkpoints.

mod shipped;
mod steps;
mod who;
mod work;

pub use who::{External, ExternalKind, TrainedBy};

use super::TrainStage;
use crate::child::{Program, end_of_log, is_program, last_lines};
use crate::stage::{Context, Tick};
use candle_core::Device;
use mindgap_base::error::{Error, Kind, Result};
use mindgap_lm::model::policy::{Policy, PolicyFiles, is_weights};
use mindgap_lm::model::weights;
use mindgap_lm::train::Loss;
use mindgap_store::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LOOK: Duration = Duration::from_millis(200);
/// Where the program leaves the policy, in the work folder.
const OUT: &str = "out";
/// Says that the program ended well.
const DONE: &str = "done";

impl External {
    /// Errors: no command line where one is needed, a loss that the program does not know.
    pub fn check(&self, loss: &Loss) -> Result<()> {
        if self.launch.as_ref().is_some_and(|line| line.trim().is_empty()) {
            return Err(Error::usage("`launch` of `trainer` is empty"));
        }
        if loss.distill().is_some() || loss.scale().is_some() {
            return Err(Error::usage(format!(
                "other programs are given rows, and not what loss `{}` goes by",
                loss.name()
            ))
            .hint("leave `trainer` out: mindgap's own trainer knows it; `mindgap export` writes sets for others"));
        }
        let Some(shipped) = self.kind.shipped() else {
            return match self.launch {
                Some(_) => Ok(()),
                None => Err(Error::usage("`trainer` is a command, and none is given")
                    .hint("trainer = { kind = \"command\", launch = \"torchrun train.py $WORK\" }; docs/trainers.md")),
            };
        };
        let unknown = loss.holds_reference() || loss.refresh_steps().is_some() || loss.needs_step_statistics();
        // verl tells a loss the log-probs of targets and the entropy, and nothing else of a distribution.
        if unknown || (self.kind == ExternalKind::Verl && loss.top_k().is_some()) {
            let error = Error::usage(format!("loss `{}` is not one that {} is given here", loss.name(), shipped.title));
            return Err(error.hint("leave `trainer` out: mindgap's own trainer knows it"));
        }
        Ok(())
    }

    /// What results depend on. Of what starts a script of ours they do not; any other program may be told anything there.
    pub fn named_in_recipe(&self) -> (ExternalKind, String) {
        match self.kind.shipped() {
            Some(shipped) => (self.kind, format!("script v{}", shipped.version)),
            None => (self.kind, self.launch.clone().unwrap_or_default()),
        }
    }

    pub fn name(&self) -> &'static str {
        match self.kind {
            ExternalKind::Trl => "trl",
            ExternalKind::Verl => "verl",
            ExternalKind::Command => "command",
        }
    }

    /// The command line, for a shell.
    fn line(&self) -> Result<String> {
        if let Some(line) = &self.launch {
            return Ok(line.clone());
        }
        let shipped = self.kind.shipped().expect("a command has a line");
        let said = std::env::var(shipped.variable).ok().filter(|said| !said.trim().is_empty());
        let python = said.unwrap_or_else(|| "python3".to_string());
        let program = python.split_whitespace().next().unwrap_or_default();
        match is_program(program) {
            true => Ok(format!("exec {python} \"$SCRIPT\" \"$WORK\"")),
            false => Err(Error::environment(format!("cannot find the program `{program}`")).hint(format!(
                "the environment variable {} says which Python has {}, or what starts it: {}",
                shipped.variable, shipped.title, shipped.examples
            ))),
        }
    }
}

impl TrainStage {
    /// Has the whole training done by another program.
    pub(super) fn run_elsewhere(&self, external: &External, context: &Context) -> Result<()> {
        let folder = self.store.work_path(context.footer.fingerprint);
        let folder = std::path::absolute(&folder).map_err(|e| fs::error("find", &folder, e))?;
        let plan = self.prepare(external, &folder)?;
        if !fs::is_there(&folder.join(DONE)) {
            // What a server holds of the machine is wanted now.
            context.launcher.end();
            self.train_elsewhere(external, context, &folder, &plan)?;
            fs::publish(&folder.join(DONE), b"", "work")?;
        }
        let taken = self.take(context, &folder, &plan);
        if taken.as_ref().is_err_and(|e| e.kind() == Kind::Input) {
            // Done it was not: the next run starts the program again.
            fs::remove(&folder.join(DONE))?;
        }
        taken
    }

    /// Takes what the program left.
    fn take(&self, context: &Context, folder: &Path, plan: &steps::Plan) -> Result<()> {
        context.store(&steps::read(folder, plan)?)?;
        context.store(&self.batch_plan()?)?;
        if self.held_out.is_some() {
            context.store(&steps::read_evals(folder)?)?;
        }
        self.take_policy(context, &folder.join(OUT))
    }

    /// Starts the program, tells of its steps, and waits for its end.
    fn train_elsewhere(&self, external: &External, context: &Context, folder: &Path, plan: &steps::Plan) -> Result<()> {
        let log = folder.join("log");
        let words = ["/bin/sh".to_string(), "-c".to_string(), external.line()?];
        let place = |path: PathBuf| path.display().to_string();
        let script = external.kind.shipped().map(|shipped| ("SCRIPT", place(folder.join(shipped.script.0))));
        let variables: Vec<_> = [("WORK", place(folder.to_path_buf()))].into_iter().chain(script).collect();
        let failed = |e: std::io::Error| Error::environment("cannot run the trainer").at(words[2].clone()).source(e);
        let mut program = Program::start(&words, &variables, fs::Appender::open(&log)?.into_file()).map_err(failed)?;
        loop {
            if let Err(stopped) = context.check_cancelled() {
                program.end().map_err(failed)?;
                return Err(stopped);
            }
            if let Some(how) = program.ended().map_err(failed)? {
                if how.success() {
                    return Ok(());
                }
                let said = format!("the trainer ended with {how}; the end of its log:{}", end_of_log(&log));
                return Err(Error::environment(said)
                    .at(log.display().to_string())
                    .hint("its checkpoints are kept: run the same command again to go on"));
            }
            let (last, said) = (steps::last(folder), last_lines(&log, 1));
            (context.tick)(self.tick(plan, last, said.into_iter().next()));
            std::thread::sleep(LOOK);
        }
    }

    fn tick(&self, plan: &steps::Plan, last: Option<steps::Said>, said: Option<String>) -> Tick {
        let (done, note) = match &last {
            Some(step) => (step.step as usize + 1, format!("step {}  loss {:.4}", step.step, step.loss)),
            None => (0, format!("starting the trainer: {}", said.unwrap_or_default())),
        };
        let (tokens, tokens_expected) = (plan.tokens_after(done), plan.tokens_after(plan.steps.len()));
        Tick { rows_done: done as u64, rows_total: plan.steps.len() as u64, tokens, tokens_expected, note }
    }

    /// The policy's own small files, with the weights that the program left, in the stage's type.
    fn take_policy(&self, context: &Context, out: &Path) -> Result<()> {
        let mut files = PolicyFiles::default();
        let mut found = 0;
        for name in fs::list(out)?.into_iter().filter(|name| PolicyFiles::wants(name)) {
            let is_index = name.ends_with(".index.json");
            if is_weights(&name) || is_index {
                found += usize::from(!is_index);
                files.insert(name.clone(), fs::map(&out.join(&name))?);
            }
        }
        let place = out.display().to_string();
        if found == 0 {
            return Err(Error::input("the trainer left no weights").at(place).hint(
                "it is to write the trained policy to $WORK/out as transformers does: model.safetensors, or shards with an index",
            ));
        }
        for (name, bytes) in self.store_small_files(context)? {
            files.insert(name, bytes);
        }
        let policy = Policy::from_files(files).map_err(|e| e.at(&place))?;
        let checkpoint = policy.checkpoint().map_err(|e| e.at(&place))?;
        let dtype = self.params.dtype.into();
        context.put_file(super::WEIGHTS_FILE, |put| {
            weights::write_each(policy.config(), dtype, |name| checkpoint.tensor(name, dtype, &Device::Cpu), put)
        })
    }
}
