//! A disk that keeps no more than it must: a journal of what a program did to the file system, and every state that a power
//! cut may leave behind.
//!
//! The model is what POSIX promises and no more, after Pillai et al., "All file systems are not created equal" (OSDI 2014):
//!
//! - Bytes of a file survive if the file was synced after they were written. Of later bytes none, some, zeros in their place
//!   or all may be there.
//! - A name in a folder (new, renamed, removed) survives if the folder was synced afterwards. Later changes of names survive
//!   in any combination, whatever their order; a rename within a folder happens as a whole or not at all, one from folder to
//!   folder is a change of each.
//! - A folder whose own name is lost takes everything inside with it.

use mindgap_base::rng::Cursor;
use mindgap_store::fault::{Change, watched};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// A change to the file system, with paths relative to a root.
#[derive(Clone, Debug)]
pub enum Op {
    CreateDir(PathBuf),
    Create(PathBuf),
    Append(PathBuf, Vec<u8>),
    SyncFile(PathBuf),
    Rename(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    SyncDir(PathBuf),
    Remove(PathBuf),
}

/// Runs `work` and keeps what this thread does below `root`.
pub fn journal<T>(root: &Path, work: impl FnOnce() -> T) -> (T, Vec<Op>) {
    let ops = Rc::new(RefCell::new(Vec::new()));
    let (sink, root) = (ops.clone(), root.to_path_buf());
    let watcher = move |change: Change| {
        sink.borrow_mut().extend(op(&change, &root));
        Ok(())
    };
    let result = watched(watcher, work);
    let ops = ops.take();
    (result, ops)
}

fn op(change: &Change, root: &Path) -> Option<Op> {
    let inside = |path: &Path| path.strip_prefix(root).ok().map(Path::to_path_buf);
    Some(match change {
        Change::CreateDir(path) => Op::CreateDir(inside(path)?),
        Change::Create(path) => Op::Create(inside(path)?),
        Change::Append(path, bytes) => Op::Append(inside(path)?, bytes.to_vec()),
        Change::SyncFile(path) => Op::SyncFile(inside(path)?),
        Change::Rename { from, to } => Op::Rename(inside(from)?, inside(to)?),
        Change::Link { target, link } => Op::Link(target.to_path_buf(), inside(link)?),
        Change::SyncDir(path) => Op::SyncDir(inside(path)?),
        Change::Remove(path) => Op::Remove(inside(path)?),
    })
}

#[derive(Clone, Debug)]
enum Node {
    /// Names as programs see them, and as they are on the disk.
    Folder {
        names: BTreeMap<String, usize>,
        durable: BTreeMap<String, usize>,
    },
    File {
        bytes: Rc<Vec<u8>>,
        synced: usize,
    },
    Link(PathBuf),
}

/// Names that change together in one folder: all of them survive, or none.
#[derive(Clone, Debug)]
struct Pending {
    folder: usize,
    names: Vec<(String, Option<usize>)>,
    /// Nothing is decided from the run log and the lock files, so their states need no enumeration.
    minor: bool,
}

/// What survives of bytes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unsynced {
    Lost,
    Half,
    Zeros,
    Kept,
}

/// What is on a disk: paths to contents.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entry {
    Folder,
    File(Vec<u8>),
    Link(PathBuf),
}
pub type Tree = BTreeMap<PathBuf, Entry>;

/// A file system after some operations, some of them not durable yet.
#[derive(Clone, Debug)]
pub struct Disk {
    nodes: Vec<Node>,
    pending: Vec<Pending>,
}

