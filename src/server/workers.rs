//! Many requests side by side: threads that wait, and one that takes what they bring.

use super::pool::{KEPT, Pool};
use mindgap_base::error::{Error, Kind, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How long requests under way may still bring something once the work was stopped.
const GRACE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(100);

/// Does `count` numbered pieces of work on as many threads as the servers take requests. What is done is handed to `take`, by
/// this thread, all that is there at a time. While it takes (writes a journal, say), the threads go on until as many pieces as
/// there are threads wait for it: of what was not taken yet, at most twice their number is lost by a kill. The first error ends
/// the work; so does `cancel`. What was under way then has a moment to end and is taken too. Where nothing comes for a while,
/// `idle` may say so. Threads still waiting for an answer after that are left to themselves: nobody listens to them any more.
pub fn each<T: Send + 'static>(
    pool: &Arc<Pool>,
    count: usize,
    cancel: &AtomicBool,
    work: impl Fn(&AtomicBool, usize) -> Result<T> + Send + Sync + 'static,
    mut take: impl FnMut(Vec<(usize, T)>) -> Result<()>,
    idle: impl Fn(),
) -> Result<()> {
    pool.begin();
    let shared = Arc::new((AtomicBool::new(false), AtomicUsize::new(0), work));
    let width = pool.width().min(count);
    let (sender, receiver) = mpsc::sync_channel(width);
    for _ in 0..width {
        let (shared, sender) = (shared.clone(), sender.clone());
        let body = move || {
            let (stop, next, work) = &*shared;
            while !stop.load(Ordering::Relaxed) {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count || sender.send((index, work(stop, index))).is_err() {
                    break;
                }
            }
        };
        let spawned = std::thread::Builder::new().name("server".to_string()).spawn(body);
        spawned.map_err(|e| {
            Error::environment("cannot start a thread").source(e).hint("lower `in_flight` of the policy")
        })?;
    }
    drop(sender);
    let (stop, mut done, mut failed, mut deadline) = (&shared.0, 0, None, None);
    while done < count {
        if cancel.load(Ordering::Relaxed) || failed.is_some() {
            stop.store(true, Ordering::Relaxed);
            if Instant::now() > *deadline.get_or_insert_with(|| Instant::now() + GRACE) {
                break;
            }
        }
        let first = match receiver.recv_timeout(LOOK) {
            Ok(first) => first,
            Err(RecvTimeoutError::Timeout) => {
                idle();
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let mut finished = Vec::new();
        for (index, outcome) in [first].into_iter().chain(receiver.try_iter()) {
            match outcome {
                Ok(value) => finished.push((index, value)),
                // Of those that stopped because another failed, none says why.
                Err(error) if failed.is_none() && error.kind() != Kind::Interrupted => failed = Some(error),
                Err(_) => {}
            }
        }
        done += finished.len();
        if !finished.is_empty() {
            take(finished).inspect_err(|_| stop.store(true, Ordering::Relaxed))?;
        }
    }
    match failed {
        Some(error) => Err(error),
        None if done == count => Ok(()),
        None if cancel.load(Ordering::Relaxed) => {
            Err(Error::interrupted("stopped before all requests were answered").hint(KEPT))
        }
        None => Err(Error::internal("a thread that asks the servers has ended")),
    }
}
