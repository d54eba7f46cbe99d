//! A bound on the memory of work that strangers' files ask for, where the library that does it has none.
//!
//! A program that makes [`Bounded`] its allocator can give a stretch of work of one thread so many bytes. An allocator cannot fail
//! in a way that libraries recover from, so work that wants more ends the program, in words. Elsewhere there is no bound.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};

/// The system's allocator, which counts what threads with a bound take.
pub struct Bounded {
    exceeded: fn(what: &str) -> !,
}

/// No bound.
const NONE: isize = isize::MAX;
/// So many times its bound work may allocate in all, freed again or not: what fills and frees without end takes time without end.
const TURNOVER: isize = 16;

thread_local! {
    /// What is left of the bound, and of the turnover.
    static LEFT: Cell<isize> = const { Cell::new(NONE) };
    static TURN: Cell<isize> = const { Cell::new(NONE) };
    static WHAT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Does work that may hold so many bytes at a time, and is called `what` where it wants more.
pub fn within<T>(bytes: usize, what: &str, work: impl FnOnce() -> T) -> T {
    if LEFT.get() != NONE {
        return work();
    }
    WHAT.set(what.to_string());
    let bytes = isize::try_from(bytes).unwrap_or(NONE);
    TURN.set(bytes.saturating_mul(TURNOVER));
    LEFT.set(bytes);
    // Bounds end however the work does.
    struct Ended;
    impl Drop for Ended {
        fn drop(&mut self) {
            LEFT.set(NONE);
        }
    }
    let _ended = Ended;
    work()
}

impl Bounded {
    /// `exceeded` is called with what wants more than it may, on the thread that does. It ends the program.
    pub const fn new(exceeded: fn(what: &str) -> !) -> Bounded {
        Bounded { exceeded }
    }

    fn take(&self, bytes: usize) {
        let left = LEFT.get();
        if left == NONE {
            return;
        }
        let bytes = isize::try_from(bytes).unwrap_or(NONE);
        let (left, turn) = (left.saturating_sub(bytes), TURN.get().saturating_sub(bytes));
        if left < 0 || turn < 0 {
            LEFT.set(NONE);
            WHAT.with_borrow(|what| (self.exceeded)(what));
        }
        LEFT.set(left);
        TURN.set(turn);
    }
}

fn give(bytes: usize) {
    let left = LEFT.get();
    if left != NONE {
        LEFT.set(left.saturating_add_unsigned(bytes).min(NONE - 1));
    }
}

#[expect(unsafe_code, reason = "an allocator")]
// SAFETY: all is the system's; what is counted touches no memory of others.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.take(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.take(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        give(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.take(size);
        give(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;

    /// An allocator beside that of the tests: here it only counts.
    fn counted(allocator: &Bounded, bytes: usize) {
        allocator.take(bytes);
        give(bytes);
    }

    #[test]
    fn a_bound_is_for_a_thread_and_its_work() {
        let bounded = Bounded::new(|what| panic!("{what} wants more"));
        let over = |bytes, times: usize| {
            let work = || (0..times).for_each(|_| counted(&bounded, black_box(bytes)));
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| within(1000, "the template", work))).is_err()
        };
        assert!(!over(1000, 1));
        assert!(over(1001, 1), "more than there is");
        assert!(!over(1000, TURNOVER as usize), "freed again");
        assert!(over(1000, TURNOVER as usize + 1), "over and over");
        assert!(over(usize::MAX, 1));
        counted(&bounded, 1 << 40);
        std::thread::scope(|scope| {
            within(1000, "one", || scope.spawn(|| counted(&bounded, 5000)).join().unwrap());
        });
        within(1000, "outer", || within(1 << 40, "inner", || assert!(LEFT.get() <= 1000, "the outer bound holds")));
    }
}