impl Disk {
    /// An empty root folder.
    pub fn new() -> Disk {
        Disk { nodes: vec![empty_folder()], pending: Vec::new() }
    }

    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::CreateDir(path) => self.add(path, empty_folder()),
            // An existing file is opened, not made.
            Op::Create(path) if self.find(path).is_some() => {}
            Op::Create(path) => self.add(path, Node::File { bytes: Rc::default(), synced: 0 }),
            Op::Link(target, link) => self.add(link, Node::Link(target.clone())),
            Op::Append(path, more) => {
                let Node::File { bytes, .. } = self.node(path) else { panic!("{path:?} is no file") };
                Rc::make_mut(bytes).extend(more);
            }
            Op::SyncFile(path) => {
                let Node::File { bytes, synced } = self.node(path) else { panic!("{path:?} is no file") };
                *synced = bytes.len();
            }
            Op::Rename(from, to) => {
                let node = self.find(from).expect("what is renamed exists");
                if from.parent() == to.parent() {
                    self.change(from, vec![(name(from), None), (name(to), Some(node))]);
                } else {
                    self.change(to, vec![(name(to), Some(node))]);
                    self.change(from, vec![(name(from), None)]);
                }
            }
            Op::Remove(path) => self.change(path, vec![(name(path), None)]),
            Op::SyncDir(path) => self.sync_folder(path),
        }
    }

    fn add(&mut self, path: &Path, node: Node) {
        self.nodes.push(node);
        self.change(path, vec![(name(path), Some(self.nodes.len() - 1))]);
    }

    /// Changes names in the folder of `path`, not durably.
    fn change(&mut self, path: &Path, names: Vec<(String, Option<usize>)>) {
        let folder = self.find(path.parent().expect("not the root")).expect("the folder exists");
        let Node::Folder { names: seen, .. } = &mut self.nodes[folder] else { panic!("{path:?} is in no folder") };
        set(seen, &names);
        let minor = path.iter().any(|part| part == "runs" || part == "locks");
        self.pending.push(Pending { folder, names, minor });
    }

    fn sync_folder(&mut self, path: &Path) {
        let folder = self.find(path).expect("the folder exists");
        let Node::Folder { durable, .. } = &mut self.nodes[folder] else { panic!("{path:?} is no folder") };
        for change in self.pending.iter().filter(|change| change.folder == folder) {
            set(durable, &change.names);
        }
        self.pending.retain(|change| change.folder != folder);
    }

    fn find(&self, path: &Path) -> Option<usize> {
        path.iter().try_fold(0, |node, part| match &self.nodes[node] {
            Node::Folder { names, .. } => names.get(&*part.to_string_lossy()).copied(),
            _ => None,
        })
    }

    fn node(&mut self, path: &Path) -> &mut Node {
        let node = self.find(path).unwrap_or_else(|| panic!("{path:?} does not exist"));
        &mut self.nodes[node]
    }

    /// States that a power cut at this moment may leave: subsets of the changes that are not durable, and fates of bytes that
    /// were not synced. All of them where they are few, else the extremes and some at random.
    pub fn crashes(&self, random: &mut Cursor) -> Vec<Tree> {
        let major: Vec<usize> = (0..self.pending.len()).filter(|&i| !self.pending[i].minor).collect();
        let mut trees = Vec::new();
        for kept in subsets(&major, random) {
            for fate in [Unsynced::Lost, Unsynced::Half, Unsynced::Zeros, Unsynced::Kept] {
                let coin: Vec<bool> = self.pending.iter().map(|_| random.below(2) == 1).collect();
                let keeps = |i: usize| if self.pending[i].minor { coin[i] } else { kept.contains(&i) };
                trees.push(self.crash(keeps, fate));
            }
        }
        trees
    }

    /// What programs see now.
    pub fn now(&self) -> Tree {
        self.crash(|_| true, Unsynced::Kept)
    }

    /// The state in which nothing survives that need not.
    pub fn worst(&self) -> Tree {
        self.crash(|_| false, Unsynced::Lost)
    }

    fn crash(&self, keeps: impl Fn(usize) -> bool, fate: Unsynced) -> Tree {
        let mut folders: BTreeMap<usize, BTreeMap<String, usize>> = BTreeMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            if let Node::Folder { durable, .. } = node {
                folders.insert(index, durable.clone());
            }
        }
        for (_, change) in self.pending.iter().enumerate().filter(|(i, _)| keeps(*i)) {
            set(folders.get_mut(&change.folder).expect("a folder"), &change.names);
        }
        let mut tree = Tree::new();
        let mut open = vec![(PathBuf::new(), 0)];
        while let Some((path, node)) = open.pop() {
            let entry = match &self.nodes[node] {
                Node::Folder { .. } => {
                    open.extend(folders[&node].iter().map(|(name, &child)| (path.join(name), child)));
                    Entry::Folder
                }
                Node::File { bytes, synced } => Entry::File(surviving(bytes, *synced, fate)),
                Node::Link(target) => Entry::Link(target.clone()),
            };
            tree.insert(path, entry);
        }
        tree
    }
}

