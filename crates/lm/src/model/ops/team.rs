//! Threads that share one step of a model: several times in a thousandth of a second they get a piece of work and wait for each other.
//!
//! Waking a sleeping thread costs as much as such a piece, so helpers look for the next one for a little while before they sleep; between
//! steps they sleep. Nobody waits for a helper that has not begun: one whom another program keeps from the processor is left out.

use std::any::Any;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};

/// Looks before a helper sleeps: some tens of microseconds.
const LOOKS: usize = 4000;
/// Pieces for every thread: enough that one who was held up does not hold up the others.
const PIECES: usize = 8;

/// The calling thread and its helpers. They end with it.
pub struct Team {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

/// What the threads look at.
struct Shared {
    /// Counts pieces of work given out; a change tells helpers that there is one.
    round: AtomicUsize,
    open: Mutex<Open>,
    /// Helpers at work.
    busy: AtomicUsize,
    sleeping: Vec<AtomicBool>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// What helpers may begin.
#[derive(Clone, Copy)]
enum Open {
    Nothing,
    /// A borrowed function; [`Team::run`] waits until no helper has it any more.
    Work(&'static (dyn Fn() + Sync)),
    End,
}

impl Team {
    /// A team of so many threads, the calling one among them.
    pub fn new(threads: usize) -> Team {
        let helpers = threads.saturating_sub(1);
        let shared = Arc::new(Shared {
            round: AtomicUsize::new(0),
            open: Mutex::new(Open::Nothing),
            busy: AtomicUsize::new(0),
            sleeping: (0..helpers).map(|_| AtomicBool::new(false)).collect(),
            panic: Mutex::new(None),
        });
        let start = |index: usize| {
            let shared = shared.clone();
            std::thread::spawn(move || shared.help(index))
        };
        Team { helpers: (0..helpers).map(start).collect(), shared }
    }

    pub fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Cuts `0..count` into pieces and has the threads do them, each whoever is free. A panic of one is one of the caller.
    pub fn share(&mut self, count: usize, work: impl Fn(Range<usize>) + Sync) {
        if self.helpers.is_empty() || count <= 1 {
            if count > 0 {
                work(0..count);
            }
            return;
        }
        let size = (count / (PIECES * self.threads())).max(1);
        let next = AtomicUsize::new(0);
        self.run(&|| {
            loop {
                let first = next.fetch_add(size, Ordering::Relaxed);
                if first >= count {
                    break;
                }
                work(first..count.min(first + size));
            }
        });
    }

    /// Cuts rows of `width` elements into pieces and has the threads do them: `work` gets the number of the first row, and the rows.
    #[expect(unsafe_code, reason = "threads write rows of one slice")]
    pub fn share_rows<T: Send>(&mut self, data: &mut [T], width: usize, work: impl Fn(usize, &mut [T]) + Sync) {
        let rows = Disjoint::new(data);
        self.share(rows.len / width, |piece| {
            // SAFETY: pieces are disjoint, so that nobody else has these rows.
            let part = unsafe { rows.part(piece.start * width..piece.end * width) };
            work(piece.start, part);
        });
    }

    /// This thread runs `work`, and helpers do as long as it does.
    #[expect(unsafe_code, reason = "helpers borrow what the caller waits for")]
    fn run(&mut self, work: &(dyn Fn() + Sync)) {
        let shared = &*self.shared;
        // SAFETY: a helper takes the borrow while it is open, counting itself among the busy ones, and gives it up before it stops
        // counting; this function does not return, by a panic neither, before it is closed and none is busy.
        let work: &'static (dyn Fn() + Sync) = unsafe { std::mem::transmute(work) };
        *lock(&shared.open) = Open::Work(work);
        shared.round.fetch_add(1, Ordering::SeqCst);
        for (helper, sleeping) in self.helpers.iter().zip(&shared.sleeping) {
            if sleeping.load(Ordering::SeqCst) {
                helper.thread().unpark();
            }
        }
        let own = catch_unwind(AssertUnwindSafe(work));
        *lock(&shared.open) = Open::Nothing;
        let mut looks = 0;
        while shared.busy.load(Ordering::Acquire) > 0 {
            wait(&mut looks);
        }
        let theirs = lock(&shared.panic).take();
        if let Some(panic) = own.err().or(theirs) {
            resume_unwind(panic);
        }
    }
}

impl Shared {
    /// What a helper does all its life.
    fn help(&self, index: usize) {
        let mut seen = 0;
        loop {
            let mut looks = 0;
            while self.round.load(Ordering::Acquire) == seen {
                looks += 1;
                if looks < LOOKS {
                    std::hint::spin_loop();
                } else {
                    self.sleep(index, seen);
                }
            }
            seen = self.round.load(Ordering::Acquire);
            match self.begin() {
                Open::Nothing => {} // too late: the others have done it
                Open::Work(work) => {
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
                        *lock(&self.panic) = Some(panic);
                    }
                    self.busy.fetch_sub(1, Ordering::Release);
                }
                Open::End => return,
            }
        }
    }

