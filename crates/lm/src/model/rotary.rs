//! Cosines and sines of the angles by which queries and keys turn.

use super::config::Config;

/// The angles of one rotary embedding, for texts up to its original length or beyond.
pub struct Table {
    inverse_frequencies: Vec<f32>,
    /// Cosines and sines are multiplied by it.
    factor: f32,
}

impl Table {
    /// Pairs of features that turn.
    pub fn pairs(&self) -> usize {
        self.inverse_frequencies.len()
    }

    /// Those of one position, added to the ends: always in f32, for bf16 cannot hold a position above 256.
    pub fn add(&self, position: u32, cos: &mut Vec<f32>, sin: &mut Vec<f32>) {
        for frequency in &self.inverse_frequencies {
            let (s, c) = (position as f32 * frequency).sin_cos();
            cos.push(c * self.factor);
            sin.push(s * self.factor);
        }
    }
}

/// The rotary embeddings of a model.
pub struct Rotary {
    /// Of each rope: for short texts and for long ones.
    tables: Vec<[Table; 2]>,
}

impl Rotary {
    pub fn of(config: &Config) -> Rotary {
        let tables = config.ropes().map(|rope| {
            [false, true].map(|long| Table {
                inverse_frequencies: rope.inverse_frequencies(config.rotary_dim(), long),
                factor: rope.attention_factor(),
            })
        });
        Rotary { tables: tables.collect() }
    }

    /// Number of ropes.
    pub fn count(&self) -> usize {
        self.tables.len()
    }

    pub fn table(&self, rope: usize, long: bool) -> &Table {
        &self.tables[rope][usize::from(long)]
    }

    /// Cosines and sines of some rows by one rope, `[rows, pairs]`: each row's position, and whether its text is a long one.
    pub fn angles(&self, rope: usize, rows: impl Iterator<Item = (u32, bool)>) -> (Vec<f32>, Vec<f32>) {
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        rows.for_each(|(position, long)| self.table(rope, long).add(position, &mut cos, &mut sin));
        (cos, sin)
    }
}
