//! Where each sequence lies in packed rows.

use std::ops::Range;
use std::sync::Arc;

/// Rows of sequences that are computed together; a longer sequence is alone.
const RUN_ROWS: usize = 2048;

/// Sequences of one length, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub rows: Range<usize>,
    /// Of each sequence.
    pub length: usize,
}

/// Bounds of the sequences that lie one after the other in packed rows. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segments(Arc<[usize]>);

impl Segments {
    /// From the length of each sequence, in tokens, in row order.
    pub fn new(lengths: &[usize]) -> Segments {
        let mut bounds = Vec::with_capacity(lengths.len() + 1);
        bounds.push(0);
        let mut end = 0;
        for length in lengths {
            end += length;
            bounds.push(end);
        }
        Segments(bounds.into())
    }

    /// Rows in all.
    pub fn total(&self) -> usize {
        self.0[self.0.len() - 1]
    }

    /// Number of sequences.
    pub fn count(&self) -> usize {
        self.0.len() - 1
    }

    /// The rows of each sequence, in order.
    pub fn iter(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.0.windows(2).map(|pair| pair[0]..pair[1])
    }

    /// Neighbours of equal length together, up to [`RUN_ROWS`] rows; empty sequences are left out.
    pub fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for rows in self.iter().filter(|rows| !rows.is_empty()) {
            match runs.last_mut() {
                Some(run) if run.length == rows.len() && rows.end - run.rows.start <= RUN_ROWS => {
                    run.rows.end = rows.end
                }
                _ => runs.push(Run { length: rows.len(), rows }),
            }
        }
        runs
    }

    /// Length of the longest sequence; 0 if there is none.
    pub fn longest(&self) -> usize {
        self.iter().map(|rows| rows.len()).max().unwrap_or(0)
    }

    /// Position of each row in its own sequence, 0-based.
    pub fn positions(&self) -> Vec<u32> {
        self.iter().flat_map(|rows| 0..rows.len() as u32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_positions_and_longest() {
        let segments = Segments::new(&[2, 0, 3]);
        assert_eq!(segments.total(), 5);
        assert_eq!(segments.count(), 3);
        assert_eq!(segments.longest(), 3);
        assert_eq!(segments.iter().collect::<Vec<_>>(), vec![0..2, 2..2, 2..5]);
        assert_eq!(segments.positions(), vec![0, 1, 0, 1, 2]);
        assert_eq!(Segments::new(&[]).total(), 0);
    }
}
