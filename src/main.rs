use mindgap_base::memory::Bounded;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: Bounded = Bounded::new(too_large);

/// What a stranger's file asks for is more than it may have.
fn too_large(what: &str) -> ! {
    std::process::exit(mindgap::cli::too_large(what).into())
}

fn main() -> ExitCode {
    keep_memory();
    tell_of_files_cut_short();
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

/// A mapped file that somebody cuts short cannot be read on: that is said in place of a bare SIGBUS, with the exit code of bad input.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "calls of the C library")]
fn tell_of_files_cut_short() {
    const SAID: &str =
        "error: a file was cut short while it was read: weights of a policy, or an object of the store\n";
    extern "C" fn cut_short(_signal: libc::c_int) {
        // SAFETY: both calls may be made in a signal handler; the bytes are there as long as the program.
        unsafe {
            libc::write(libc::STDERR_FILENO, SAID.as_ptr().cast(), SAID.len());
            libc::_exit(3);
        }
    }
    // SAFETY: the handler does nothing but the two calls above.
    unsafe { libc::signal(libc::SIGBUS, cut_short as *const () as libc::sighandler_t) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn tell_of_files_cut_short() {}
