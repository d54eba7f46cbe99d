//! Guesses of the next tokens without a second model: what followed the last few tokens when they came up before, in the prompt,
//! in the sample itself or in other samples of its problem (prompt lookup, Saxena 2023).
//!
//! Guesses are fed behind the last token of their sample, and a row is drawn only if the token before it came out as guessed
//! (speculative sampling, Leviathan et al. 2023, with a draft that is certain). A draw depends on its position's number and its
//! row's logits, neither of which depends on what else is fed: a sample is the same to the bit, only the time differs.
//!
//! A step takes as long as some number of rows beyond those it has (`free_rows`: that is what reading the weights costs), so one
//! with R rows that yields T tokens makes T / (free_rows + R) tokens per row's time. A guess pays if the chance that it comes out
//! is larger. T = R = samples in the step is the bound used here: few samples guess far, many only what is nearly certain.

use super::sampler::Draw;
use std::collections::HashMap;

/// Tokens a guess looks back on, at most.
const ORDER: usize = 3;
/// Tokens over which the share of right guesses is averaged.
const MEMORY: f32 = 100.0;
/// Right guesses by the number of tokens looked back on, before any was tried.
const AT_FIRST: [f32; ORDER] = [0.15, 0.35, 0.6];
/// Stands for no token.
const NONE: u32 = u32::MAX;

/// The last tokens of a text, the newest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail([u32; ORDER]);

impl Tail {
    pub fn of(token_ids: &[u32]) -> Tail {
        let mut tail = Tail([NONE; ORDER]);
        token_ids[token_ids.len().saturating_sub(ORDER)..].iter().for_each(|token| tail.push(*token));
        tail
    }

    fn push(&mut self, token: u32) {
        self.0.rotate_left(1);
        self.0[ORDER - 1] = token;
    }

    /// The last `order` tokens alone.
    fn last(&self, order: usize) -> [u32; ORDER] {
        let mut last = self.0;
        last[..ORDER - order].fill(NONE);
        last
    }
}

/// What followed the last tokens in the texts of one problem, most recently.
#[derive(Debug, Default)]
struct Followers(HashMap<[u32; ORDER], u32>);

impl Followers {
    fn of(token_ids: &[u32]) -> Followers {
        let (mut followers, mut tail) = (Followers::default(), Tail::of(&[]));
        token_ids.iter().for_each(|token| followers.note(&mut tail, *token));
        followers
    }

    /// Notes that a token came after these, and adds it to them.
    fn note(&mut self, tail: &mut Tail, token: u32) {
        for order in 1..=ORDER {
            if tail.0[ORDER - order] != NONE {
                self.0.insert(tail.last(order), token);
            }
        }
        tail.push(token);
    }

    /// What came after as many of the last tokens as are known to have come up before.
    fn guess(&self, tail: &Tail) -> Option<Guess> {
        let guess = |order| Some(Guess { token: *self.0.get(&tail.last(order))?, order });
        (1..=ORDER).rev().find_map(guess)
    }
}

/// A token, and how many tokens before it came up before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Guess {
    token: u32,
    order: usize,
}

/// What a sample is fed in a step.
#[derive(Debug, Default)]
pub struct Draft {
    /// Its last token, and guesses of those behind it.
    pub token_ids: Vec<u32>,
    /// Those guesses, and the next one, which is not fed: whether it comes out tells whether it should have been.
    guesses: Vec<Guess>,
}

impl Draft {
    /// The guesses that are fed.
    pub fn guesses(&self) -> &[u32] {
        &self.token_ids[1..]
    }
}

/// The guesses of one worker.
pub struct Speculation {
    /// Guesses per sample and step.
    most: usize,
    free_rows: usize,
    /// Share of guesses that came out lately, by the number of tokens looked back on.
    right: [f32; ORDER],
    /// By request.
    followers: HashMap<usize, Followers>,
}

impl Speculation {
    /// At most so many guesses per sample and step; 0 is none. In the time of a step fit `free_rows` more rows.
    pub fn new(most: usize, free_rows: usize) -> Speculation {
        let most = if free_rows == 0 { 0 } else { most };
        Speculation { most, free_rows, right: AT_FIRST, followers: HashMap::new() }
    }

    fn is_on(&self) -> bool {
        self.most > 0
    }

    /// A sample of this request starts: the end of its prompt.
    pub fn start(&mut self, request: usize, prompt_ids: &[u32]) -> Tail {
        if self.is_on() {
            self.followers.entry(request).or_insert_with(|| Followers::of(prompt_ids));
        }
        Tail::of(prompt_ids)
    }

    /// Forgets requests of which no sample is left.
    pub fn keep(&mut self, is_in_use: impl Fn(usize) -> bool) {
        self.followers.retain(|request, _| is_in_use(*request));
    }

    /// What to feed a sample that ends in `last`, one of so many in the step, which may take `room` more tokens than the next.
    pub fn draft(&self, request: usize, mut tail: Tail, last: u32, samples: usize, room: usize) -> Draft {
        let mut draft = Draft { token_ids: vec![last], guesses: Vec::new() };
        let Some(followers) = self.followers.get(&request) else { return draft };
        let pays = samples as f32 / (self.free_rows + samples) as f32;
        let mut chance = 1.0;
        while let Some(guess) = followers.guess(&tail) {
            chance *= self.right[guess.order - 1];
            draft.guesses.push(guess);
            if chance <= pays || draft.guesses.len() > self.most.min(room) {
                break;
            }
            draft.token_ids.push(guess.token);
            tail.push(guess.token);
        }
        draft
    }

    /// Takes in what was drawn after a draft.
    pub fn learn(&mut self, request: usize, tail: &mut Tail, draft: &Draft, draws: &[Draw]) {
        let Some(followers) = self.followers.get_mut(&request) else { return };
        for (guess, draw) in draft.guesses.iter().zip(draws) {
            let right = &mut self.right[guess.order - 1];
            *right += (f32::from(u8::from(guess.token == draw.token_id)) - *right) / MEMORY;
        }
        draws.iter().for_each(|draw| followers.note(tail, draw.token_id));
    }
}

#[cfg(test)]
mod tests;
