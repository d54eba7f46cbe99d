//! Work on what strangers wrote, by libraries that may recurse as deep as it is nested, or panic at it.

use crate::error::{Error, Result};
use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{self, Builder};

/// Stack of such work: values and expressions nested some hundred thousand deep. Only what is used of it takes memory.
const STACK: usize = 512 << 20;
const THREAD: &str = "guarded";

/// Runs `work` on a deep stack. A panic in it becomes an error that says `what` cannot be read.
pub fn guarded<T: Send>(what: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let started = Builder::new().name(THREAD.to_string()).stack_size(STACK).spawn_scoped(scope, work);
        let thread = started.map_err(|e| Error::environment("cannot start a thread").source(e))?;
        thread.join().unwrap_or_else(|panic| Err(failed(what, &*panic)))
    })
}

/// Runs `work` where it stands. A panic in it becomes an error that says `what` cannot be used.
pub fn caught<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    EXPECTED.set(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    EXPECTED.set(false);
    done.unwrap_or_else(|panic| Err(failed(what, &*panic)))
}

fn failed(what: &str, panic: &(dyn Any + Send)) -> Error {
    Error::input(format!("{what} makes the library that reads it fail: {}", said(panic)))
        .hint("it is damaged, or not what it seems to be")
}

thread_local! {
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread becomes an error: then nobody else needs to tell of it.
pub fn is_expected() -> bool {
    EXPECTED.get() || thread::current().name() == Some(THREAD)
}

/// What a panic said.
pub fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without words")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_and_depth_become_errors_and_values() {
        let failed = guarded("`x.json`", || -> Result<()> { panic!("index out of bounds: {}", 3) });
        let error = failed.unwrap_err().to_string();
        assert!(error.contains("`x.json` makes the library that reads it fail: index out of bounds: 3"), "{error}");
        let failed = caught("`x.json`", || -> Result<()> { panic!("no such token") }).unwrap_err().to_string();
        assert!(failed.contains("fail: no such token") && !is_expected(), "{failed}");
        fn depth(n: u64) -> u64 {
            if n == 0 { 0 } else { 1 + std::hint::black_box(depth(n - 1)) }
        }
        assert_eq!(guarded("depth", || Ok(depth(1_000_000))).unwrap(), 1_000_000);
        assert_eq!(guarded("an error", || Err::<(), _>(Error::usage("as it is"))).unwrap_err().to_string(), "as it is");
    }
}
