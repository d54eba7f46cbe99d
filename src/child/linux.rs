//! What keeps a process in on Linux: Landlock for files, seccomp for the network and for what Landlock leaves open, resource
//! limits for sizes and counts. None of it needs privileges or namespaces, so it works in containers too.
//!
//! Root is not held by limits on processes, and no user by limits on what other processes of the same user do. So a process of
//! root's goes on as a user of its own that exists for nothing else, which may read what root may.

use super::Limits;
use caps::{CapSet, Capability, CapsHashSet};
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope, path_beneath_rules,
};
use mindgap_store::fs;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Gid, Pid, Uid, chown, setgroups, setresgid, setresuid};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};
use std::fmt::Display;
use std::path::Path;

/// Older kernels let a process truncate files it may only read.
const REQUIRED: ABI = ABI::V3;

/// Users with numbers from here on exist for one process each.
const FIRST_USER: u32 = 1_900_000_000;

/// The user that owns nothing, where a container does not have as many.
const NOBODY: u32 = 65_534;

const OPEN_FILES: u64 = 256;

/// The bit of numbers of x32 calls, and the numbers of `ptrace`, `process_vm_readv` and `process_vm_writev`, which are others there.
#[cfg(target_arch = "x86_64")]
const X32: i64 = 0x4000_0000;
#[cfg(target_arch = "x86_64")]
const X32_ONLY: [i64; 3] = [X32 | 521, X32 | 539, X32 | 540];

fn said(what: &str) -> impl Fn(&dyn Display) -> String {
    move |e| format!("{what}: {e}")
}

/// Errors: a kernel without what is needed, in words.
pub fn check() -> Result<(), String> {
    ruleset().map(drop)
}

fn ruleset() -> Result<RulesetCreated, String> {
    let needs = |e: landlock::RulesetError| format!("it needs Landlock of Linux 6.2 or later ({e})");
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(REQUIRED))
        .map_err(needs)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(ABI::V4)))
        .and_then(|rules| rules.scope(Scope::from_all(ABI::V6)))
        .and_then(|rules| rules.create())
        .map_err(needs)
}

/// This process, and what it becomes, ends with the one that started it. Becoming another user undoes it.
pub fn end_with_parent() -> Result<(), String> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|e| said("no signal at the end of its parent")(&e))
}

/// Takes all limits on. What this process may do afterwards, what it becomes may do too, and nothing else.
pub fn confine(limits: &Limits) -> Result<(), String> {
    if limits.sandbox {
        let scratch = std::env::current_dir().map_err(|e| said("no scratch folder")(&e))?;
        if Uid::effective().is_root() {
            become_nobody(&scratch)?;
        }
        restrict_files(&scratch)?;
        restrict_calls()?;
    }
    end_with_parent()?;
    let mib = |count: u64| count << 20;
    let limits = [
        (Resource::RLIMIT_AS, mib(limits.memory_mib)),
        (Resource::RLIMIT_CPU, limits.seconds),
        (Resource::RLIMIT_FSIZE, mib(limits.file_mib)),
        (Resource::RLIMIT_NOFILE, OPEN_FILES),
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_NPROC, tasks_of_user()? + limits.processes),
    ];
    for (resource, limit) in limits {
        setrlimit(resource, limit, limit).map_err(|e| format!("no limit of {limit} on {resource:?}: {e}"))?;
    }
    Ok(())
}

/// Goes on as a user that nobody else is, who may read what root may and nothing more.
fn become_nobody(scratch: &Path) -> Result<(), String> {
    let own = |number: u32| chown(scratch, Some(Uid::from_raw(number)), Some(Gid::from_raw(number))).map(|()| number);
    let number = own(FIRST_USER + std::process::id()).or_else(|_| own(NOBODY));
    let number = number.map_err(|e| said("cannot give the scratch folder away")(&e))?;
    let (user, group) = (Uid::from_raw(number), Gid::from_raw(number));
    prctl::set_keepcaps(true).map_err(|e| said("cannot keep the right to read")(&e))?;
    setgroups(&[])
        .and_then(|()| setresgid(group, group, group))
        .and_then(|()| setresuid(user, user, user))
        .map_err(|e| said("cannot become another user")(&e))?;
    let failed = |e: caps::errors::CapsError| said("cannot give rights up")(&e);
    let held = caps::read(None, CapSet::Permitted).map_err(failed)?;
    // In containers root often has the second one only. What it would let be written, Landlock does not.
    let readers = [Capability::CAP_DAC_READ_SEARCH, Capability::CAP_DAC_OVERRIDE];
    let kept: CapsHashSet = readers.into_iter().find(|right| held.contains(right)).into_iter().collect();
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable, CapSet::Ambient] {
        caps::set(None, set, &kept).map_err(failed)?;
    }
    Ok(())
}

