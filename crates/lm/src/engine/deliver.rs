//! From many threads to one: what the workers finish is handed on while they go on.

use mindgap_base::error::Result;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

/// Where the workers of a call put what they finish.
pub type Outbox<T> = Sender<T>;

/// Taking results may cost this share of the time: who takes them writes them to a disk.
const SHARE: u32 = 20;

/// Runs `work` on `workers` threads and hands what they finish to `take`, on this thread, all that is there at a time. A
/// `take` that took long is left alone for a while, so that many small results do not cost more than the work; nothing waits
/// longer than that. What is finished is taken even where the work fails or is stopped. The first error ends the call;
/// `failed` tells the workers.
pub fn deliver<T: Send>(
    workers: usize,
    failed: &AtomicBool,
    work: impl Fn(Outbox<T>) -> Result<()> + Sync,
    mut take: impl FnMut(Vec<T>) -> Result<()>,
) -> Result<()> {
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        let handles: Vec<_> = (0..workers.max(1))
            .map(|_| {
                let (sender, work) = (sender.clone(), &work);
                scope.spawn(move || work(sender).inspect_err(|_| failed.store(true, Ordering::Relaxed)))
            })
            .collect();
        drop(sender);
        let mut taken = Ok(());
        let mut next = Instant::now();
        while let Ok(first) = receiver.recv() {
            let mut batch = vec![first];
            while let Ok(more) = receiver.recv_timeout(next.saturating_duration_since(Instant::now())) {
                batch.push(more);
            }
            if taken.is_ok() {
                let started = Instant::now();
                taken = take(batch).inspect_err(|_| failed.store(true, Ordering::Relaxed));
                next = Instant::now() + (started.elapsed() * SHARE).min(Duration::from_secs(1));
            }
        }
        let joined = handles.into_iter().map(|h| h.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        let outcomes: Vec<Result<()>> = joined.collect();
        taken.and(outcomes.into_iter().collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mindgap_base::error::Error;

    /// Goal: everything sent is taken once, in the order of its thread, whoever fails.
    #[test]
    fn all_that_was_finished_is_taken() {
        for fails in [false, true] {
            let (failed, mut taken) = (AtomicBool::new(false), Vec::new());
            let work = |outbox: Outbox<usize>| {
                (0..100).for_each(|i| outbox.send(i).unwrap());
                if fails { Err(Error::internal("a worker")) } else { Ok(()) }
            };
            let outcome = deliver(3, &failed, work, |batch| {
                taken.extend(batch);
                Ok(())
            });
            assert_eq!((outcome.is_err(), failed.into_inner()), (fails, fails));
            taken.sort();
            assert_eq!(taken, (0..100).flat_map(|i| [i; 3]).collect::<Vec<_>>());
        }
    }

    #[test]
    fn who_takes_may_stop_the_work() {
        let failed = AtomicBool::new(false);
        let work = |outbox: Outbox<usize>| {
            while !failed.load(Ordering::Relaxed) {
                let _ = outbox.send(1);
                std::thread::yield_now();
            }
            Ok(())
        };
        let mut calls = 0;
        let outcome = deliver(2, &failed, work, |_| {
            calls += 1;
            Err(Error::internal("the disk"))
        });
        assert_eq!((outcome.unwrap_err().what(), calls), ("the disk", 1));
    }
}
