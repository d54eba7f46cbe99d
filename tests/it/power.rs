//! Power cuts, full disks and folders that refuse: whatever the moment, nothing reads as complete that isn't, and the next run
//! ends as an undisturbed one.

use crate::disk::{Disk, Entry, Op, Tree, essence, journal, read, write};
use crate::support::{TINY, by_stage, fails, json, ok, pipeline, plan_here, run_here, scratch, summary};
use mindgap_base::address::Address;
use mindgap_base::rng::Stream;
use mindgap_store::fault::{Change, watched};
use mindgap_store::{Manifest, PartRecord, Rules, Store};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A run nobody disturbed: what it did and what it left. The store is the folder `store` below the root.
struct Whole {
    file: PathBuf,
    ops: Vec<Op>,
    tree: Tree,
    addresses: Vec<(String, String)>,
    parts: usize,
    /// Paths of all finished views.
    views: Vec<PathBuf>,
}

fn whole(folder: &Path) -> Whole {
    let file = pipeline(folder, "p.toml", TINY);
    let root = folder.join("whole");
    std::fs::create_dir(&root).unwrap();
    let (outcomes, ops) = journal(&root, || run_here(&root.join("store"), &file).unwrap());
    let (addresses, parts) = summary(&outcomes);
    let views = addresses.iter().map(|(stage, _)| Path::new("store/tables/tiny").join(stage)).collect();
    Whole { file, ops, tree: essence(&read(&root)), addresses, parts, views }
}

/// Finished parts by fingerprint: records that parse, each of whose objects is there and hashes to its name.
fn finished(tree: &Tree) -> BTreeSet<String> {
    let tree = essence(tree);
    let records = tree.iter().filter(|(path, _)| path.starts_with("store/memo") && !path.ends_with("recipe.json"));
    let parsed = records.filter_map(|(_, entry)| match entry {
        Entry::File(bytes) => serde_json::from_slice::<PartRecord>(bytes).ok(),
        _ => None,
    });
    parsed
        .filter(|record| record.objects().all(|(address, _)| object(&tree, address)))
        .map(|r| r.fingerprint.to_string())
        .collect()
}

fn object(tree: &Tree, address: &Address) -> bool {
    let path = Path::new("store/objects").join(&address.as_str()[..2]).join(address.as_str());
    matches!(tree.get(&path), Some(Entry::File(bytes)) if Address::of(bytes) == *address)
}

/// What reads as complete and isn't: a part record must have its objects, a pointer its manifest, a view all its files.
fn lie(tree: &Tree, whole: &Whole) -> Option<String> {
    for (path, entry) in &essence(tree) {
        let Entry::File(bytes) = entry else { continue };
        if path.starts_with("store/objects") && Address::of(bytes).as_str() != path.file_name()? {
            return Some(format!("{path:?} is not the object it says"));
        }
        // What a journal holds depends on when samples came; whoever reads it checks every frame.
        if !path.starts_with("store/journals") && whole.tree.get(path) != Some(entry) {
            return Some(format!("{path:?} is not what the undisturbed run wrote"));
        }
    }
    for view in &whole.views {
        let Some(Entry::Link(target)) = tree.get(view) else { continue };
        let folder = Path::new("store").join(target.strip_prefix("../..").unwrap());
        for (path, entry) in whole.tree.range(folder.clone()..).take_while(|(path, _)| path.starts_with(&folder)) {
            if tree.get(path) != Some(entry) {
                return Some(format!("{} lacks {path:?}", view.display()));
            }
            if let Entry::Link(object) = entry
                && !self::object(tree, &Address::parse(&object.file_name()?.to_string_lossy())?)
            {
                return Some(format!("{path:?} leads nowhere"));
            }
        }
    }
    None
}

/// Opens the store in this state and runs the pipeline: it must end as the undisturbed run did, without computing any finished
/// part again.
fn assert_recovers(tree: &Tree, whole: &Whole, root: &Path) {
    std::fs::create_dir(root).unwrap();
    write(tree, root);
    let before = finished(tree).len();
    let outcomes = run_here(&root.join("store"), &whole.file).unwrap_or_else(|e| panic!("the next run fails: {e}"));
    let (addresses, computed) = summary(&outcomes);
    assert_eq!(addresses, whole.addresses);
    assert_eq!(before + computed, whole.parts, "a finished part was computed again, or one was taken for finished");
    let checked = Store::open(root.join("store")).unwrap().check(&|_, _| ()).unwrap();
    assert!(checked.findings.is_empty(), "{:?}", checked.findings);
    let after = essence(&read(root));
    assert!(whole.tree.iter().all(|(path, entry)| after.get(path) == Some(entry)), "the store is not whole again");
    std::fs::remove_dir_all(root).unwrap();
}

