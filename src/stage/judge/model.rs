//! A policy as judge: it is asked about every sample, and what it says is kept as a table that verdicts are read off.

use super::bench::Known;
use crate::judge::model::{Options, Reading, WORDS, verdict};
use crate::policy::{PolicyHandle, left_out};
use crate::stage::backend::{self, By, Lazy, Loaded};
use crate::stage::rollout::stop_reason;
use crate::stage::spec::Inputs;
use crate::stage::template::Template;
use crate::stage::{Context, Cost};
use mindgap_base::address::Address;
use mindgap_base::error::{Error, Result};
use mindgap_base::fingerprint::Recipe;
use mindgap_base::rng::Stream;
use mindgap_lm::engine::{self, Request, ScoreRequest};
use mindgap_lm::model::policy::Prompt;
use mindgap_math::{Judgement, Verdict};
use mindgap_store::table::judgements::JudgementRow;
use mindgap_store::table::rollouts::{Rollout, StopReason};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Bumped whenever the same words would mean something else.
const VERSION: u32 = 1;

/// What policies said, by problem and sample.
pub type Said = HashMap<(String, u32), JudgementRow>;

/// Policies by name, each loaded once however many judges ask it.
pub type Shared = BTreeMap<String, Arc<Lazy>>;

/// A policy that judges, ready to be loaded.
pub struct ModelJudge {
    options: Options,
    policy: PolicyHandle,
    template: Template,
    loaded: Arc<Lazy>,
}

/// What the policy is asked about one sample.
struct Question<'a> {
    sample: &'a Rollout,
    prompt: Prompt,
    /// The tokens of the two verdicts behind the prompt.
    words: [Vec<u32>; 2],
}

impl Question<'_> {
    fn place(&self) -> String {
        format!("problem `{}`, sample {}", self.sample.problem_id, self.sample.sample_index)
    }

    /// A row that says why it says nothing.
    fn failed(&self, judge: &str, why: String) -> JudgementRow {
        JudgementRow { stop_reason: Some(StopReason::Failed), failure: Some(why), ..self.row(judge) }
    }

    /// A row that says nothing yet.
    fn row(&self, judge: &str) -> JudgementRow {
        JudgementRow {
            problem_id: self.sample.problem_id.clone(),
            sample_index: self.sample.sample_index,
            prompt_ids: self.prompt.ids.clone(),
            completion: String::new(),
            token_ids: Vec::new(),
            logprob_policy: Vec::new(),
            stop_reason: None,
            logprob_yes: None,
            logprob_no: None,
            judge_version: judge.to_string(),
            engine: None,
            failure: None,
        }
    }
}

impl ModelJudge {
    /// Errors: a template that cannot be used.
    pub fn new(options: Options, inputs: &Inputs, loaded: &mut Shared) -> Result<ModelJudge> {
        Ok(ModelJudge {
            policy: inputs.policy(&options.policy)?,
            template: inputs.judge_template(&options.template)?,
            loaded: loaded.entry(options.policy.clone()).or_default().clone(),
            options,
        })
    }

    /// The judge with its version, the hashes of its policy and of its template, and how its verdict is read.
    pub fn name(&self) -> String {
        let policy = Recipe::new("policy", 1).with("policy", self.policy.digest()).fingerprint();
        let template = Address::of(self.template.text().as_bytes());
        let file = self.options.template.rsplit('/').next().unwrap_or_default();
        let mut parts = vec![format!("policy {}", policy.short()), format!("{file} {}", template.short())];
        parts.extend(self.options.reading());
        format!("model-v{VERSION}({})", parts.join(","))
    }

    /// Parts that may ask it at once.
    pub fn abreast(&self) -> usize {
        backend::abreast(&self.policy)
    }

    /// What people should know of its policy.
    pub fn remark(&self) -> Result<Option<String>> {
        left_out(&self.policy)
    }

    /// What so many texts cost at most; none where none is written.
    pub fn cost(&self, rows: u64) -> Result<Option<Cost>> {
        match self.options.verdict {
            Reading::Text { max_new_tokens, .. } => {
                Cost::new(&self.policy, rows * u64::from(max_new_tokens), true).map(Some)
            }
            Reading::YesNo => Ok(None),
        }
    }

