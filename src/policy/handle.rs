//! Where a policy's files are, whoever made them.

use super::{Launched, Served};
use mindgap_base::address::Address;
use mindgap_base::error::{Error, Result};
use mindgap_lm::model::held::Held;
use mindgap_lm::model::policy::PolicyFiles;
use mindgap_store::{Store, fs};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where a policy's files are, and the servers that run it if some do. Reading a file verifies its hash.
#[derive(Clone, Debug)]
pub struct PolicyHandle {
    /// Name in the pipeline.
    pub name: String,
    files: BTreeMap<String, Address>,
    place: Place,
    /// What the weights of a GGUF file are.
    quantisation: Option<String>,
    /// What it is to be held in.
    held: Held,
    runs: Runs,
}

/// Who runs a policy while it samples and scores.
#[derive(Clone, Debug)]
pub enum Runs {
    /// The engine of this process.
    Here,
    /// Servers that somebody keeps; the files here are its tokenizer's.
    Served(Served),
    /// A server program, started for these files.
    Launched(Launched),
}

/// Where the files lie.
#[derive(Clone, Debug)]
enum Place {
    /// By name, in a folder of the user's.
    Folder(PathBuf),
    /// Each somewhere.
    Paths(BTreeMap<String, PathBuf>),
    /// By address, in the store.
    Objects(Store),
}

impl Runs {
    /// What results depend on, by name, beside the files.
    fn identity(&self) -> Vec<(&str, String)> {
        match self {
            Runs::Here => Vec::new(),
            Runs::Served(served) => served.identity(),
            Runs::Launched(launched) => launched.identity(),
        }
    }
}

impl PolicyHandle {
    /// A Hugging Face folder. `relevant` picks the files that make the policy what it is; of these, one that repeats what another
    /// says is left out.
    pub fn of_folder(name: &str, folder: &Path, relevant: impl Fn(&str) -> bool) -> Result<PolicyHandle> {
        if !fs::is_dir(&format!("open folder of policy `{name}`"), folder)? {
            return Err(Error::input("policy is not a folder").at(folder.display().to_string()).hint(
                "a policy is a Hugging Face folder: config.json, tokenizer.json, tokenizer_config.json, *.safetensors",
            ));
        }
        let mut files = BTreeMap::new();
        for file in fs::list(folder)?.into_iter().filter(|file| relevant(file)) {
            let address = fs::address(&folder.join(&file))?;
            files.insert(file, address);
        }
        let (supplement, known) = PolicyFiles::SUPPLEMENT;
        if files.contains_key(supplement) {
            let known = fs::read_if_present(&folder.join(known))?;
            let says_more = PolicyFiles::is_supplemented(&fs::read(&folder.join(supplement))?, known.as_deref());
            if !says_more.map_err(|e| e.at(folder.display().to_string()))? {
                files.remove(supplement);
            }
        }
        let place = Place::Folder(folder.to_path_buf());
        Ok(PolicyHandle {
            name: name.to_string(),
            files,
            place,
            quantisation: None,
            held: Held::default(),
            runs: Runs::Here,
        })
    }

    /// A GGUF file and the files of another tokenizer, by the names that a policy's files have; what the weights are is said
    /// for people.
    pub fn of_gguf(name: &str, paths: BTreeMap<String, PathBuf>, quantisation: String) -> Result<PolicyHandle> {
        let address = |(file, path): (&String, &PathBuf)| Ok((file.clone(), fs::address(path)?));
        let files = paths.iter().map(address).collect::<Result<_>>()?;
        let (quantisation, place) = (Some(quantisation), Place::Paths(paths));
        Ok(PolicyHandle { name: name.to_string(), files, place, quantisation, held: Held::default(), runs: Runs::Here })
    }

    /// The output of a train stage.
    pub fn of_objects(name: &str, store: &Store, files: BTreeMap<String, (Address, u64)>) -> PolicyHandle {
        let files = files.into_iter().map(|(file, (address, _))| (file, address)).collect();
        let place = Place::Objects(store.clone());
        PolicyHandle {
            name: name.to_string(),
            files,
            place,
            quantisation: None,
            held: Held::default(),
            runs: Runs::Here,
        }
    }

    /// The same policy run by somebody else.
    pub fn run_by(self, runs: Runs) -> PolicyHandle {
        PolicyHandle { runs, ..self }
    }