    /// Takes what is open; whoever takes work is busy from then on.
    fn begin(&self) -> Open {
        let open = lock(&self.open);
        if let Open::Work(_) = *open {
            self.busy.fetch_add(1, Ordering::Relaxed);
        }
        *open
    }

    fn sleep(&self, index: usize, seen: usize) {
        self.sleeping[index].store(true, Ordering::SeqCst);
        // Whoever gives out work after this look sees that this thread sleeps.
        if self.round.load(Ordering::SeqCst) == seen {
            std::thread::park();
        }
        self.sleeping[index].store(false, Ordering::SeqCst);
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        *lock(&self.shared.open) = Open::End;
        self.shared.round.fetch_add(1, Ordering::SeqCst);
        let threads: Vec<&Thread> = self.helpers.iter().map(JoinHandle::thread).collect();
        threads.into_iter().for_each(Thread::unpark);
        for helper in self.helpers.drain(..) {
            // Its panics were caught.
            let _ = helper.join();
        }
    }
}

/// A slice of which threads write disjoint parts.
pub struct Disjoint<'a, T> {
    data: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: it hands out parts to whoever promises that they are disjoint; elements go to other threads.
#[expect(unsafe_code, reason = "threads write parts of one slice")]
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub fn new(data: &'a mut [T]) -> Disjoint<'a, T> {
        Disjoint { data: data.as_mut_ptr(), len: data.len(), borrow: PhantomData }
    }

    /// # Safety
    /// No element of this part is in another one that is still used.
    #[expect(unsafe_code, reason = "threads write parts of one slice")]
    #[expect(clippy::mut_from_ref, reason = "parts are disjoint, as the caller promises")]
    pub unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: the part lies in the slice, and the caller promises that it is nobody else's.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(range.start), range.len()) }
    }
}

/// Where threads write, each other elements.
#[derive(Clone, Copy)]
pub struct Output(pub *mut f32);

// SAFETY: threads write disjoint elements, as whoever uses it promises.
#[expect(unsafe_code, reason = "threads write columns of one output")]
unsafe impl Sync for Output {}

impl Output {
    /// This many elements on.
    pub fn at(&self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}

/// Between two looks at others that will be done soon: after some, others get the processor.
fn wait(looks: &mut usize) {
    *looks += 1;
    match *looks < LOOKS {
        true => std::hint::spin_loop(),
        false => std::thread::yield_now(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_done_once() {
        for threads in [1, 2, 5] {
            let mut team = Team::new(threads);
            for count in [0, 1, 2, 3, 100, 1001] {
                let done: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                team.share(count, |range| {
                    done[range].iter().for_each(|done| {
                        done.fetch_add(1, Ordering::Relaxed);
                    });
                });
                assert!(done.iter().all(|done| done.load(Ordering::Relaxed) == 1), "{threads} threads, {count} pieces");
            }
        }
    }

    #[test]
    fn sleepers_are_woken() {
        let mut team = Team::new(3);
        let done = AtomicUsize::new(0);
        for _ in 0..5 {
            std::thread::sleep(std::time::Duration::from_millis(5));
            team.share(50, |range| {
                done.fetch_add(range.len(), Ordering::Relaxed);
            });
        }
        assert_eq!(done.load(Ordering::Relaxed), 250);
    }

    /// Goal: a panic on any thread reaches the caller, and the team works on.
    #[test]
    fn a_panic_is_handed_on() {
        let mut team = Team::new(3);
        for bad in 0..40 {
            let result = catch_unwind(AssertUnwindSafe(|| team.share(40, |range| assert!(!range.contains(&bad)))));
            assert!(result.is_err(), "piece {bad}");
        }
        let done = AtomicUsize::new(0);
        team.share(40, |range| {
            done.fetch_add(range.len(), Ordering::Relaxed);
        });
        assert_eq!(done.load(Ordering::Relaxed), 40);
    }
}