    /// What it says of these samples. What is `known` already, of the same judge and the same prompt, is taken from there; the rest
    /// is asked for, and journalled as it comes.
    pub fn ask(
        &self,
        context: &Context,
        judge: &str,
        samples: &[(&Rollout, &Known)],
        known: &mut Said,
    ) -> Result<Vec<JudgementRow>> {
        let loaded = self.loaded.get(&self.policy, context)?;
        let (mut rows, mut open) = (Vec::new(), Vec::new());
        for (sample, problem) in samples {
            let question = self.question(&loaded, sample, problem)?;
            let answered = known.remove(&(sample.problem_id.clone(), sample.sample_index));
            let is_answer = |row: &JudgementRow| {
                row.judge_version == judge && row.prompt_ids == question.prompt.ids && row.failure.is_none()
            };
            match answered.filter(is_answer) {
                Some(row) => rows.push(row),
                None if self.has_room(&loaded, &question) => open.push(question),
                None => {
                    rows.push(JudgementRow { stop_reason: Some(StopReason::PromptTooLong), ..question.row(judge) });
                }
            }
        }
        let more = match self.options.verdict {
            Reading::Text { seed, .. } => self.write(context, &loaded, judge, &open, seed)?,
            Reading::YesNo => score(context, &loaded, judge, &open)?,
        };
        rows.extend(more);
        Ok(rows)
    }

    fn question<'a>(&self, loaded: &Loaded, sample: &'a Rollout, problem: &Known) -> Result<Question<'a>> {
        let shown = self.template.render_judged(&problem.problem(), &sample.said())?;
        let prompt = loaded.policy.prompt(&shown)?;
        // A word behind other words begins with a space.
        let is_behind = shown.prefill.ends_with(|c: char| !c.is_whitespace());
        let ids = |word: &str| {
            let word = if is_behind { format!(" {word}") } else { word.to_string() };
            loaded.policy.text_ids(Some(&prompt), &word)
        };
        let words = [ids(WORDS[0])?, ids(WORDS[1])?];
        Ok(Question { sample, prompt, words })
    }

    fn has_room(&self, loaded: &Loaded, question: &Question) -> bool {
        match self.options.verdict {
            Reading::Text { .. } => loaded.room(&question.prompt.ids) > 0,
            Reading::YesNo => {
                let longest = question.words.iter().map(Vec::len).max().unwrap_or_default();
                loaded.scored_room(&question.prompt.ids) >= longest
            }
        }
    }

    /// Asks for texts.
    fn write(
        &self,
        context: &Context,
        loaded: &Loaded,
        judge: &str,
        questions: &[Question],
        seed: u64,
    ) -> Result<Vec<JudgementRow>> {
        let Some(sampling) = self.options.sampling(loaded.policy.eos_token_ids()) else { return Ok(Vec::new()) };
        let request = |question: &Question| {
            let Rollout { problem_id, sample_index, .. } = question.sample;
            let stream = Stream::at(seed, &[b"judge", problem_id.as_bytes(), &sample_index.to_le_bytes()]);
            Request::new(question.prompt.ids.as_slice(), vec![stream]).named(question.place())
        };
        let (mut rows, mut failed) = (Vec::new(), Vec::new());
        loaded.generate(context, questions.iter().map(request).collect(), &sampling, |samples| {
            let first = rows.len();
            for ((index, _), drawn) in samples {
                let By { what: drawn, engine } = match drawn {
                    Ok(drawn) => drawn,
                    Err(why) => {
                        failed.push(questions[index].failed(judge, why));
                        continue;
                    }
                };
                let is_ended = drawn.stop_reason == engine::StopReason::Eos;
                let inside = &drawn.token_ids[..drawn.token_ids.len() - usize::from(is_ended)];
                rows.push(JudgementRow {
                    completion: loaded.policy.tokenizer().text(inside)?,
                    token_ids: drawn.token_ids,
                    logprob_policy: drawn.logprob_policy,
                    stop_reason: Some(stop_reason(drawn.stop_reason)),
                    engine,
                    ..questions[index].row(judge)
                });
            }
            context.keep(&rows[first..])
        })?;
        rows.append(&mut failed);
        Ok(rows)
    }
}

