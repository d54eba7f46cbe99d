//! The likeliest entries of a row of logits, found while the row goes by in chunks.

use super::simd;

/// The k largest values so far and their places, in falling order; of equal ones the first.
#[derive(Clone, Debug)]
pub struct Top {
    k: usize,
    entries: Vec<(u32, f32)>,
}

impl Top {
    pub fn new(k: usize) -> Top {
        Top { k, entries: Vec::with_capacity(k + 1) }
    }

    /// Takes in the values at `first` and the places after it.
    pub fn add(&mut self, first: usize, values: &[f32]) {
        if self.k == 0 || self.least().is_some_and(|least| simd::max(values) <= least) {
            return;
        }
        for (index, value) in values.iter().enumerate() {
            if self.least().is_none_or(|least| *value > least) {
                let at = self.entries.partition_point(|(_, kept)| kept >= value);
                self.entries.insert(at, ((first + index) as u32, *value));
                self.entries.truncate(self.k);
            }
        }
    }

    /// What a value must exceed, once there are k.
    fn least(&self) -> Option<f32> {
        if self.entries.len() < self.k { None } else { self.entries.last().map(|(_, value)| *value) }
    }

    /// Places and values.
    pub fn into_entries(self) -> Vec<(u32, f32)> {
        self.entries
    }

    pub fn values(&self) -> Vec<f32> {
        self.entries.iter().map(|(_, value)| *value).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_give_what_sorting_gives() {
        let values: Vec<f32> = (0..1000).map(|i| ((i * 7919 % 97) as f32).sin()).collect();
        for k in [0, 1, 20, 1000, 2000] {
            let mut sorted: Vec<(u32, f32)> = (0..).zip(values.iter().copied()).collect();
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            sorted.truncate(k);
            let mut top = Top::new(k);
            for (index, chunk) in values.chunks(64).enumerate() {
                top.add(index * 64, chunk);
            }
            assert_eq!(top.into_entries(), sorted, "{k}");
        }
    }
}
