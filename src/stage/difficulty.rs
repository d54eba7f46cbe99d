//! difficulty: problems + verdicts of plain samples -> problems and difficulty.  Keeps the problems of which a certain share of
//! samples is correct, so that whatever takes problems can be pointed at those that are neither mastered nor hopeless.

use super::buckets::{at_least_one, group};
use super::{Context, Inputs, Part, Reference, Stage, StageParams, Wants};
use mindgap_base::error::{Error, Result};
use mindgap_base::fingerprint::Recipe;
use mindgap_store::table::Row;
use mindgap_store::table::difficulty::{Difficulty, Unfit};
use mindgap_store::table::problems::Problem;
use mindgap_store::table::rollouts::PromptKind;
use mindgap_store::table::verdicts::{Verdict, VerdictRow};
use mindgap_store::{PartRecord, Span, Table};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

const VERSION: u32 = 1;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub problems: String,
    /// Verdicts of plain rollouts.
    pub verdicts: Vec<String>,
    /// Least and largest share of correct samples of a problem that is kept, both ends included. A problem without samples has
    /// no share, and is not.
    #[serde(default = "any")]
    pub keep: [f64; 2],
    /// Problems per part, on average, of those that come in; no fewer than the problems table has per part.
    #[serde(default = "part_problems")]
    pub part_problems: u32,
}

fn any() -> [f64; 2] {
    [0.0, 1.0]
}
fn part_problems() -> u32 {
    128
}

impl StageParams for Params {
    fn validate(&self) -> Result<()> {
        let [least, most] = self.keep;
        if !(0.0 <= least && least <= most && most <= 1.0) {
            return Err(Error::usage(format!(
                "`keep` is [{least}, {most}]; it begins at 0 or later, ends at 1 or earlier"
            ))
            .hint("`keep = [0.1, 0.9]` leaves out what is nearly always solved and what hardly ever is"));
        }
        if self.verdicts.is_empty() {
            return Err(Error::usage("`verdicts` names no stage").hint("name the verdicts of plain rollouts"));
        }
        at_least_one(self.part_problems, "part_problems")
    }

    fn references(&self) -> Vec<Reference> {
        let mut references = vec![Reference::new("problems", &self.problems, Wants::Problems)];
        references.extend(self.verdicts.iter().map(|name| Reference::new("verdicts", name, Wants::Verdicts)));
        references
    }

    fn bind(&self, inputs: &Inputs) -> Result<Box<dyn Stage>> {
        let mut judges: BTreeMap<&str, &str> = BTreeMap::new();
        for name in &self.verdicts {
            let rollouts = inputs.rollouts_name(name)?;
            let sampled = inputs.rollouts(rollouts)?;
            if sampled.until_correct.is_some() {
                let what = format!("`verdicts` names `{name}`, whose samples were drawn until one was right");
                return Err(
                    Error::usage(what).hint("their share of right ones says nothing: draw without `until_correct`")
                );
            }
            if sampled.prompt_kind != PromptKind::Plain {
                let what = format!("`verdicts` names `{name}`, whose samples were shown a solution");
                return Err(Error::usage(what).hint("difficulty is told by plain samples alone"));
            }
            if let Some(other) = judges.insert(rollouts, name) {
                let what = format!("`verdicts` names `{other}` and `{name}`, which judge the same samples");
                return Err(Error::usage(what).hint("name one of them: a sample counts once"));
            }
        }
        Ok(Box::new(DifficultyStage {
            params: self.clone(),
            problems: inputs.table(&self.problems)?,
            verdicts: self.verdicts.iter().map(|name| inputs.table(name)).collect::<Result<_>>()?,
        }))
    }

    fn lists(&mut self) -> Vec<(&'static str, &mut Vec<String>)> {
        vec![("verdicts", &mut self.verdicts)]
    }
}

pub struct DifficultyStage {
    params: Params,
    problems: Table<Problem>,
    verdicts: Vec<Table<VerdictRow>>,
}

impl Stage for DifficultyStage {
    fn recipe(&self) -> Recipe {
        Recipe::new("difficulty", VERSION)
            .with("schema", (Problem::VERSION, Difficulty::VERSION))
            .with("keep", self.params.keep)
    }

    fn main_table(&self) -> Option<&'static str> {
        Some(Problem::TABLE)
    }

    fn parts(&self) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        for range in group(self.problems.parts(), self.params.part_problems) {
            let problems = &self.problems.parts()[range];
            let (first, last) = (problems[0].first.clone(), problems[problems.len() - 1].last.clone());
            let mut key: Vec<String> = problems.iter().map(|part| part.content.to_string()).collect();
            for verdicts in &self.verdicts {
                key.push("verdicts".to_string());
                key.extend(verdicts.overlapping(&first, &last).contents().iter().map(ToString::to_string));
            }
            let rows = problems.iter().map(|part| part.rows).sum();
            parts.push(Part { span: Span { first, last, samples: None }, key, rows, index: parts.len() });
        }
        Ok(parts)
    }

    fn cut(&self) -> Recipe {
        Recipe::default().with("part_problems", self.params.part_problems)
    }

    fn run_part(&self, context: &Context, part: &Part, _earlier: &[PartRecord]) -> Result<()> {
        let tallies = self.tallies(&part.span)?;
        let (mut kept, mut rows) = (Vec::new(), Vec::new());
        for problem in self.problems.overlapping(&part.span.first, &part.span.last).read_all()? {
            let row = self.row(&problem.problem_id, tallies.get(&problem.problem_id).copied().unwrap_or_default());
            if row.left_out.is_none() {
                kept.push(problem);
            }
            rows.push(row);
        }
        // Whoever takes the problems cuts them where their ids say so. An empty part has no ids; the first stands for the table.
        if !kept.is_empty() || part.index == 0 {
            context.store(&kept)?;
        }
        context.store(&rows)
    }
}

/// Samples of a problem, and how many of them are correct.
#[derive(Clone, Copy, Default)]
struct Tally {
    samples: u32,
    correct: u32,
}

impl DifficultyStage {
    fn tallies(&self, span: &Span) -> Result<HashMap<String, Tally>> {
        #[derive(Deserialize)]
        struct Judged {
            problem_id: String,
            verdict: Verdict,
        }
        let mut tallies: HashMap<String, Tally> = HashMap::new();
        for verdicts in &self.verdicts {
            let rows: Vec<Judged> = verdicts.overlapping(&span.first, &span.last).select(&["problem_id", "verdict"])?;
            for Judged { problem_id, verdict } in rows {
                let tally = tallies.entry(problem_id).or_default();
                tally.samples += 1;
                tally.correct += u32::from(verdict.is_correct());
            }
        }
        Ok(tallies)
    }

    fn row(&self, problem_id: &str, Tally { samples, correct }: Tally) -> Difficulty {
        let share = (samples > 0).then(|| f64::from(correct) / f64::from(samples));
        let [least, most] = self.params.keep;
        let left_out = match share {
            None => Some(Unfit::Unsampled),
            Some(share) if share < least => Some(Unfit::Harder),
            Some(share) if share > most => Some(Unfit::Easier),
            Some(_) => None,
        };
        Difficulty { problem_id: problem_id.to_string(), samples, correct, share, left_out }
    }
}
