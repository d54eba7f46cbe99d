//! A worker's sequences on a device. The slots in use are always the first ones, so that a step of all samples is a step of a
//! dense batch: when a sample in the middle leaves and none takes its place, the last one moves there.

use super::super::{Draw, Score, Session, check_feed};
use super::blocks::{Cached, Call};
use super::cache::{KeyValues, Own, Slots, capacity};
use super::{DeviceRunner, draw, scaled};
use crate::model::ops::reference;
use crate::model::ops::top::Top;
use crate::model::tensor_error;
use crate::model::transformer::blocks;
use candle_core::Tensor;
use mindgap_base::error::{Error, Result};
use std::collections::BTreeSet;

/// Tokens to append to a sequence on a device.
pub type Feed<'a> = super::super::Feed<'a, Sequence>;

/// One sequence: how many tokens it holds, and where.
pub struct Sequence {
    len: usize,
    capacity: usize,
    /// Keys turn by the frequencies for long texts.
    long: bool,
    place: Place,
}

enum Place {
    Slot(usize),
    Own(Own),
}

impl Sequence {
    /// New keys and values of one layer, for a sequence outside the slots; returns all it holds.
    pub(super) fn append(&mut self, layer: usize, new: KeyValues) -> candle_core::Result<KeyValues> {
        match &mut self.place {
            Place::Own(own) => own.append(layer, new),
            Place::Slot(_) => candle_core::bail!("a slot is written with all others"),
        }
    }

    fn slot(&self) -> Option<usize> {
        match self.place {
            Place::Slot(slot) => Some(slot),
            Place::Own(_) => None,
        }
    }
}

/// The slots of one worker, and the runner that fills them.
pub struct DeviceSession<'a> {
    runner: &'a DeviceRunner,
    slots: Slots,
    slot_count: usize,
    free: BTreeSet<usize>,
}

impl<'a> DeviceSession<'a> {
    /// Takes the memory of all slots, each with room for so many tokens.
    pub fn new(runner: &'a DeviceRunner, slots: usize, tokens: usize) -> Result<DeviceSession<'a>> {
        let free = (0..slots).collect();
        let cache = Slots::new(&runner.config, runner.dtype, &runner.device, slots, tokens).map_err(tensor_error)?;
        Ok(DeviceSession { runner, slots: cache, slot_count: slots, free })
    }

    /// Appends each feed's tokens to its sequence; hidden states after the last norm of the wanted rows, in feed order. Either
    /// every slot in use is fed one token, or only sequences outside the slots are fed.
    fn step(&mut self, feeds: &mut [Feed]) -> Result<Option<Tensor>> {
        for feed in feeds.iter() {
            let sequence = &feed.sequence;
            check_feed(&self.runner.config, feed, sequence.len, sequence.capacity - sequence.len, sequence.long)?;
        }
        let in_slots = feeds.iter().filter(|feed| feed.sequence.slot().is_some()).count();
        let order = if in_slots == 0 { (0..feeds.len()).collect() } else { self.settle(feeds, in_slots)? };
        let ids: Vec<u32> = order.iter().flat_map(|feed| feeds[*feed].token_ids).copied().collect();
        let call = match in_slots {
            0 => {
                let own = |feed: &Feed| (feed.sequence.len, feed.token_ids.len(), feed.sequence.long);
                Call::own(self.runner, &feeds.iter().map(own).collect::<Vec<_>>())
            }
            _ => {
                let sequences = order.iter().map(|feed| &*feeds[*feed].sequence);
                let rows: Vec<_> = sequences.map(|sequence| (sequence.len as u32, sequence.long)).collect();
                let longest = rows.iter().max().map_or(0, |(position, _)| *position as usize + 1);
                Call::slots(self.runner, &rows, capacity(longest).min(self.slots.capacity()))
            }
        };
        let (call, x) = call.and_then(|call| Ok((call, self.embed(&ids)?))).map_err(tensor_error)?;
        let mut cached = Cached::new(self.runner, &self.slots, call, feeds);
        let x = blocks(&mut cached, &self.runner.layers, x)?;
        let wanted = wanted_rows(feeds, &order);
        for feed in feeds.iter_mut() {
            feed.sequence.len += feed.token_ids.len();
        }
        self.finish(x, &wanted).map_err(tensor_error)
    }

    /// Moves the slots in use to the front. Returns the feed of each slot.
    fn settle(&mut self, feeds: &mut [Feed], in_slots: usize) -> Result<Vec<usize>> {
        let in_use = self.slot_count - self.free.len();
        if in_slots != in_use || feeds.len() != in_use || feeds.iter().any(|feed| feed.token_ids.len() != 1) {
            return Err(Error::internal("a step of slots feeds every slot in use one token"));
        }
        let mut order = vec![0; in_use];
        for (index, feed) in feeds.iter_mut().enumerate() {
            let Place::Slot(slot) = &mut feed.sequence.place else { continue };
            if *slot >= in_use {
                let hole = self.free.pop_first().expect("a slot beyond the used ones leaves a hole among them");
                self.slots.relocate(*slot, hole, feed.sequence.len).map_err(tensor_error)?;
                self.free.insert(*slot);
                *slot = hole;
            }
            order[*slot] = index;
        }
        Ok(order)
    }

    fn embed(&self, ids: &[u32]) -> candle_core::Result<Tensor> {
        let rows = self.runner.embedding.index_select(&Tensor::new(ids, &self.runner.device)?, 0)?;
        scaled(rows, self.runner.config.embedding_scale)
    }

    fn finish(&self, x: Tensor, wanted: &[u32]) -> candle_core::Result<Option<Tensor>> {
        if wanted.is_empty() {
            return Ok(None);
        }
        let all = wanted.len() == x.dim(0)? && wanted.iter().enumerate().all(|(i, row)| i == *row as usize);
        let x = if all { x } else { x.index_select(&Tensor::new(wanted, &self.runner.device)?, 0)? };
        scaled(self.runner.normed(&x, &self.runner.norm)?, self.runner.config.logit_scale).map(Some)
    }

    /// Bytes of all slots.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.slots.bytes()
    }
}

