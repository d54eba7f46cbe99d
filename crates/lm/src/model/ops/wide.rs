//! One operator on several threads, where nothing else runs side by side: a large model's micro-batches go one after the other, so that
//! the threads share each operator; a small model's go side by side on rayon's threads, and an operator keeps to its own.
//!
//! Pieces never change a bit: each computes whole elements of the output.

use rayon::prelude::*;
use std::ops::Range;

/// Operations that are worth handing to another thread: a fraction of a thousandth of a second.
const GRAIN: usize = 1 << 24;
/// Pieces for every thread.
const PIECES: usize = 4;

/// Threads that an operator may use here.
pub fn threads() -> usize {
    if rayon::current_thread_index().is_some() { 1 } else { rayon::current_num_threads() }
}

/// Cuts `0..count`, each of so many operations, into pieces for the threads; borders are multiples of `step`.
pub fn share(count: usize, operations: usize, step: usize, work: impl Fn(Range<usize>) + Sync) {
    match piece(count, operations, step) {
        size if size < count => {
            (0..count.div_ceil(size))
                .into_par_iter()
                .for_each(|index| work(index * size..count.min((index + 1) * size)));
        }
        _ => work(0..count),
    }
}

/// The same for rows of `width` elements: `work` gets the number of the first row, and the rows.
pub fn share_rows<T: Send>(data: &mut [T], width: usize, operations: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    let rows = data.len() / width.max(1);
    match piece(rows, operations, 1) {
        size if size < rows => {
            data.par_chunks_mut(size * width).enumerate().for_each(|(index, data)| work(index * size, data));
        }
        _ => work(0, data),
    }
}

fn piece(count: usize, operations: usize, step: usize) -> usize {
    let threads = threads();
    if threads == 1 || count.saturating_mul(operations) < 2 * GRAIN {
        return count.max(1);
    }
    count.div_ceil(threads * PIECES).max(GRAIN / operations.max(1)).max(1).next_multiple_of(step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_element_is_done_once_and_alone_on_a_thread_of_the_pool() {
        let run = || {
            for (count, operations, step) in [(0, 1, 1), (5, 1 << 30, 2), (1000, 1 << 20, 48), (7, 10, 1)] {
                let done: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                share(count, operations, step, |range| {
                    assert!(range.start % step == 0);
                    range.for_each(|i| {
                        done[i].fetch_add(1, Ordering::Relaxed);
                    });
                });
                assert!(done.iter().all(|done| done.load(Ordering::Relaxed) == 1));
                let mut rows = vec![0usize; 3 * count];
                share_rows(&mut rows, 3, operations, |first, rows| {
                    rows.iter_mut().enumerate().for_each(|(i, x)| *x += 3 * first + i);
                });
                assert!(rows.iter().enumerate().all(|(i, x)| i == *x));
            }
        };
        run();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        pool.install(|| assert_eq!(threads(), 1));
        pool.install(run);
    }
}