/// Checks states on all cores.
fn for_all(states: Vec<Tree>, whole: &Whole, folder: &Path) {
    let queue = Mutex::new(states.into_iter().enumerate());
    // What a worker needs of `whole` is plain data; the journal stays here.
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some((index, tree)) = queue.lock().unwrap().next() else { return };
                    assert_eq!(lie(&tree, whole), None);
                    assert_recovers(&tree, whole, &folder.join(format!("state-{index}")));
                }
            });
        }
    });
}

/// Goal: the power fails at any moment of a run.
#[test]
fn power_fails_at_any_moment() {
    let folder = scratch();
    let whole = whole(folder.path());
    let mut random = Stream::at(1, &[b"power"]).cursor();
    let (mut disk, mut seen, mut states) = (Disk::new(), BTreeSet::new(), Vec::new());
    for op in &whole.ops {
        disk.apply(op);
        for tree in disk.crashes(&mut random) {
            if seen.insert(essence(&tree)) {
                states.push(tree);
            }
        }
    }
    eprintln!("{} operations, {} states", whole.ops.len(), states.len());
    for_all(states, &whole, folder.path());
}

/// Goal: the simulation can fail. A writer that leaves out one kind of sync leaves a state that lies.
#[test]
fn a_careless_writer_is_caught() {
    let folder = scratch();
    let whole = whole(folder.path());
    for what in ["files", "folders of objects", "views"] {
        let left_out = |op: &&Op| match op {
            Op::SyncFile(_) => what == "files",
            Op::SyncDir(path) if path.starts_with("store/objects") => what == "folders of objects",
            Op::SyncDir(path) if path.starts_with("store/views") => what == "views",
            _ => false,
        };
        let ops: Vec<Op> = whole.ops.iter().filter(|op| !left_out(op)).cloned().collect();
        assert!(ops.len() < whole.ops.len());
        let mut random = Stream::at(1, &[b"careless"]).cursor();
        let mut disk = Disk::new();
        let caught = ops.iter().any(|op| {
            disk.apply(op);
            disk.crashes(&mut random).iter().any(|tree| lie(tree, &whole).is_some())
        });
        assert!(caught, "nobody notices that {what} are not synced");
    }
}

/// Goal: what the run log calls a finished part is durable by then, and a finished run is wholly so: the most forgetful disk
/// keeps them.
#[test]
fn what_was_reported_survives() {
    let folder = scratch();
    let whole = whole(folder.path());
    let (mut disk, mut reported) = (Disk::new(), 0);
    for op in &whole.ops {
        disk.apply(op);
        if matches!(op, Op::Append(path, line) if path.starts_with("store/runs") && String::from_utf8_lossy(line).contains("\"event\":\"part\""))
        {
            reported += 1;
            assert_eq!(finished(&disk.worst()).len(), reported);
        }
    }
    assert_eq!(reported, whole.parts);
    assert_eq!(essence(&disk.worst()), whole.tree);
}

/// Goal: a run is killed, another takes over what the first left without having synced it, and after that the power fails.
#[test]
fn power_fails_after_a_kill() {
    let folder = scratch();
    let whole = whole(folder.path());
    let mut random = Stream::at(2, &[b"power"]).cursor();
    for round in 0..12 {
        let killed_at = random.below(whole.ops.len() as u64) as usize;
        let mut disk = Disk::new();
        whole.ops[..killed_at].iter().for_each(|op| disk.apply(op));
        // A kill loses nothing that the kernel has.
        let root = folder.path().join(format!("killed-{round}"));
        std::fs::create_dir(&root).unwrap();
        write(&disk.now(), &root);
        let (outcomes, ops) = journal(&root, || run_here(&root.join("store"), &whole.file).unwrap());
        assert_eq!(summary(&outcomes).0, whole.addresses);
        let cut_at = random.below(ops.len() as u64 + 1) as usize;
        let mut states = Vec::new();
        for (index, op) in ops.iter().enumerate() {
            if index == cut_at {
                states.extend(disk.crashes(&mut random).into_iter().take(8));
            }
            disk.apply(op);
        }
        let rest = essence(&disk.worst());
        assert!(
            whole.tree.iter().all(|(path, entry)| rest.get(path) == Some(entry)),
            "killed after {killed_at} operations"
        );
        for_all(states, &whole, &root);
        std::fs::remove_dir_all(&root).unwrap();
    }
}