/// Rows of a call that are wanted, in feed order; rows lie in `order` of feeds.
fn wanted_rows(feeds: &[Feed], order: &[usize]) -> Vec<u32> {
    let mut ends = vec![0; feeds.len()];
    let mut end = 0;
    for feed in order {
        end += feeds[*feed].token_ids.len();
        ends[*feed] = end;
    }
    feeds.iter().zip(ends).flat_map(|(feed, end)| (end - feed.want) as u32..end as u32).collect()
}

impl Session for DeviceSession<'_> {
    type Sequence = Sequence;
    type Prompt = Sequence;

    fn open(&mut self, tokens: usize) -> Result<Sequence> {
        let long = self.runner.config.is_long(tokens);
        Ok(Sequence { len: 0, capacity: tokens, long, place: Place::Own(Own::default()) })
    }

    /// Appending makes a copy: the stem stays as it is.
    fn open_after(&mut self, stem: &Sequence, tokens: usize) -> Result<Sequence> {
        let Place::Own(own) = &stem.place else {
            return Err(Error::internal("a stem lies outside the slots"));
        };
        Ok(Sequence { len: stem.len, capacity: tokens, long: stem.long, place: Place::Own(own.clone()) })
    }

    fn freeze(&mut self, sequence: Sequence) -> Sequence {
        sequence
    }

    fn release(&mut self, _prompt: Sequence) {}

    fn free_slots(&self) -> usize {
        self.free.len()
    }

    fn start(&mut self, prompt: &Sequence) -> Result<Sequence> {
        let Place::Own(own) = &prompt.place else {
            return Err(Error::internal("a sample starts from a prompt outside the slots"));
        };
        let slot = self.free.pop_first().expect("samples start while a slot is free");
        self.slots.copy_in(slot, &own.0).map_err(tensor_error)?;
        let capacity = self.slots.capacity();
        Ok(Sequence { len: prompt.len, capacity, long: prompt.long, place: Place::Slot(slot) })
    }

    /// A step looks at as much of a slot as is filled.
    fn truncate(&mut self, sequence: &mut Sequence, len: usize) {
        sequence.len = sequence.len.min(len);
    }

    fn retire(&mut self, sequence: Sequence) {
        self.free.extend(sequence.slot());
    }

    fn logits(&mut self, feeds: &mut [Feed], out: &mut Vec<f32>) -> Result<()> {
        out.clear();
        if let Some(hidden) = self.step(feeds)? {
            let logits = reference::logits(&hidden, &self.runner.head);
            *out = logits.and_then(|logits| logits.flatten_all()?.to_vec1()).map_err(tensor_error)?;
        }
        Ok(())
    }

    fn draw(&mut self, feeds: &mut [Feed], temperature: f32, numbers: &[(usize, f64)]) -> Result<Vec<Result<Draw>>> {
        let Some(hidden) = self.step(feeds)? else { return Ok(Vec::new()) };
        let logits = reference::logits(&hidden, &self.runner.head);
        logits.and_then(|logits| draw(&logits, temperature, numbers)).map_err(tensor_error)
    }

    fn scores(&mut self, feeds: &mut [Feed], targets: &[u32], top_k: usize) -> Result<Vec<Score>> {
        let Some(hidden) = self.step(feeds)? else { return Ok(Vec::new()) };
        let head = &self.runner.head;
        let found = Tensor::new(targets, hidden.device()).and_then(|targets| {
            let (log_probs, entropy) = reference::token_logprobs(&hidden, head, &targets)?;
            let top =
                if top_k > 0 { reference::top(&hidden, head, top_k)? } else { vec![Top::new(0); targets.dim(0)?] };
            Ok((log_probs.to_vec1::<f32>()?, entropy, top))
        });
        let (log_probs, entropy, top) = found.map_err(tensor_error)?;
        let rows = log_probs.into_iter().zip(entropy).zip(top);
        rows.map(|((log_prob, entropy), top)| Score::new(log_prob, 0.0, entropy, top)).collect()
    }
}
