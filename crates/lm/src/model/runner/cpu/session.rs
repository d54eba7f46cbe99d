//! A worker's slots and rooms on the CPU. A prompt is shared by its samples: they stand on it, nothing is copied.

use super::super::{Score, Session};
use super::{CpuRunner, Feed, Workspace};
use crate::model::kv_cache::{Prefix, Sequence};
use crate::model::ops::PANEL;
use crate::model::ops::logprobs::{ENTRIES, Tally};
use crate::model::ops::top::Top;
use mindgap_base::error::Result;

/// Rows and vocabulary entries whose logits exist at once on one thread: 1.5 MB. Whole panels of the head, and whole chunks of
/// the tally.
const TILE_ROWS: usize = 128;
const TILE_ENTRIES: usize = 3 * ENTRIES;
const _: () = assert!(TILE_ENTRIES.is_multiple_of(PANEL));

/// Sequences and buffers of one worker.
pub struct CpuSession<'a> {
    runner: &'a CpuRunner,
    workspace: Workspace,
    logits: Vec<f32>,
    slots: usize,
    /// Rooms of slots not in use.
    free: Vec<Sequence>,
    /// Rooms of prompts not in use. There are none where the prompts in use are more than the slots.
    spare: Vec<Sequence>,
    prompts_in_use: usize,
}

impl<'a> CpuSession<'a> {
    pub fn new(runner: &'a CpuRunner, slots: usize, capacity: usize, crew: usize) -> CpuSession<'a> {
        CpuSession {
            runner,
            workspace: Workspace::new(crew),
            logits: Vec::new(),
            slots,
            free: (0..slots).map(|_| Sequence::new(runner.kv_shape(), capacity)).collect(),
            spare: Vec::new(),
            prompts_in_use: 0,
        }
    }

    /// A room for a prompt; one used before if it fits without waste. Fresh memory costs a page fault per 4 kB, which for small
    /// models is as dear as the prefill itself.
    fn room(&mut self, tokens: usize) -> Sequence {
        self.prompts_in_use += 1;
        let spare = self.spare.iter().position(|s| (tokens..=2 * tokens + 32).contains(&s.capacity()));
        if let Some(index) = spare {
            return self.spare.swap_remove(index);
        }
        if self.prompts_in_use + self.spare.len() > self.slots {
            self.spare.pop();
        }
        Sequence::new(self.runner.kv_shape(), tokens)
    }

    fn take_back(&mut self, rooms: Vec<Sequence>) {
        self.prompts_in_use -= rooms.len();
        self.spare.extend(rooms);
    }
}

impl Session for CpuSession<'_> {
    type Sequence = Sequence;
    type Prompt = Prefix;

    fn open(&mut self, tokens: usize) -> Result<Sequence> {
        let mut sequence = self.room(tokens);
        sequence.set_long(self.runner.config().is_long(tokens));
        Ok(sequence)
    }

    fn open_after(&mut self, stem: &Prefix, tokens: usize) -> Result<Sequence> {
        let mut sequence = self.room(tokens - stem.len());
        sequence.start_after(stem);
        Ok(sequence)
    }

    fn freeze(&mut self, sequence: Sequence) -> Prefix {
        sequence.into_prefix()
    }

    /// Where samples stand on it, its room comes back with the last of them.
    fn release(&mut self, prompt: Prefix) {
        self.take_back(prompt.into_rooms());
    }

    fn free_slots(&self) -> usize {
        self.free.len()
    }

    fn start(&mut self, prompt: &Prefix) -> Result<Sequence> {
        let mut sequence = self.free.pop().expect("samples start while a slot is free");
        sequence.start_after(prompt);
        Ok(sequence)
    }

    fn truncate(&mut self, sequence: &mut Sequence, len: usize) {
        sequence.truncate(len);
    }

    fn retire(&mut self, mut sequence: Sequence) {
        self.take_back(sequence.reset());
        self.free.push(sequence);
    }