/// Goal: the disk is full, read only or closed to us from some change on: a clear error that says what to do, nothing half
/// done is left, and once the cause is gone the run goes on with nothing finished computed again.
#[test]
fn a_disk_that_refuses() {
    let folder = scratch();
    let whole = whole(folder.path());
    // ENOSPC, EROFS and EACCES of Linux.
    let cases = [
        (28, "free some space and run the same command again"),
        (30, "choose a writable store"),
        (13, "check who owns the folder"),
    ];
    for (index, from) in (0..whole.ops.len()).step_by(17).enumerate() {
        let (code, hint) = cases[index % cases.len()];
        let root = folder.path().join(format!("refused-{from}"));
        std::fs::create_dir(&root).unwrap();
        let changes = Arc::new(AtomicUsize::new(0));
        let counted = changes.clone();
        let refuse = move |_: Change| match counted.fetch_add(1, Ordering::SeqCst) < from {
            true => Ok(()),
            false => Err(std::io::Error::from_raw_os_error(code)),
        };
        let result = watched(refuse, || run_here(&root.join("store"), &whole.file));
        if changes.load(Ordering::SeqCst) <= from {
            // A run that wrote its journals in fewer pieces than the first one ended before the disk refused.
            assert!(from > whole.ops.len() * 9 / 10, "{from} of {} changes", whole.ops.len());
            assert_eq!(summary(&result.unwrap()).0, whole.addresses);
            continue;
        }
        let error = result.expect_err("the disk refuses");
        assert_eq!(error.kind().exit_code(), 4, "{error}");
        assert!(error.remedy().is_some_and(|said| said.contains(hint)), "refused change {from}: {error}");
        assert!(error.place().is_some_and(|place| place.starts_with('/')), "the error names no path: {error}");
        let left = read(&root);
        assert_eq!(lie(&left, &whole), None);
        let before = finished(&left).len();
        let (addresses, computed) = summary(&run_here(&root.join("store"), &whole.file).unwrap());
        assert_eq!(addresses, whole.addresses);
        assert_eq!(before + computed, whole.parts, "a finished part was computed again");
        std::fs::remove_dir_all(&root).unwrap();
    }
}

/// Goal: the same on a real disk of two megabytes, where mounting is allowed.
#[test]
fn a_full_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mount = folder.path().join("mount");
    std::fs::create_dir(&mount).unwrap();
    if !mounted(&["-t", "tmpfs", "-o", "size=2m", "mindgap-test"], &mount) {
        eprintln!("skipped: no file system can be mounted here");
        return;
    }
    let file = pipeline(folder.path(), "p.toml", TINY);
    let (file, store) = (file.to_str().unwrap(), mount.join("store"));
    let blocker = mount.join("blocker");
    std::fs::write(&blocker, vec![1; 3 << 19]).unwrap();
    let checked = std::panic::catch_unwind(|| {
        let stderr = fails(&store, &["run", file], 4);
        assert!(stderr.contains("No space left on device") && stderr.contains("free some space"), "{stderr}");
        let before = finished(&essence(&read(&mount))).len();
        assert!(before > 0, "it was full from the start");
        std::fs::remove_file(&blocker).unwrap();
        let done = json(&ok(&store, &["run", file, "--json"]));
        let computed: u64 = by_stage(&done, "computed_parts").iter().filter_map(|(_, parts)| parts.as_u64()).sum();
        assert_eq!(before as u64 + computed, finished(&read(&mount)).len() as u64);
    });
    assert!(unmounted(&mount), "the test disk stays mounted");
    checked.unwrap();
}

