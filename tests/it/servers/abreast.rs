//! Two parts of a stage at once, so that servers have something to do while one waits for the last of its samples.

use super::fake::{Fake, Manner, Program, Seen};
use super::{cascade, done, expected, policy, rollouts_of, run};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Goal: while the first request of a part hangs, those of all others come; no more are under way than the servers take; and the rows
/// are those of parts one after the other.
#[test]
fn the_next_part_begins_while_one_waits() {
    const SAMPLES: usize = 24;
    let folder = tempfile::tempdir().unwrap();
    let expected = expected(folder.path());
    let (drawn, under_way, most, waited) =
        (AtomicUsize::new(0), AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (largest, seen_by_the_first) = (most.clone(), waited.clone());
    let slow_first = move |seen: &Seen| {
        if !seen.draws() {
            return None;
        }
        let number = drawn.fetch_add(1, Ordering::SeqCst);
        most.fetch_max(under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let started = Instant::now();
        while number == 0 && drawn.load(Ordering::SeqCst) < SAMPLES && started.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if number == 0 {
            waited.store(drawn.load(Ordering::SeqCst), Ordering::SeqCst);
        }
        // The answer is computed after this; what is counted here is what was asked for.
        std::thread::sleep(Duration::from_millis(2));
        under_way.fetch_sub(1, Ordering::SeqCst);
        None
    };
    let fake = Fake::start(Manner { misbehave: Box::new(slow_first), ..Manner::good(Program::Vllm) });
    let file = cascade(folder.path(), "abreast.toml", &policy(&[fake.url()], ", in_flight = 3"));
    let store = folder.path().join("store");
    assert_eq!(rollouts_of(&done(run(&store, &file, &["rollouts"]))), expected);
    assert_eq!(seen_by_the_first.load(Ordering::SeqCst), SAMPLES, "the other parts did not begin");
    assert!(largest.load(Ordering::SeqCst) <= 3, "{} requests at once", largest.load(Ordering::SeqCst));
}