/// Everything may be read and run, the scratch folder be written, and what is no file at all.
fn restrict_files(scratch: &Path) -> Result<(), String> {
    let all = AccessFs::from_all(ABI::V5);
    let folder = PathFd::new(scratch).map_err(|e| said("no scratch folder")(&e))?;
    let status = ruleset()?
        .add_rules(path_beneath_rules(["/"], AccessFs::from_read(ABI::V5)))
        .and_then(|rules| rules.add_rule(PathBeneath::new(folder, all)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(["/dev/null", "/dev/zero", "/dev/full"], all)))
        .and_then(|rules| rules.restrict_self())
        .map_err(|e| said("Landlock")(&e))?;
    match status.ruleset {
        RulesetStatus::NotEnforced => Err("Landlock is not enforced".to_string()),
        _ => Ok(()),
    }
}

/// Calls that are refused: sockets; what changes files that may only be read, or outlives the process; leaving the group; looking
/// into or signalling other processes.
fn restrict_calls() -> Result<(), String> {
    use nix::libc::*;
    let mut calls = vec![
        SYS_socket,
        SYS_io_uring_setup,
        SYS_setsid,
        SYS_setpgid,
        SYS_ptrace,
        SYS_process_vm_readv,
        SYS_process_vm_writev,
        SYS_memfd_create,
        SYS_memfd_secret,
        SYS_shmget,
        SYS_msgget,
        SYS_semget,
        SYS_mq_open,
        SYS_add_key,
        SYS_request_key,
        SYS_keyctl,
        SYS_bpf,
        SYS_perf_event_open,
        SYS_userfaultfd,
        SYS_fchmod,
        SYS_fchmodat,
        SYS_fchmodat2,
        SYS_fchown,
        SYS_fchownat,
        SYS_utimensat,
        SYS_setxattr,
        SYS_lsetxattr,
        SYS_fsetxattr,
        SYS_removexattr,
        SYS_lremovexattr,
        SYS_fremovexattr,
    ];
    #[cfg(target_arch = "x86_64")]
    calls.extend(X32_ONLY);
    #[cfg(target_arch = "x86_64")]
    calls.extend([SYS_chmod, SYS_chown, SYS_lchown, SYS_utime, SYS_utimes, SYS_futimesat]);
    let failed = |e: seccompiler::BackendError| said("seccomp")(&e);
    let everybody =
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, u64::from(u32::MAX)).map_err(failed)?;
    let mut rules: std::collections::BTreeMap<i64, Vec<SeccompRule>> =
        calls.into_iter().map(|call| (call, Vec::new())).collect();
    rules.insert(SYS_kill, vec![SeccompRule::new(vec![everybody]).map_err(failed)?]);
    // The same calls under their other numbers, where a kernel has them (x32).
    #[cfg(target_arch = "x86_64")]
    rules.extend(rules.clone().into_iter().map(|(call, rule)| (call | X32, rule)));
    let architecture = std::env::consts::ARCH.try_into().map_err(failed)?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(EPERM as u32), architecture);
    let program: BpfProgram = filter.and_then(TryInto::try_into).map_err(failed)?;
    apply_filter(&program).map_err(|e| said("seccomp")(&e))
}

/// Whether a process has ended, without taking note of it: its number stays its group's.
pub fn has_ended(process: Pid) -> std::io::Result<bool> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    Ok(waitid(Id::Pid(process), flags)? != WaitStatus::StillAlive)
}

/// Processes and threads of this user: the limit counts them all.
fn tasks_of_user() -> Result<u64, String> {
    let own = Uid::current().as_raw();
    Ok(processes()?.iter().filter_map(|number| tasks(number, own)).sum())
}

/// Numbers of all processes.
fn processes() -> Result<Vec<String>, String> {
    let mut names = fs::list(Path::new("/proc")).map_err(|e| said("cannot count processes")(&e))?;
    names.retain(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    Ok(names)
}

/// What a file of a process says, if it has not ended meanwhile.
fn of_process(number: &str, file: &str) -> Option<String> {
    let bytes = fs::read(&Path::new("/proc").join(number).join(file)).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Threads of a process, if it is this user's.
fn tasks(number: &str, own: u32) -> Option<u64> {
    let status = of_process(number, "status")?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
    (field("Uid:")?.parse() == Ok(own)).then_some(field("Threads:")?.parse().ok()?)
}

/// Bytes of memory that the processes of a group hold, those of files aside; none where that cannot be told.
pub fn memory_of(group: u32) -> Option<u64> {
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    let held = |number: &String| -> Option<u64> {
        // behind the name in brackets: state, parent, group
        let stat = of_process(number, "stat")?;
        let its_group = stat.rsplit_once(')')?.1.split_whitespace().nth(2)?;
        if its_group.parse() != Ok(group) {
            return None;
        }
        let sizes = of_process(number, "statm")?;
        let mut pages = sizes.split_whitespace().skip(1).map(str::parse::<u64>);
        Some(pages.next()?.ok()?.saturating_sub(pages.next()?.ok()?) * page as u64)
    };
    Some(processes().ok()?.iter().filter_map(held).sum())
}