/// Goal: readers change nothing, so that a store on a read-only disk can be looked into.
#[test]
fn readers_change_nothing() {
    let folder = scratch();
    let whole = whole(folder.path());
    let store = folder.path().join("whole/store");
    let (plans, ops) = journal(folder.path(), || plan_here(&store, &whole.file));
    assert!(plans.iter().all(|plan| plan.parts_miss == 0));
    assert!(ops.is_empty(), "{ops:?}");
    let (_, ops) = journal(folder.path(), || {
        let store = Store::look(&store).unwrap();
        assert_eq!(store.check(&|_, _| ()).unwrap().findings, []);
        store.collect_garbage(&Rules { forget: Vec::new(), keep: Duration::ZERO }, false).unwrap()
    });
    assert!(ops.is_empty(), "{ops:?}");
    let nowhere = folder.path().join("nowhere");
    Store::look(&nowhere).unwrap();
    assert!(!nowhere.exists(), "a look makes no store");
}

/// Goal: on a disk that is really read-only, where mounting is allowed, all that only looks works, and what writes says what to do.
#[test]
fn a_read_only_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mount = folder.path().join("mount");
    std::fs::create_dir(&mount).unwrap();
    if !mounted(&["-t", "tmpfs", "-o", "size=64m", "mindgap-test"], &mount) {
        eprintln!("skipped: no file system can be mounted here");
        return;
    }
    let file = pipeline(folder.path(), "p.toml", TINY);
    let (file, store) = (file.to_str().unwrap(), mount.join("store"));
    let checked = std::panic::catch_unwind(|| {
        ok(&store, &["run", file]);
        assert!(mounted(&["-o", "remount,ro"], &mount));
        let plan = json(&ok(&store, &["plan", file, "--json"]));
        assert!(by_stage(&plan, "parts_miss").iter().all(|(_, parts)| *parts == 0), "{plan}");
        let id = json(ok(&store, &["show", file, "problems", "--limit", "1", "--json"]).lines().next().unwrap());
        ok(&store, &["show", file, "rewrites", "--row", id["problem_id"].as_str().unwrap()]);
        for command in [&["status", file][..], &["log"], &["check"], &["path", file, "rewrites"], &["gc"]] {
            ok(&store, command);
        }
        ok(&store, &["report", file, "--markdown"]);
        ok(&store, &["gc", "--forget", "tiny", "--keep-days", "0"]);
        for command in [&["run", file][..], &["gc", "--forget", "tiny", "--keep-days", "0", "--delete"]] {
            let said = fails(&store, command, 4);
            assert!(said.contains("choose a writable store"), "{said}");
        }
    });
    assert!(unmounted(&mount), "the test disk stays mounted");
    checked.unwrap();
}

/// `mount` with these arguments.
fn mounted(args: &[&str], folder: &Path) -> bool {
    let status = std::process::Command::new("mount").args(args).arg(folder).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

fn unmounted(folder: &Path) -> bool {
    std::process::Command::new("umount").arg(folder).status().is_ok_and(|status| status.success())
}

/// Goal: records, recipes, pointers and manifests that a careless disk left empty, cut or full of zeros count as absent: the next
/// run makes them again and is not held up.
#[test]
fn spoiled_bookkeeping_is_made_again() {
    let folder = scratch();
    let whole = whole(folder.path());
    let small = |path: &Path| {
        let manifest = |bytes: &[u8]| serde_json::from_slice::<Manifest>(bytes).is_ok();
        matches!(whole.tree.get(path), Some(Entry::File(bytes)) if manifest(bytes) || !path.starts_with("store/objects"))
    };
    let spoil = |bytes: &[u8], how: usize| match how {
        0 => Vec::new(),
        1 => bytes[..bytes.len() / 2].to_vec(),
        2 => vec![0; bytes.len()],
        _ => [b"x", &bytes[1..]].concat(),
    };
    let mut states = Vec::new();
    for (index, path) in whole.tree.keys().filter(|path| small(path)).enumerate() {
        let mut tree = whole.tree.clone();
        let Some(Entry::File(bytes)) = tree.get_mut(path) else { unreachable!("filtered") };
        *bytes = spoil(bytes, index % 4);
        states.push(tree);
    }
    assert!(states.len() > 20, "{} files spoiled", states.len());
    for (index, tree) in states.iter().enumerate() {
        assert_recovers(tree, &whole, &folder.path().join(format!("spoiled-{index}")));
    }
}
