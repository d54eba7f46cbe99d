//! What the targets share: what they call, and an allocator that bounds the memory of one input.

use mindgap_base::memory::Bounded;

#[path = "../../examples/storm/targets.rs"]
pub mod targets;

#[global_allocator]
static ALLOCATOR: Bounded = Bounded::new(too_large);

/// That an input is stopped by the bound of its memory is as it should be.
fn too_large(_what: &str) -> ! {
    unsafe extern "C" {
        fn _exit(code: i32) -> !;
    }
    // SAFETY: it ends the process, and does nothing else.
    unsafe { _exit(0) }
}

/// libFuzzer ends the process at every panic; of those that become errors it is not told.
pub fn let_expected_panics_pass() {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !mindgap_base::guard::is_expected() {
            told(panic);
        }
    }));
}
