//! Named points at which a test can kill the process, to prove that every state in between is recoverable.
//!
//! `MINDGAP_FAULT=object.renamed:3` ends the process with SIGKILL the third time that point is passed.

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
        let _ = signal_hook::low_level::raise(signal_hook::consts::SIGKILL);
    }
}