fn empty_folder() -> Node {
    Node::Folder { names: BTreeMap::new(), durable: BTreeMap::new() }
}

fn name(path: &Path) -> String {
    path.file_name().expect("a path with a name").to_string_lossy().into_owned()
}

fn set(names: &mut BTreeMap<String, usize>, changes: &[(String, Option<usize>)]) {
    for (name, node) in changes {
        match node {
            Some(node) => drop(names.insert(name.clone(), *node)),
            None => drop(names.remove(name)),
        }
    }
}

fn surviving(bytes: &[u8], synced: usize, fate: Unsynced) -> Vec<u8> {
    match fate {
        Unsynced::Lost => bytes[..synced].to_vec(),
        Unsynced::Half => bytes[..synced + (bytes.len() - synced) / 2].to_vec(),
        Unsynced::Zeros => [&bytes[..synced], &vec![0; bytes.len() - synced]].concat(),
        Unsynced::Kept => bytes.to_vec(),
    }
}

/// Up to four items: every subset. More: none, all, each alone, all but each, and eight at random.
fn subsets(items: &[usize], random: &mut Cursor) -> BTreeSet<BTreeSet<usize>> {
    if items.len() <= 4 {
        let chosen =
            |mask: u32| items.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1).map(|(_, &item)| item).collect();
        return (0..1 << items.len()).map(chosen).collect();
    }
    let all: BTreeSet<usize> = items.iter().copied().collect();
    let mut subsets = BTreeSet::from([BTreeSet::new(), all.clone()]);
    for &item in items {
        subsets.insert(BTreeSet::from([item]));
        subsets.insert(all.iter().copied().filter(|&other| other != item).collect());
    }
    for _ in 0..8 {
        subsets.insert(items.iter().copied().filter(|_| random.below(2) == 1).collect());
    }
    subsets
}

/// Writes a tree below `root`, which exists.
pub fn write(tree: &Tree, root: &Path) {
    for (path, entry) in tree.iter().filter(|(path, _)| !path.as_os_str().is_empty()) {
        let path = root.join(path);
        match entry {
            Entry::Folder => std::fs::create_dir(&path).unwrap(),
            Entry::File(bytes) => std::fs::write(&path, bytes).unwrap(),
            Entry::Link(target) => std::os::unix::fs::symlink(target, &path).unwrap(),
        }
    }
}

/// What counts of a store: neither the run log, nor locks, nor what is not finished.
pub fn essence(tree: &Tree) -> Tree {
    let minor = |part: &std::ffi::OsStr| {
        part == "runs" || part == "locks" || part.to_string_lossy().starts_with(mindgap_store::fs::TEMP_PREFIX)
    };
    let kept = tree.iter().filter(|(path, _)| !path.iter().any(minor));
    kept.map(|(path, entry)| (path.clone(), entry.clone())).collect()
}

/// Reads what is below `root`.
pub fn read(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut open = vec![PathBuf::new()];
    while let Some(path) = open.pop() {
        let full = root.join(&path);
        let kind = std::fs::symlink_metadata(&full).unwrap().file_type();
        let entry = if kind.is_dir() {
            open.extend(std::fs::read_dir(&full).unwrap().map(|e| path.join(e.unwrap().file_name())));
            Entry::Folder
        } else if kind.is_symlink() {
            Entry::Link(std::fs::read_link(&full).unwrap())
        } else {
            Entry::File(std::fs::read(&full).unwrap())
        };
        tree.insert(path, entry);
    }
    tree
}
