//! Rows for the browser of the report: problems with their samples, verdicts, prompts and targets.

use super::made::{Made, Scored};
use super::tokenizer;
use crate::report::{BrowsedProblem, BrowsedSample, BrowsedTarget, Browser, Tokens, quantise};
use crate::stage::rewrite;
use mindgap_base::error::Result;
use mindgap_lm::model::tokenizer::Tokenizer;
use mindgap_store::table::Row;
use mindgap_store::table::logprobs::Logprob;
use mindgap_store::table::problems::Problem;
use mindgap_store::table::rewrites::{Rewrite, Source as Origin};
use mindgap_store::table::rollouts::Rollout;
use mindgap_store::table::verdicts::VerdictRow;
use std::collections::HashMap;

/// Problems in a page, at most.
const MAX_PROBLEMS: usize = 2000;
/// Text and tokens in a page, at most: about what a browser opens in a second.
const MAX_BYTES: usize = 12 << 20;

/// The first problems of every cascade, as many as a page may hold.
pub fn browse(made: &Made) -> Result<Browser> {
    let cascades: Vec<(&str, &rewrite::Params)> = made.cascades().collect();
    let mut browser = Browser {
        pipeline: made.pipeline.name.clone(),
        file: made.pipeline.source.path.clone(),
        cascades: cascades.iter().map(|(name, _)| name.to_string()).collect(),
        ..Browser::default()
    };
    for scored in made.scored() {
        if !browser.policies.iter().any(|policy| policy == scored.policy) && made.has(scored.stage) {
            browser.policies.push(scored.policy.to_string());
        }
    }
    let share = cascades.len().max(1);
    for (index, (name, params)) in cascades.into_iter().enumerate() {
        let source = Source::new(made, name, params)?;
        browser.total += source.problems.row_count();
        let mut bytes = 0;
        let mut count = 0;
        'parts: for part in source.problems.parts() {
            let problems = source.problems.read(part)?;
            let rows = source.rows(&browser.policies, &part.first, &part.last)?;
            for problem in problems {
                if count >= MAX_PROBLEMS / share || bytes >= MAX_BYTES / share {
                    break 'parts;
                }
                let browsed = source.browsed(index, problem, &rows);
                bytes += size(&browsed);
                count += 1;
                browser.problems.push(browsed);
            }
        }
    }
    Ok(browser)
}

fn size(problem: &BrowsedProblem) -> usize {
    let samples =
        problem.plain.iter().chain(&problem.guided).chain(&problem.teacher).map(|sample| sample.tokens.size() + 80);
    let targets = problem.targets.iter().map(|target| target.tokens.size());
    let expert = problem.expert.as_ref().map_or(0, Tokens::size);
    let prompt = problem.prompt.as_ref().map_or(0, String::len);
    problem.q.len() + prompt + expert + samples.sum::<usize>() + targets.sum::<usize>()
}

/// Where the rows of one cascade are.
struct Source<'a> {
    made: &'a Made<'a>,
    name: &'a str,
    params: &'a rewrite::Params,
    problems: mindgap_store::Table<Problem>,
    tokenizer: Option<Tokenizer>,
}

/// Rows of a span of problems, by problem.
struct Rows {
    /// With their source and verdict stage.
    rollouts: HashMap<String, Vec<(Origin, String, Rollout)>>,
    verdicts: HashMap<(String, String, u32), VerdictRow>,
    targets: HashMap<String, Vec<Rewrite>>,
    /// By policy, then by problem and choice.
    target_logprobs: Vec<HashMap<(String, u32), Logprob>>,
    expert_logprobs: Vec<HashMap<String, Logprob>>,
}

