//! Where tests break things: named points at which a process dies, and a watcher that sees every change to the file system
//! before it is made, to record it or to refuse it.
//!
//! `MINDGAP_FAULT=object.renamed:3` ends the process with SIGKILL (elsewhere than on Unix, by aborting) the third time that point is passed.

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Every point, in the order a part passes them.
pub const POINTS: &[&str] = &[
    "object.written",
    "object.synced",
    "object.renamed",
    "memo.written",
    "memo.renamed",
    "manifest.renamed",
    "pointer.renamed",
    "view.linked",
];

struct Plan {
    point: String,
    countdown: AtomicU64,
}

/// Passes a named point; does nothing unless the environment asks for a fault there.
pub fn point(name: &str) {
    static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
    let plan = PLAN.get_or_init(|| {
        let (point, count) =
            std::env::var("MINDGAP_FAULT").ok()?.rsplit_once(':').map(|(p, c)| (p.to_string(), c.parse()))?;
        Some(Plan { point, countdown: AtomicU64::new(count.ok()?) })
    });
    let Some(plan) = plan else { return };
    if plan.point == name && plan.countdown.fetch_sub(1, Ordering::SeqCst) == 1 {
        end();
    }
}

/// Nothing is written back or cleaned up behind it.
#[cfg(unix)]
fn end() {
    let _ = signal_hook::low_level::raise(signal_hook::consts::SIGKILL);
}

#[cfg(not(unix))]
fn end() {
    std::process::abort();
}

/// One change to the file system. `store::fs` makes no other, times of files and the bytes of nameless ones aside.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    CreateDir(&'a Path),
    /// A file opened for writing; new and empty unless it is there.
    Create(&'a Path),
    /// Bytes added to the end of a file.
    Append(&'a Path, &'a [u8]),
    SyncFile(&'a Path),
    /// In one step within a folder; from one folder to another, a power cut may leave both names, or none.
    Rename {
        from: &'a Path,
        to: &'a Path,
    },
    /// A new symbolic link.
    Link {
        target: &'a Path,
        link: &'a Path,
    },
    /// Makes the names in a folder durable.
    SyncDir(&'a Path),
    /// A file, a link or an empty folder goes away.
    Remove(&'a Path),
}

type Watcher = Box<dyn FnMut(Change) -> io::Result<()>>;

thread_local! {
    static WATCHER: RefCell<Option<Watcher>> = const { RefCell::new(None) };
}

/// Shows `watcher` every change that this thread makes while `work` runs. An error from it is what the change fails with.
pub fn watched<T>(watcher: impl FnMut(Change) -> io::Result<()> + 'static, work: impl FnOnce() -> T) -> T {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            WATCHER.with(|cell| cell.borrow_mut().take());
        }
    }
    WATCHER.with(|cell| *cell.borrow_mut() = Some(Box::new(watcher)));
    let _reset = Reset;
    work()
}

/// Announces a change. Nothing happens unless this thread is watched.
pub(super) fn announce(change: Change) -> io::Result<()> {
    WATCHER.with(|cell| cell.borrow_mut().as_mut().map_or(Ok(()), |watcher| watcher(change)))
}