/// Scores both words behind every prompt.
fn score(context: &Context, loaded: &Loaded, judge: &str, questions: &[Question]) -> Result<Vec<JudgementRow>> {
    let requests = questions.iter().flat_map(|question| {
        let request = |word: &Vec<u32>| {
            ScoreRequest::new(question.prompt.ids.as_slice(), word.as_slice()).named(question.place())
        };
        question.words.each_ref().map(request)
    });
    let mut halves: Vec<[Option<f32>; 2]> = vec![[None; 2]; questions.len()];
    let (mut rows, mut failed) = (Vec::new(), BTreeMap::new());
    loaded.score(context, requests.collect(), |scores| {
        let first = rows.len();
        for (index, scores) in scores {
            let (question, word) = (index / WORDS.len(), index % WORDS.len());
            let scores = match scores {
                Ok(scores) => scores,
                Err(why) => {
                    failed.insert(question, questions[question].failed(judge, why));
                    continue;
                }
            };
            halves[question][word] = Some(scores.what.logprob_policy.iter().sum());
            if let [Some(yes), Some(no)] = halves[question] {
                let row = questions[question].row(judge);
                rows.push(JudgementRow { logprob_yes: Some(yes), logprob_no: Some(no), engine: scores.engine, ..row });
            }
        }
        context.keep(&rows[first..])
    })?;
    rows.extend(failed.into_values());
    Ok(rows)
}

/// The verdict that was read off what the policy said.
pub fn judgement(said: &JudgementRow) -> Judgement {
    let decided = |is_right: bool| if is_right { Verdict::Correct } else { Verdict::Incorrect };
    let (verdict, how) = match (said.logprob_yes, said.logprob_no, said.stop_reason) {
        (Some(yes), Some(no), _) => (decided(yes > no), "yes_no"),
        (_, _, Some(StopReason::PromptTooLong)) => (Verdict::BudgetExceeded, "prompt_too_long"),
        (_, _, Some(StopReason::MaxTokens)) => (Verdict::BudgetExceeded, "cut_off"),
        (_, _, Some(StopReason::Failed)) => (Verdict::Unparsed, "failed"),
        _ => {
            verdict(&said.completion).map_or((Verdict::Unparsed, "no_verdict"), |is_right| (decided(is_right), "text"))
        }
    };
    Judgement { verdict, extracted: None, method: format!("model/{how}") }
}

/// Error where a sample was to be judged by a policy and was not shown to it.
pub fn not_asked(sample: &Rollout) -> Error {
    let at = format!("problem `{}`, sample {}", sample.problem_id, sample.sample_index);
    Error::internal("a policy was to judge and was not asked").at(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(completion: &str, stop_reason: Option<StopReason>, words: Option<(f32, f32)>) -> JudgementRow {
        JudgementRow {
            problem_id: "0a".to_string(),
            sample_index: 0,
            prompt_ids: vec![1],
            completion: completion.to_string(),
            token_ids: Vec::new(),
            logprob_policy: Vec::new(),
            stop_reason,
            logprob_yes: words.map(|(yes, _)| yes),
            logprob_no: words.map(|(_, no)| no),
            judge_version: "model-v1".to_string(),
            engine: None,
            failure: None,
        }
    }

    #[test]
    fn only_what_was_said_is_a_verdict() {
        use Verdict::{BudgetExceeded, Correct, Incorrect, Unparsed};
        for (row, verdict, method) in [
            (row("Verdict: YES", Some(StopReason::Eos), None), Correct, "model/text"),
            (row("Verdict: NO", Some(StopReason::Eos), None), Incorrect, "model/text"),
            (row("It is right.", Some(StopReason::Eos), None), Unparsed, "model/no_verdict"),
            (row("Verdict: YES", Some(StopReason::MaxTokens), None), BudgetExceeded, "model/cut_off"),
            (row("", Some(StopReason::PromptTooLong), None), BudgetExceeded, "model/prompt_too_long"),
            (row("", Some(StopReason::Failed), None), Unparsed, "model/failed"),
            (row("", None, Some((-0.1, -3.0))), Correct, "model/yes_no"),
            (row("", None, Some((-3.0, -0.1))), Incorrect, "model/yes_no"),
            (row("", None, Some((-1.0, -1.0))), Incorrect, "model/yes_no"),
            (row("", None, Some((f32::NAN, -1.0))), Incorrect, "model/yes_no"),
        ] {
            let judged = judgement(&row);
            assert_eq!((judged.verdict, judged.method.as_str()), (verdict, method), "{row:?}");
        }
    }
}
