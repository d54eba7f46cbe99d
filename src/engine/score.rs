//! Teacher-forced scoring: the log-prob of each given token, and the entropy of the distribution it came from. Rows are packed,
//! and logits exist for a few rows and a part of the vocabulary at a time.

use super::{Limits, Progress};
use crate::base::error::{Error, Result};
use crate::model::kv_cache::Sequence;
use crate::model::ops::PANEL;
use crate::model::ops::logprobs::{ENTRIES, Tally};
use crate::model::runner::{Feed, Runner, Workspace};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A prompt and the tokens after it that are scored.
#[derive(Clone, Debug)]
pub struct ScoreRequest {
    pub prompt_ids: Arc<[u32]>,
    pub token_ids: Arc<[u32]>,
}

/// One number per scored token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenScores {
    /// Natural log-prob at temperature 1.
    pub logprob_policy: Vec<f32>,
    /// Entropy of the whole distribution, in nats.
    pub entropy: Vec<f32>,
}

/// Rows fed in one call of the model.
const ROWS: usize = 512;
/// Rows and vocabulary entries whose logits exist at once on one thread: 1.5 MB. Whole panels of the head, and whole chunks of
/// the tally.
const TILE_ROWS: usize = 128;
const TILE_ENTRIES: usize = 3 * ENTRIES;
const _: () = assert!(TILE_ENTRIES.is_multiple_of(PANEL));

