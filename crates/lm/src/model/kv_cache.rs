//! Keys and values of sequences, preallocated, in the layout the attention kernel reads: nothing is concatenated, repeated or
//! transposed while decoding.
//!
//! A [`Sequence`] is a frozen prefix, shared by all samples of one prompt, and a part of its own that grows. A prompt may stand on
//! a prefix itself, its stem, which other prompts begin with too. Attention reads the parts as consecutive blocks, which gives
//! the same bits as one.

use super::config::Config;
use super::ops::lines::Lines;
use super::ops::{KeyValues, Matrix};
use half::bf16;
use half::slice::HalfBitsSliceExt;
use std::ops::Range;
use std::sync::Arc;

/// What keys and values are held in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum KvType {
    #[default]
    F32,
    /// Rounded as they are written; half the memory and half the reading.
    Bf16,
}

impl KvType {
    pub const ALL: [KvType; 2] = [KvType::F32, KvType::Bf16];

    pub fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::Bf16 => "bf16",
        }
    }

    pub fn named(name: &str) -> Option<KvType> {
        KvType::ALL.into_iter().find(|kind| kind.name() == name)
    }

    fn bytes(self) -> usize {
        match self {
            KvType::F32 => size_of::<f32>(),
            KvType::Bf16 => size_of::<bf16>(),
        }
    }
}

/// Sizes that one token's keys and values have in a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    pub kind: KvType,
    pub layers: usize,
    pub heads: usize,
    pub head_dim: usize,
}

impl KvShape {
    pub fn of(config: &Config, kind: KvType) -> KvShape {
        KvShape { kind, layers: config.layer_count, heads: config.kv_head_count, head_dim: config.head_dim }
    }

    /// Bytes of a preallocated room for this many tokens.
    pub fn bytes(self, tokens: usize) -> usize {
        2 * self.kind.bytes() * self.layers * self.heads * self.head_dim * stride(self.kind, tokens)
    }
}

/// Distance between two features of the transposed keys: whole cache lines, and an odd number of them, because a power of
/// two would put all features into the same few cache sets.
fn stride(kind: KvType, tokens: usize) -> usize {
    let line = 64 / kind.bytes();
    let lines = tokens.max(1).div_ceil(line);
    line * (lines | 1)
}

/// Numbers as they are held.
#[derive(Clone, Debug)]
enum Numbers {
    F32(Lines<f32>),
    /// The bits.
    Bf16(Lines<u16>),
}

impl Numbers {
    fn zeros(kind: KvType, count: usize) -> Numbers {
        match kind {
            KvType::F32 => Numbers::F32(Lines::zeros(count)),
            KvType::Bf16 => Numbers::Bf16(Lines::zeros(count)),
        }
    }

    /// Writes numbers, `step` apart, the first at `at`.
    fn write(&mut self, at: usize, step: usize, numbers: &[f32]) {
        let places = (at..).step_by(step);
        match self {
            Numbers::F32(own) => places.zip(numbers).for_each(|(at, x)| own[at] = *x),
            Numbers::Bf16(own) => places.zip(numbers).for_each(|(at, x)| own[at] = bf16::from_f32(*x).to_bits()),
        }
    }

    fn from(&self, first: usize) -> Matrix<'_> {
        match self {
            Numbers::F32(own) => Matrix::F32(&own[first..]),
            Numbers::Bf16(own) => Matrix::Bf16(own[first..].reinterpret_cast()),
        }
    }
}

/// Keys and values of consecutive tokens, for every layer and key head.
#[derive(Clone, Debug)]
struct Span {
    shape: KvShape,
    stride: usize,
    len: usize,
    /// Keys have turned by the frequencies for long texts.
    long: bool,
    /// `[layer, head, head_dim, stride]`: transposed, so that scores are sums over features for 16 keys at once.
    keys: Numbers,
    /// `[layer, head, stride, head_dim]`.
    values: Numbers,
}

impl Span {
    fn new(shape: KvShape, tokens: usize) -> Span {
        let stride = stride(shape.kind, tokens);
        let zeros = || Numbers::zeros(shape.kind, shape.layers * shape.heads * shape.head_dim * stride);
        Span { shape, stride, len: 0, long: false, keys: zeros(), values: zeros() }
    }

    fn start(&self, layer: usize, head: usize) -> usize {
        (layer * self.shape.heads + head) * self.shape.head_dim * self.stride
    }

    fn block(&self, layer: usize, head: usize, tokens: Range<usize>) -> KeyValues<'_> {
        let start = self.start(layer, head);
        KeyValues {
            keys: self.keys.from(start + tokens.start),
            key_stride: self.stride,
            values: self.values.from(start + tokens.start * self.shape.head_dim),
            value_stride: self.shape.head_dim,
            len: tokens.len(),
        }
    }
}

/// A prompt's keys and values, read only, shared by its samples; or those of a stem, shared by prompts.
#[derive(Clone, Debug)]
pub struct Prefix(Arc<Frozen>);

#[derive(Debug)]
struct Frozen {
    /// Stands on none itself.
    stem: Option<Prefix>,
    own: Span,
}

