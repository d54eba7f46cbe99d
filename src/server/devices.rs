//! GPUs of this machine, which one program at a time holds a policy on: runs that would share one wait for each other.

use mindgap_base::error::Result;
use mindgap_store::fs;
use std::path::Path;
use std::time::Duration;

const LOOK: Duration = Duration::from_millis(200);

/// Takes the GPUs that this process may use. Waits while another run has one of them, and tells `wait` so; none where `is_told` says
/// that nobody wants them any more. They are free again when the result is dropped, or this process ends.
pub fn take(wait: impl Fn(String), is_told: impl Fn() -> bool) -> Result<Option<Vec<fs::File>>> {
    let mut held = Vec::new();
    for device in devices() {
        let path = std::env::temp_dir().join(format!("mindgap-gpu-{device}.lock"));
        loop {
            if is_told() {
                return Ok(None);
            }
            match fs::try_lock(&path)? {
                Some(lock) => break held.push(lock),
                None => wait(format!("another run of mindgap has a policy on GPU {device}")),
            }
            std::thread::sleep(LOOK);
        }
    }
    Ok(Some(held))
}

/// Whether there are any that this process may use.
pub fn are_here() -> bool {
    !devices().is_empty()
}

/// Names of the GPUs, in an order that is the same for all runs.
fn devices() -> Vec<String> {
    let mut devices: Vec<String> = match std::env::var("CUDA_VISIBLE_DEVICES") {
        Ok(said) => said.split(',').map(|name| name.trim().to_string()).collect(),
        Err(_) => fs::list(Path::new("/dev")).unwrap_or_default().iter().filter_map(|name| number(name)).collect(),
    };
    // `-1` and nothing mean none.
    devices.retain(|name: &String| {
        !name.is_empty() && name != "-1" && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    });
    devices.sort();
    devices.dedup();
    devices
}

/// `0` of `nvidia0`.
fn number(name: &str) -> Option<String> {
    let number = name.strip_prefix("nvidia")?;
    (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())).then(|| number.to_string())
}