/// Scores all requests, in order. Errors: an empty prompt, a sequence longer than the model's positions, a token id outside
/// the vocabulary, logits that are not finite, or `limits.cancel`.
pub fn score(
    runner: &Runner,
    requests: &[ScoreRequest],
    limits: &Limits,
    on_progress: &(dyn Fn(Progress) + Sync),
) -> Result<Vec<TokenScores>> {
    for (index, request) in requests.iter().enumerate() {
        check(runner, request).map_err(|e| e.at(format!("request {index}")))?;
    }
    let threads = limits.threads.clamp(1, requests.len().max(1));
    let shared = Shared {
        runner,
        requests,
        limits,
        on_progress,
        next: AtomicUsize::new(0),
        failed: AtomicBool::new(false),
        done: AtomicUsize::new(0),
        scored: AtomicUsize::new(0),
        prompted: AtomicUsize::new(0),
    };
    let outcomes: Vec<Result<Vec<(usize, TokenScores)>>> = if threads == 1 {
        vec![shared.work()]
    } else {
        std::thread::scope(|scope| {
            let handles: Vec<_> = (0..threads).map(|_| scope.spawn(|| shared.work())).collect();
            handles.into_iter().map(|h| h.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    };
    let mut results = vec![TokenScores::default(); requests.len()];
    for outcome in outcomes {
        for (index, scores) in outcome? {
            results[index] = scores;
        }
    }
    Ok(results)
}

fn check(runner: &Runner, request: &ScoreRequest) -> Result<()> {
    if request.prompt_ids.is_empty() {
        return Err(
            Error::input("prompt is empty").hint("the first token of a text has no log-prob without a token before it")
        );
    }
    let (length, longest) = (request.prompt_ids.len() + request.token_ids.len(), runner.config().max_positions);
    if length > longest {
        return Err(Error::input(format!("sequence of {length} tokens is longer than the model's {longest}"))
            .hint("`max_position_embeddings` in `config.json` is the longest prompt and completion together"));
    }
    runner.check_token_ids(&request.prompt_ids)?;
    runner.check_token_ids(&request.token_ids)
}

struct Shared<'a> {
    runner: &'a Runner,
    requests: &'a [ScoreRequest],
    limits: &'a Limits<'a>,
    on_progress: &'a (dyn Fn(Progress) + Sync),
    next: AtomicUsize,
    failed: AtomicBool,
    done: AtomicUsize,
    scored: AtomicUsize,
    prompted: AtomicUsize,
}

/// One thread's buffers.
#[derive(Default)]
struct Buffers {
    workspace: Workspace,
    hidden: Vec<f32>,
    logits: Vec<f32>,
}

impl Shared<'_> {
    fn work(&self) -> Result<Vec<(usize, TokenScores)>> {
        let mut buffers = Buffers::default();
        let mut results = Vec::new();
        while let Some(batch) = self.take() {
            self.limits.check_cancel()?;
            if self.failed.load(Ordering::Relaxed) {
                break; // the thread that failed says why
            }
            let scores = self.batch(&mut buffers, batch.clone()).inspect_err(|_| {
                self.failed.store(true, Ordering::Relaxed);
            })?;
            self.done.fetch_add(batch.len(), Ordering::Relaxed);
            results.extend(batch.zip(scores));
            (self.on_progress)(Progress {
                done: self.done.load(Ordering::Relaxed),
                total: self.requests.len(),
                new_tokens: self.scored.load(Ordering::Relaxed),
                prompt_tokens: self.prompted.load(Ordering::Relaxed),
            });
        }
        Ok(results)
    }

    /// Consecutive requests that fill one call, or one longer request. Threads agree through one counter; a batch depends on
    /// its first request alone, so no request is taken twice.
    fn take(&self) -> Option<Range<usize>> {
        let mut first = self.next.load(Ordering::Relaxed);
        loop {
            if first >= self.requests.len() {
                return None;
            }
            let mut end = first;
            let mut rows = 0;
            while end < self.requests.len() && (end == first || rows + self.length(end) <= ROWS) {
                rows += self.length(end);
                end += 1;
            }
            match self.next.compare_exchange(first, end, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(first..end),
                Err(now) => first = now,
            }
        }
    }

    fn length(&self, index: usize) -> usize {
        self.requests[index].prompt_ids.len() + self.requests[index].token_ids.len()
    }

    fn batch(&self, buffers: &mut Buffers, batch: Range<usize>) -> Result<Vec<TokenScores>> {
        let requests = &self.requests[batch];
        // The last token is only a target.
        let inputs: Vec<Vec<u32>> = requests
            .iter()
            .map(|r| [&r.prompt_ids[..], &r.token_ids[..r.token_ids.len().saturating_sub(1)]].concat())
            .collect();
        let mut sequences: Vec<Sequence> =
            inputs.iter().map(|i| Sequence::new(self.runner.kv_shape(), i.len())).collect();
        buffers.hidden.clear();
        let mut fed = 0;
        while inputs.iter().any(|i| fed < i.len()) {
            self.limits.check_cancel()?;
            // Several requests share a call only if all of them fit into it, so a long one is alone here.
            let mut feeds = Vec::with_capacity(requests.len());
            for ((input, request), sequence) in inputs.iter().zip(requests).zip(&mut sequences) {
                let end = input.len().min(fed + ROWS);
                let first_target = request.prompt_ids.len() - 1;
                let want = if request.token_ids.is_empty() { 0 } else { end.saturating_sub(first_target.max(fed)) };
                feeds.push(Feed { sequence, token_ids: &input[fed.min(end)..end], want });
            }
            buffers.hidden.extend_from_slice(self.runner.step(&mut buffers.workspace, &mut feeds)?);
            fed += ROWS;
        }
        let targets: Vec<u32> = requests.iter().flat_map(|r| r.token_ids.iter().copied()).collect();
        let scores = token_scores(self.runner, &buffers.hidden, &targets, &mut buffers.logits)?;
        self.scored.fetch_add(requests.iter().map(|r| r.token_ids.len()).sum(), Ordering::Relaxed);
        self.prompted.fetch_add(requests.iter().map(|r| r.prompt_ids.len()).sum(), Ordering::Relaxed);
        let mut scores = scores.into_iter();
        let of_request = |r: &ScoreRequest| {
            let (logprob_policy, entropy) = scores.by_ref().take(r.token_ids.len()).unzip();
            TokenScores { logprob_policy, entropy }
        };
        Ok(requests.iter().map(of_request).collect())
    }
}

/// Log-probs and entropies of targets, from the hidden states before them. Rows and vocabulary go by in tiles.
fn token_scores(runner: &Runner, hidden: &[f32], targets: &[u32], logits: &mut Vec<f32>) -> Result<Vec<(f32, f32)>> {
    let (size, vocabulary) = (runner.config().hidden_size, runner.config().vocab_size);
    let mut tallies = vec![Tally::default(); targets.len()];
    let mut chosen = vec![0.0; targets.len()];
    for first in (0..vocabulary).step_by(TILE_ENTRIES) {
        let entries = first..vocabulary.min(first + TILE_ENTRIES);
        let rows = hidden.chunks(TILE_ROWS * size).zip(targets.chunks(TILE_ROWS));
        let rows = rows.zip(tallies.chunks_mut(TILE_ROWS)).zip(chosen.chunks_mut(TILE_ROWS));
        for (((hidden, targets), tallies), chosen) in rows {
            runner.logits_of(hidden, entries.clone(), logits);
            let logits = logits.chunks_exact(entries.len());
            for (((logits, target), tally), chosen) in logits.zip(targets).zip(tallies).zip(chosen) {
                // Cut as everywhere, so that the sums agree to the bit.
                logits.chunks(ENTRIES).for_each(|chunk| tally.add(chunk));
                if let Some(logit) = (*target as usize).checked_sub(first).and_then(|index| logits.get(index)) {
                    *chosen = *logit;
                }
            }
        }
    }
    let score = |(tally, logit): (Tally, f32)| match tally.log_sum_exp() {
        sum if sum.is_finite() => Ok((logit - sum, tally.entropy())),
        _ => Err(Error::input("logits are not finite numbers")
            .hint("the policy's weights hold NaN or infinity; a training run may have diverged")),
    };
    tallies.into_iter().zip(chosen).map(score).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::Config;
    use crate::model::ops::sampling::tally;
    use crate::model::testing::{tiny_config, tiny_tensors};
    use crate::model::transformer::Transformer;
    use candle_core::{DType, Device};

    /// Goal: however large the vocabulary and long the text, logits exist for one tile at a time, and nothing changes by it.
    #[test]
    fn a_large_vocabulary_is_scored_in_tiles() {
        let config = Config { vocab_size: 151_936, ..tiny_config() };
        let transformer =
            Transformer::from_tensors(&config, tiny_tensors(&config, 3), DType::F32, &Device::Cpu).unwrap();
        let runner = Runner::from_transformer(&transformer).unwrap();
        let rows = TILE_ROWS + 7;
        let hidden: Vec<f32> = (0..rows * config.hidden_size).map(|i| (i as f32 * 0.7).sin()).collect();
        let targets: Vec<u32> = (0..rows as u32).map(|i| i * 7919 % 151_936).chain([151_935]).skip(1).collect();
        let mut logits = Vec::new();
        let scores = token_scores(&runner, &hidden, &targets, &mut logits).unwrap();
        assert!(logits.capacity() <= 2 * TILE_ROWS * TILE_ENTRIES, "{} logits at once", logits.capacity());
        let mut whole = Vec::new();
        for row in [0, 1, TILE_ROWS - 1, TILE_ROWS, rows - 1] {
            runner.logits(&hidden[row * config.hidden_size..][..config.hidden_size], &mut whole);
            let expected = tally(&whole);
            let log_prob = whole[targets[row] as usize] - expected.log_sum_exp();
            assert_eq!(scores[row], (log_prob, expected.entropy()), "row {row}");
        }
    }
}