impl<'a> Source<'a> {
    fn new(made: &'a Made<'a>, name: &'a str, params: &'a rewrite::Params) -> Result<Source<'a>> {
        let (problems, tokenizer) = (made.table(&params.problems)?, tokenizer(made, &params.policy)?);
        Ok(Source { made, name, params, problems, tokenizer })
    }

    /// Rows of a table whose key starts with problems in `first..=last`.
    fn read<R: Row>(&self, stage: &str, first: &str, last: &str) -> Result<Vec<R>> {
        self.made.table::<R>(stage)?.overlapping(first, last).read_all()
    }

    fn rows(&self, policies: &[String], first: &str, last: &str) -> Result<Rows> {
        let mut rows = Rows {
            rollouts: HashMap::new(),
            verdicts: HashMap::new(),
            targets: HashMap::new(),
            target_logprobs: Vec::new(),
            expert_logprobs: Vec::new(),
        };
        for (origin, _, names) in self.params.judged() {
            for name in names {
                for row in self.read::<VerdictRow>(name, first, last)? {
                    rows.verdicts.insert((name.clone(), row.problem_id.clone(), row.sample_index), row);
                }
                for row in self.read::<Rollout>(self.made.rollouts_of(name)?, first, last)? {
                    rows.rollouts.entry(row.problem_id.clone()).or_default().push((origin, name.clone(), row));
                }
            }
        }
        for row in self.read::<Rewrite>(self.name, first, last)? {
            rows.targets.entry(row.problem_id.clone()).or_default().push(row);
        }
        for policy in policies {
            let of = |wanted: &dyn Fn(&Scored) -> bool| -> Result<Vec<Logprob>> {
                let stage = self.made.scored().find(|scored| scored.policy == policy && wanted(scored));
                stage.map_or(Ok(Vec::new()), |scored| self.read(scored.stage, first, last))
            };
            let targets = of(&|scored| scored.rewrites == self.name)?;
            let experts = of(&|scored| scored.of.is_baseline() && scored.of.problems == self.params.problems)?;
            rows.target_logprobs
                .push(targets.into_iter().map(|r| ((r.problem_id.clone(), r.choice_index), r)).collect());
            rows.expert_logprobs.push(experts.into_iter().map(|r| (r.problem_id.clone(), r)).collect());
        }
        Ok(rows)
    }

    fn browsed(&self, cascade: usize, problem: Problem, rows: &Rows) -> BrowsedProblem {
        let id = &problem.problem_id;
        let samples = rows.rollouts.get(id).map_or(&[][..], Vec::as_slice);
        let of = |wanted: Origin| -> Vec<BrowsedSample> {
            let several = self.params.judged().iter().any(|(origin, _, names)| *origin == wanted && names.len() > 1);
            let wanted = samples.iter().filter(|(origin, ..)| *origin == wanted);
            let browsed = wanted.map(|(_, stage, rollout)| {
                let verdict = rows.verdicts.get(&(stage.clone(), id.clone(), rollout.sample_index));
                self.sample(several.then(|| stage.clone()), rollout, verdict)
            });
            browsed.collect()
        };
        let targets: Vec<BrowsedTarget> =
            rows.targets.get(id).map_or(&[][..], Vec::as_slice).iter().map(|row| self.target(row, rows)).collect();
        let prompt =
            samples.iter().find(|(origin, ..)| *origin == Origin::Guided).map(|(_, _, rollout)| &rollout.prompt_ids);
        BrowsedProblem {
            c: cascade,
            s: targets.first().map(|target| target.s.clone()).unwrap_or_default(),
            expert: problem.solution.as_ref().map(|solution| {
                let found: Vec<Option<&Logprob>> = rows.expert_logprobs.iter().map(|by_id| by_id.get(id)).collect();
                self.scored(solution, &found)
            }),
            plain: of(Origin::SelfAligned),
            guided: of(Origin::Guided),
            teacher: of(Origin::Teacher),
            prompt: prompt.and_then(|ids| self.tokenizer.as_ref()?.decode(ids, false).ok()),
            targets,
            id: problem.problem_id,
            q: problem.question,
            a: problem.answer,
            meta: problem.meta,
        }
    }

    fn sample(&self, stage: Option<String>, rollout: &Rollout, verdict: Option<&VerdictRow>) -> BrowsedSample {
        let digits = rollout.logprob_policy.iter().map(|logprobs| quantise(logprobs)).collect();
        let tokens = self.tokens(&rollout.completion, &rollout.token_ids, digits);
        BrowsedSample {
            stage,
            i: rollout.sample_index,
            v: verdict.map(|v| v.verdict.to_string()).unwrap_or_default(),
            x: verdict.and_then(|v| v.extracted.clone()),
            m: verdict.map(|v| v.method.clone()).unwrap_or_default(),
            r: verdict.and_then(|v| v.refused).map(|reason| reason.to_string()),
            stop: rollout.stop_reason.to_string(),
            tokens,
        }
    }

    fn target(&self, row: &Rewrite, rows: &Rows) -> BrowsedTarget {
        let key = (row.problem_id.clone(), row.choice_index);
        let found: Vec<Option<&Logprob>> = rows.target_logprobs.iter().map(|by_key| by_key.get(&key)).collect();
        BrowsedTarget { s: row.source.to_string(), i: row.sample_index, tokens: self.scored(&row.completion, &found) }
    }

    /// A text with its log-probs under every policy that scored it.
    fn scored(&self, text: &str, found: &[Option<&Logprob>]) -> Tokens {
        let Some(ids) = found.iter().flatten().map(|row| &row.token_ids).next() else { return Tokens::text(text) };
        let digits = found.iter().map(|row| row.map_or_else(String::new, |row| quantise(&row.logprob_policy)));
        self.tokens(text, ids, digits.collect())
    }

    fn tokens(&self, text: &str, ids: &[u32], digits: Vec<String>) -> Tokens {
        match self.tokenizer.as_ref().and_then(|tokenizer| tokenizer.pieces(ids).ok()) {
            Some(pieces) => Tokens::new(&pieces, digits),
            None => Tokens::text(text),
        }
    }
}