impl Prefix {
    /// Its stem included.
    pub fn len(&self) -> usize {
        self.stem_len() + self.0.own.len
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn stem_len(&self) -> usize {
        self.0.stem.as_ref().map_or(0, |stem| stem.0.own.len)
    }

    /// Its room and its stem's, empty, to be used again, where this was the last to hold it.
    pub fn into_rooms(self) -> Vec<Sequence> {
        let mut rooms = Vec::new();
        let mut last = Some(self);
        while let Some(Frozen { stem, mut own }) = last.take().and_then(|prefix| Arc::into_inner(prefix.0)) {
            own.len = 0;
            let capacity = own.stride;
            rooms.push(Sequence { prefix: None, own, capacity });
            last = stem;
        }
        rooms
    }
}

/// One sequence's place in the cache.
#[derive(Debug)]
pub struct Sequence {
    prefix: Option<Prefix>,
    own: Span,
    capacity: usize,
}

impl Sequence {
    /// Room for `capacity` tokens after the prefix. All memory is taken here.
    pub fn new(shape: KvShape, capacity: usize) -> Sequence {
        Sequence { prefix: None, own: Span::new(shape, capacity), capacity }
    }

    /// Tokens held, prefix included.
    pub fn len(&self) -> usize {
        self.prefix_len() + self.own.len
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Says whether its text is one of the long ones, while it is empty.
    pub fn set_long(&mut self, long: bool) {
        self.own.long = long;
    }

    /// Its keys turn by the frequencies for long texts.
    pub fn is_long(&self) -> bool {
        self.prefix.as_ref().map_or(self.own.long, |prefix| prefix.0.own.long)
    }

    /// Tokens that still fit.
    pub fn room(&self) -> usize {
        self.capacity - self.own.len
    }

    fn prefix_len(&self) -> usize {
        self.prefix.as_ref().map_or(0, Prefix::len)
    }

    /// Forgets everything; its own memory stays. Where it was the last to stand on its prefix, that room comes back, and its
    /// stem's likewise.
    pub fn reset(&mut self) -> Vec<Sequence> {
        self.own.len = 0;
        self.prefix.take().map_or(Vec::new(), Prefix::into_rooms)
    }

    /// Tokens it can hold, its prefix aside.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Starts over after a shared prefix.
    pub fn start_after(&mut self, prefix: &Prefix) {
        self.prefix = Some(prefix.clone());
        self.own.len = 0;
    }

    /// Forgets the tokens from `len` on (of the sequence's own; a prefix is never cut).
    pub fn truncate(&mut self, len: usize) {
        self.own.len = self.own.len.min(len.saturating_sub(self.prefix_len()));
    }

    /// Freezes what was written into a prefix to share. Panics if the prefix that this sequence stands on has one itself.
    pub fn into_prefix(mut self) -> Prefix {
        assert!(self.prefix.as_ref().is_none_or(|stem| stem.0.stem.is_none()), "a stem stands on none");
        self.own.long = self.is_long();
        Prefix(Arc::new(Frozen { stem: self.prefix, own: self.own }))
    }

    /// Writes one token's keys and values (all heads, `[heads * head_dim]`) of one layer, `ahead` tokens behind the end. They
    /// count once [`Sequence::advance`] is called, after the last layer.
    pub(super) fn write(&mut self, layer: usize, ahead: usize, keys: &[f32], values: &[f32]) {
        let (head_dim, stride, at) = (self.own.shape.head_dim, self.own.stride, self.own.len + ahead);
        assert!(at < self.capacity, "the engine feeds no more tokens than fit");
        for head in 0..self.own.shape.heads {
            let start = self.own.start(layer, head);
            let features = head * head_dim..(head + 1) * head_dim;
            self.own.keys.write(start + at, stride, &keys[features.clone()]);
            self.own.values.write(start + at * head_dim, 1, &values[features]);
        }
    }

    pub(super) fn advance(&mut self, tokens: usize) {
        self.own.len += tokens;
    }

    /// The blocks of one head that hold these tokens (written ones included, counted or not), in order; the second element says
    /// how many blocks there are.
    pub(super) fn blocks(&self, layer: usize, head: usize, tokens: Range<usize>) -> ([KeyValues<'_>; 3], usize) {
        let shared = self.prefix_len();
        let own = self.own.block(layer, head, tokens.start.max(shared) - shared..tokens.end - shared);
        let mut blocks = [own; 3];
        let Some(prefix) = self.prefix.as_ref().filter(|_| tokens.start < shared) else { return (blocks, 1) };
        let stem_len = prefix.stem_len();
        let behind_stem = tokens.start.max(stem_len) - stem_len..shared - stem_len;
        blocks[0] = prefix.0.own.block(layer, head, behind_stem);
        match &prefix.0.stem {
            Some(stem) if tokens.start < stem_len => {
                blocks[1] = blocks[0];
                blocks[0] = stem.0.own.block(layer, head, tokens.start..stem_len);
                (blocks, 3)
            }
            _ => (blocks, 2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: KvShape = KvShape { kind: KvType::F32, layers: 2, heads: 2, head_dim: 4 };

    fn numbers(matrix: Matrix) -> Vec<f32> {
        let mut wide = vec![0.0; matrix.count()];
        matrix.widen(&mut wide);
        wide
    }

    fn token(value: f32) -> [f32; 8] {
        std::array::from_fn(|i| value + i as f32)
    }

    fn push(sequence: &mut Sequence, value: f32) {
        for layer in 0..2 {
            sequence.write(layer, 0, &token(value), &token(-value));
        }
        sequence.advance(1);
    }

    /// Keys of one head as the kernel sees them, feature `d` of every token.
    fn keys(sequence: &Sequence, layer: usize, head: usize, d: usize) -> Vec<f32> {
        let (blocks, count) = sequence.blocks(layer, head, 0..sequence.len());
        blocks[..count].iter().flat_map(|b| numbers(b.keys)[d * b.key_stride..][..b.len].to_vec()).collect()
    }

    #[test]
    fn append_truncate_reset_and_share() {
        let mut prompt = Sequence::new(SHAPE, 3);
        push(&mut prompt, 10.0);
        push(&mut prompt, 20.0);
        let prefix = prompt.into_prefix();
        let mut a = Sequence::new(SHAPE, 2);
        a.start_after(&prefix);
        let mut b = Sequence::new(SHAPE, 2);
        b.start_after(&prefix);
        push(&mut a, 30.0);
        assert_eq!(keys(&a, 1, 1, 2), [16.0, 26.0, 36.0]);
        assert_eq!(keys(&b, 1, 1, 2), [16.0, 26.0]);
        assert_eq!((a.len(), a.room(), b.len()), (3, 1, 2));
        push(&mut a, 40.0);
        a.truncate(3);
        assert_eq!(keys(&a, 0, 0, 0), [10.0, 20.0, 30.0]);
        a.truncate(1);
        assert_eq!(a.len(), 2);
        assert!(a.reset().is_empty(), "others stand on the prefix");
        assert!(a.is_empty() && a.room() == 2);
        drop(prefix);
        let rooms = b.reset();
        assert!(rooms.len() == 1 && rooms[0].is_empty() && rooms[0].capacity() >= 3);
    }

    #[test]
    fn prompts_stand_on_a_stem() {
        let mut stem = Sequence::new(SHAPE, 2);
        push(&mut stem, 10.0);
        push(&mut stem, 20.0);
        let stem = stem.into_prefix();
        let mut prompt = Sequence::new(SHAPE, 2);
        prompt.start_after(&stem);
        push(&mut prompt, 30.0);
        assert_eq!((keys(&prompt, 1, 1, 2), prompt.len(), prompt.room()), (vec![16.0, 26.0, 36.0], 3, 1));
        let prompt = prompt.into_prefix();
        assert_eq!(prompt.len(), 3);
        let mut sample = Sequence::new(SHAPE, 2);
        sample.start_after(&prompt);
        push(&mut sample, 40.0);
        push(&mut sample, 50.0);
        sample.truncate(4);
        // A window begins in any of the three.
        for (first, expected) in [(0, 3), (1, 3), (2, 2), (3, 1)] {
            let (blocks, count) = sample.blocks(0, 0, first..4);
            let found: Vec<f32> =
                blocks[..count].iter().flat_map(|b| numbers(b.values).into_iter().step_by(4).take(b.len)).collect();
            assert_eq!((found.as_slice(), count), (&[-10.0, -20.0, -30.0, -40.0][first..], expected));
        }
        assert!(prompt.into_rooms().is_empty(), "the sample stands on it");
        assert_eq!(sample.reset().len(), 1, "others may stand on the stem");
        assert_eq!(stem.into_rooms().len(), 1);
    }

    #[test]
    fn strides_are_odd_numbers_of_lines() {
        for (kind, line) in [(KvType::F32, 16), (KvType::Bf16, 32)] {
            for tokens in [0, 1, 16, 17, 512, 1000] {
                let stride = stride(kind, tokens);
                assert!(stride >= tokens && stride.is_multiple_of(line) && stride / line % 2 == 1);
            }
        }
        assert_eq!(SHAPE.bytes(16), 2 * 4 * 2 * 2 * 4 * 16);
        assert_eq!(KvShape { kind: KvType::Bf16, ..SHAPE }.bytes(32), 2 * 2 * 2 * 2 * 4 * 32);
    }

    /// What is not a number of 8 bits of mantissa is rounded as it is written.
    #[test]
    fn numbers_in_bf16_are_rounded() {
        let mut sequence = Sequence::new(KvShape { kind: KvType::Bf16, ..SHAPE }, 3);
        push(&mut sequence, 1.0);
        push(&mut sequence, 1.003);
        let rounded = |x: f32| bf16::from_f32(x).to_f32();
        assert_eq!(keys(&sequence, 1, 1, 2), [7.0, rounded(7.003)]);
        let (blocks, _) = sequence.blocks(0, 1, 0..2);
        assert_eq!(numbers(blocks[0].values)[4..8], [4, 5, 6, 7].map(|i| rounded(-1.003 + i as f32)));
        assert_ne!(rounded(7.003), 7.003);
    }
}
