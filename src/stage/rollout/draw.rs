//! Drawing the samples of a part that nobody has yet, and the rows they become.

use super::{Known, RolloutStage, Task, stop_reason};
use crate::stage::Context;
use crate::stage::backend::{Answer, By, Loaded};
use mindgap_base::error::Result;
use mindgap_base::rng::Stream;
use mindgap_lm::engine::{self, HintedRequest, Request, Sample};
use mindgap_store::table::rollouts::{Rollout, StopReason};
use std::ops::Range;

impl RolloutStage {
    /// These samples of these problems: known ones as they are, the others drawn.
    pub(super) fn draw(
        &self,
        context: &Context,
        loaded: &Loaded,
        known: &mut Known,
        tasks: &[&Task],
        samples: Range<u32>,
    ) -> Result<Vec<Rollout>> {
        let (mut wanted, mut rows) = (Vec::new(), Vec::new());
        for task in tasks {
            let prompt_ids = loaded.policy.prompt(task.prompt()).map_err(|e| e.at(task.place()))?.ids;
            let mut missing = Vec::new();
            for sample in samples.clone() {
                match known.remove(&(task.problem_id.clone(), sample)) {
                    Some(row) if row.prompt_ids == prompt_ids && row.failure.is_none() => rows.push(row),
                    _ if loaded.room(&prompt_ids) == 0 => {
                        rows.push(self.nothing(task, sample, &prompt_ids, StopReason::PromptTooLong));
                    }
                    _ => missing.push(sample),
                }
            }
            if !missing.is_empty() {
                wanted.push((*task, prompt_ids, missing));
            }
        }
        rows.extend(self.sample(context, loaded, wanted)?);
        Ok(rows)
    }

    fn sample(
        &self,
        context: &Context,
        loaded: &Loaded,
        wanted: Vec<(&Task, Vec<u32>, Vec<u32>)>,
    ) -> Result<Vec<Rollout>> {
        let p = &self.params;
        let stream = |task: &Task, sample: u32| {
            Stream::at(p.seed, &[p.prompt_kind.as_str().as_bytes(), task.problem_id.as_bytes(), &sample.to_le_bytes()])
        };
        let requests: Vec<Request> = wanted
            .iter()
            .map(|(task, prompt_ids, missing)| {
                let samples = missing.iter().map(|&sample| stream(task, sample)).collect();
                Request::new(prompt_ids.as_slice(), samples).named(task.place())
            })
            .collect();
        let sampling = p.sampling(loaded.policy.eos_token_ids());
        let (mut rows, mut failed) = (Vec::new(), Vec::new());
        let take = |samples: Vec<((usize, usize), Answer<Sample>)>| {
            let first = rows.len();
            for ((task, sample), drawn) in samples {
                let (task, prompt_ids, missing) = &wanted[task];
                let (index, place) = (missing[sample], task.place());
                match drawn {
                    Ok(drawn) => {
                        let row = self.row(loaded, task, index, prompt_ids, drawn);
                        rows.push(row.map_err(|e| e.at(format!("{place}, sample {index}")))?);
                    }
                    Err(why) => {
                        let nothing = self.nothing(task, index, prompt_ids, StopReason::Failed);
                        failed.push(Rollout { failure: Some(why), ..nothing });
                    }
                }
            }
            context.keep(&rows[first..])
        };
        match &p.hint {
            None => loaded.generate(context, requests, &sampling, take)?,
            Some(hint) => {
                let hinted = |((task, ..), request): (&(&Task, Vec<u32>, Vec<u32>), Request)| {
                    let shown = loaded.policy.prompt(&task.shown).map_err(|e| e.at(task.place()))?;
                    let Request { name, prompt_ids, samples } = request;
                    Ok(HintedRequest { name, prompt_ids, hinted_ids: shown.ids.into(), samples })
                };
                let requests = wanted.iter().zip(requests).map(hinted).collect::<Result<Vec<_>>>()?;
                loaded.generate_hinted(context, requests, &sampling, hint.beta, take)?;
            }
        }
        rows.append(&mut failed);
        Ok(rows)
    }

    fn row(&self, loaded: &Loaded, task: &Task, index: u32, prompt_ids: &[u32], drawn: By<Sample>) -> Result<Rollout> {
        let By { what: sample, engine } = drawn;
        let tokenizer = loaded.policy.tokenizer();
        let ended = sample.stop_reason == engine::StopReason::Eos;
        let inside = &sample.token_ids[..sample.token_ids.len() - usize::from(ended)];
        Ok(Rollout {
            problem_id: task.problem_id.clone(),
            sample_index: index,
            prompt_kind: self.params.prompt_kind,
            completion: tokenizer.text(inside)?,
            prompt_ids: prompt_ids.to_vec(),
            special_count: tokenizer.stray_specials(inside)? as u32,
            token_ids: sample.token_ids,
            logprob_behavior: Some(sample.logprob_behavior),
            logprob_policy: Some(sample.logprob_policy),
            stop_reason: stop_reason(sample.stop_reason),
            seed: self.params.seed,
            prefill: task.prefill(),
            engine,
            failure: None,
        })
    }

    /// An empty sample that says why it is one.
    fn nothing(&self, task: &Task, index: u32, prompt_ids: &[u32], stop_reason: StopReason) -> Rollout {
        Rollout {
            problem_id: task.problem_id.clone(),
            sample_index: index,
            prompt_kind: self.params.prompt_kind,
            completion: String::new(),
            prompt_ids: prompt_ids.to_vec(),
            token_ids: Vec::new(),
            logprob_behavior: Some(Vec::new()),
            logprob_policy: Some(Vec::new()),
            stop_reason,
            special_count: 0,
            seed: self.params.seed,
            prefill: task.prefill(),
            engine: None,
            failure: None,
        }
    }
}
