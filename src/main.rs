use std::process::ExitCode;

fn main() -> ExitCode {
    keep_memory();
    mindgap::cli::run()
}

/// Tells the allocator to keep what is freed: a training step frees some gigabytes and wants them again at once, and having the
/// kernel clear every page anew takes a third of its time.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "a call of the C library")]
fn keep_memory() {
    const SETTINGS: [(i32, i32); 3] =
        [(libc::M_MMAP_THRESHOLD, 1 << 30), (libc::M_TRIM_THRESHOLD, i32::MAX), (libc::M_TOP_PAD, 1 << 28)];
    for (parameter, value) in SETTINGS {
        // SAFETY: nothing else runs yet; a setting that is refused changes nothing.
        unsafe { libc::mallopt(parameter, value) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn keep_memory() {}