    /// The same policy held so while it samples and scores.
    pub fn held_in(self, held: Held) -> PolicyHandle {
        PolicyHandle { held, ..self }
    }

    /// What it is to be held in.
    pub fn held(&self) -> Held {
        self.held
    }

    /// Who runs it.
    pub fn runs(&self) -> &Runs {
        &self.runs
    }

    /// The engine of this process runs it.
    pub fn runs_here(&self) -> bool {
        matches!(self.runs, Runs::Here)
    }

    /// Address of every file by name, and what servers serve: what a result made with this policy depends on.
    pub fn digest(&self) -> BTreeMap<&str, String> {
        let files = self.files.iter().map(|(file, address)| (file.as_str(), address.to_string()));
        let quantisation = self.quantisation.iter().map(|kind| ("quantisation", kind.clone()));
        // Said only where it may change what is drawn.
        let held = self.held.said().map(|(what, kind)| (what, kind.to_string()));
        files.chain(quantisation).chain(held).chain(self.runs.identity()).collect()
    }

    /// A folder with all files, for programs that want one: the user's own, checked again, or one of links.
    pub fn folder(&self) -> Result<PathBuf> {
        match &self.place {
            Place::Folder(folder) => {
                for (file, address) in &self.files {
                    let path = folder.join(file);
                    if fs::address(&path)? != *address {
                        return Err(changed(&path));
                    }
                }
                std::path::absolute(folder).map_err(|e| fs::error("find", folder, e))
            }
            Place::Objects(store) => {
                let name = Address::of(format!("{:?}", self.files).as_bytes());
                let folder = store.lay_out(&format!("policy-{}", name.short()), &self.files)?;
                std::path::absolute(&folder).map_err(|e| fs::error("find", &folder, e))
            }
            Place::Paths(_) => Err(Error::usage(format!("policy `{}` is no folder", self.name))
                .hint("a GGUF file runs in this process alone: leave `engine` out")),
        }
    }

    /// The same without the weights: what a result depends on that only tokenizes.
    pub fn tokenizer_digest(&self) -> BTreeMap<&str, String> {
        let files = self.files.iter().filter(|(file, _)| !file.contains("safetensors"));
        files.map(|(file, address)| (file.as_str(), address.to_string())).collect()
    }

    pub fn file_names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Reads one file, verified.
    pub fn read(&self, file: &str) -> Result<Vec<u8>> {
        let address = self.find(file)?;
        match self.path(file) {
            Ok(path) => verified(fs::read(&path)?, address, &path),
            Err(store) => store.get(address),
        }
    }

    /// What its makers recommend for sampling, where they do.
    pub fn generation_config(&self) -> Result<Option<serde_json::Map<String, serde_json::Value>>> {
        match self.files.contains_key("generation_config.json") {
            true => Ok(serde_json::from_slice(&self.read("generation_config.json")?).ok()),
            false => Ok(None),
        }
    }

    /// Maps one file, verified: weights, which would otherwise be in memory twice.
    pub fn map(&self, file: &str) -> Result<memmap2::Mmap> {
        let address = self.find(file)?;
        match self.path(file) {
            Ok(path) => verified(fs::map(&path)?, address, &path),
            Err(store) => store.map(address),
        }
    }

    /// Where a file of the user's lies, or the store that has it.
    fn path(&self, file: &str) -> std::result::Result<PathBuf, &Store> {
        match &self.place {
            Place::Folder(folder) => Ok(folder.join(file)),
            Place::Paths(paths) => Ok(paths.get(file).cloned().unwrap_or_default()),
            Place::Objects(store) => Err(store),
        }
    }

    fn find(&self, file: &str) -> Result<&Address> {
        self.files.get(file).ok_or_else(|| {
            Error::input(format!("policy `{}` has no file `{file}`", self.name))
                .hint("is it a complete checkpoint folder?")
        })
    }
}

/// The bytes of a file in a user's folder, if they are still those that were hashed when the run began.
fn verified<B: AsRef<[u8]>>(bytes: B, address: &Address, path: &Path) -> Result<B> {
    if Address::of(bytes.as_ref()) == *address {
        return Ok(bytes);
    }
    Err(changed(path))
}

fn changed(path: &Path) -> Error {
    let error = Error::input("policy file changed while it was in use").at(path.display().to_string());
    error.hint("run again: the policy is then read as it is now")
}
