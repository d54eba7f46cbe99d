//! Buffers of one thread, reused from call to call.

use crate::model::transformer::rotary_angles;

/// Activations: `data.len() / width` rows.
pub struct Rows {
    pub width: usize,
    pub data: Vec<f32>,
}

impl Rows {
    pub fn count(&self) -> usize {
        self.data.len() / self.width
    }
}

/// Buffers of one thread, reused from call to call.
#[derive(Default)]
pub struct Workspace {
    pub free: Vec<Rows>,
    pub angles: Angles,
    /// Angles of the rows of this call.
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
    pub scratch: Vec<f32>,
    pub normed: Vec<f32>,
    pub out: Vec<f32>,
}

/// Cosines and sines of all positions from 0 on, as far as needed yet.
#[derive(Default)]
pub struct Angles {
    pub positions: usize,
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
}

impl Workspace {
    /// A buffer of this size, its content left over from earlier use.
    pub fn take(&mut self, rows: usize, width: usize) -> Rows {
        let mut found = match self.free.iter().position(|r| r.width == width) {
            Some(index) => self.free.swap_remove(index),
            None => Rows { width, data: Vec::new() },
        };
        found.data.resize(rows * width, 0.0);
        found
    }

    pub fn give(&mut self, rows: Rows) {
        self.free.push(rows);
    }

    pub fn extend_angles(&mut self, inverse_frequencies: &[f32], positions: usize) {
        if self.angles.positions < positions {
            let positions = positions.next_power_of_two();
            let new = self.angles.positions as u32..positions as u32;
            let (cos, sin) = rotary_angles(inverse_frequencies, new);
            self.angles.cos.extend(cos);
            self.angles.sin.extend(sin);
            self.angles.positions = positions;
        }
    }
}
