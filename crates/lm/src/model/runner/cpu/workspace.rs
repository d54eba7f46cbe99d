//! What a step needs beside the weights: its threads, and buffers that are reused from call to call.

use crate::model::ops::lines::Lines;
use crate::model::ops::team::Team;
use crate::model::ops::weight::Scratch;
use crate::model::rotary::Rotary;

/// Activations: `data.len() / width` rows.
pub struct Rows {
    pub width: usize,
    pub data: Lines<f32>,
}

impl Rows {
    pub fn count(&self) -> usize {
        self.data.len() / self.width
    }
}

/// Threads that share the steps, and buffers.
pub struct Workspace {
    pub team: Team,
    free: Vec<Rows>,
    /// By rope, for short texts and for long ones: of all positions from 0 on, as far as needed yet.
    known: Vec<[Angles; 2]>,
    /// By rope: of the rows of this call.
    pub angles: Vec<Angles>,
    /// Of products.
    pub scratch: Scratch,
    pub out: Vec<f32>,
}

/// Cosines and sines, `[rows, pairs]`.
#[derive(Default)]
pub struct Angles {
    rows: usize,
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
}

impl Workspace {
    /// With a team of so many threads.
    pub fn new(threads: usize) -> Workspace {
        Workspace {
            team: Team::new(threads),
            free: Vec::new(),
            known: Vec::new(),
            angles: Vec::new(),
            scratch: Scratch::default(),
            out: Vec::new(),
        }
    }

    /// A buffer of this size, its content left over from earlier use.
    pub fn take(&mut self, rows: usize, width: usize) -> Rows {
        let mut found = match self.free.iter().position(|r| r.width == width) {
            Some(index) => self.free.swap_remove(index),
            None => Rows { width, data: Lines::default() },
        };
        found.data.resize(rows * width);
        found
    }

    pub fn give(&mut self, rows: Rows) {
        self.free.push(rows);
    }

    /// Finds the angles of a call's rows: of each feed its first position, its rows, and whether its text is a long one.
    pub fn turn(&mut self, rotary: &Rotary, feeds: impl Iterator<Item = (usize, usize, bool)> + Clone) {
        self.known.resize_with(rotary.count(), Default::default);
        self.angles.resize_with(rotary.count(), Default::default);
        for (rope, (known, angles)) in self.known.iter_mut().zip(&mut self.angles).enumerate() {
            angles.cos.clear();
            angles.sin.clear();
            for (first, rows, long) in feeds.clone() {
                let table = rotary.table(rope, long);
                let known = &mut known[usize::from(long)];
                if known.rows < first + rows {
                    let end = (first + rows).next_power_of_two();
                    (known.rows..end).for_each(|row| table.add(row as u32, &mut known.cos, &mut known.sin));
                    known.rows = end;
                }
                let range = first * table.pairs()..(first + rows) * table.pairs();
                angles.cos.extend_from_slice(&known.cos[range.clone()]);
                angles.sin.extend_from_slice(&known.sin[range]);
            }
        }
    }
}