    fn logits(&mut self, feeds: &mut [Feed], out: &mut Vec<f32>) -> Result<()> {
        let rows = self.runner.step(&mut self.workspace, feeds)?.len() / self.runner.config().hidden_size;
        self.runner.logits(&mut self.workspace, 0..rows, 0..self.runner.config().vocab_size, out);
        Ok(())
    }

    fn scores(&mut self, feeds: &mut [Feed], targets: &[u32], top_k: usize) -> Result<Vec<Score>> {
        self.runner.step(&mut self.workspace, feeds)?;
        token_scores(self.runner, &mut self.workspace, targets, top_k, &mut self.logits)
    }
}

/// What is known of targets, from the hidden states of the last step. Rows and vocabulary go by in tiles.
fn token_scores(
    runner: &CpuRunner,
    workspace: &mut Workspace,
    targets: &[u32],
    top_k: usize,
    logits: &mut Vec<f32>,
) -> Result<Vec<Score>> {
    let vocabulary = runner.config().vocab_size;
    let mut found = vec![(Tally::default(), 0.0, Top::new(top_k)); targets.len()];
    for first in (0..vocabulary).step_by(TILE_ENTRIES) {
        let entries = first..vocabulary.min(first + TILE_ENTRIES);
        for start in (0..targets.len()).step_by(TILE_ROWS) {
            let rows = start..targets.len().min(start + TILE_ROWS);
            runner.logits(workspace, rows.clone(), entries.clone(), logits);
            workspace.team.share_rows(&mut found[rows.clone()], 1, |row, found| {
                let logits = logits[row * entries.len()..].chunks_exact(entries.len());
                for (((tally, chosen, top), logits), target) in
                    found.iter_mut().zip(logits).zip(&targets[start + row..])
                {
                    // Cut as everywhere, so that the sums agree to the bit.
                    for (index, chunk) in logits.chunks(ENTRIES).enumerate() {
                        tally.add(chunk);
                        top.add(first + index * ENTRIES, chunk);
                    }
                    if let Some(logit) = (*target as usize).checked_sub(first).and_then(|index| logits.get(index)) {
                        *chosen = *logit;
                    }
                }
            });
        }
    }
    let score = |(tally, logit, top): (Tally, f32, Top)| Score::new(logit, tally.log_sum_exp(), tally.entropy(), top);
    found.into_iter().map(score).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::Config;
    use crate::model::ops::WeightType;
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
        let runner = CpuRunner::from_transformer(&transformer, WeightType::F32).unwrap();
        let rows = TILE_ROWS + 7;
        let mut workspace = Workspace::new(2);
        workspace.out = (0..rows * config.hidden_size).map(|i| (i as f32 * 0.7).sin()).collect();
        let targets: Vec<u32> = (0..rows as u32).map(|i| i * 7919 % 151_936).chain([151_935]).skip(1).collect();
        let mut logits = Vec::new();
        let scores = token_scores(&runner, &mut workspace, &targets, 3, &mut logits).unwrap();
        assert!(logits.capacity() <= 2 * TILE_ROWS * TILE_ENTRIES, "{} logits at once", logits.capacity());
        let mut whole = Vec::new();
        for row in [0, 1, TILE_ROWS - 1, TILE_ROWS, rows - 1] {
            runner.logits(&mut workspace, row..row + 1, 0..config.vocab_size, &mut whole);
            let expected = tally(&whole);
            let log_prob = whole[targets[row] as usize] - expected.log_sum_exp();
            let mut top = Top::new(3);
            top.add(0, &whole);
            let top = top.into_entries().into_iter().map(|(token, logit)| (token, logit - expected.log_sum_exp()));
            let expected = Score { logprob: log_prob, entropy: expected.entropy(), top: top.collect() };
            assert_eq!(scores[row], expected, "row {row}");
        }
    }
}
