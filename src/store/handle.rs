//! Read handles: what a stage gets to see of a table or a policy.

use super::{PartRef, Served, Store, fs};
use crate::base::address::Address;
use crate::base::error::{Error, Result};
use crate::table::Row;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::path::PathBuf;

/// A finished table, read part by part; each part is verified when read.
#[derive(Clone)]
pub struct Table<R> {
    store: Store,
    parts: Vec<PartRef>,
    /// Parts that hold rows, if both ends of their key ranges go up: then a range is found by bisection.
    ascending: Option<Vec<u32>>,
    rows: PhantomData<R>,
}

impl<R: Row> Table<R> {
    pub fn new(store: &Store, parts: Vec<PartRef>) -> Table<R> {
        let filled: Vec<u32> = (0..parts.len() as u32).filter(|&i| parts[i as usize].rows > 0).collect();
        let go_up = |pair: &[u32]| {
            let (a, b) = (&parts[pair[0] as usize], &parts[pair[1] as usize]);
            a.first <= b.first && a.last <= b.last
        };
        let ascending = filled.windows(2).all(go_up).then_some(filled);
        Table { store: store.clone(), parts, ascending, rows: PhantomData }
    }

    pub fn parts(&self) -> &[PartRef] {
        &self.parts
    }

    pub fn read(&self, part: &PartRef) -> Result<Vec<R>> {
        self.store.read_part(part)
    }

    /// Some columns of all parts, as rows of a type with just these fields: what a join needs without the rest.
    pub fn select<T: DeserializeOwned>(&self, columns: &[&str]) -> Result<Vec<T>> {
        let mut rows = Vec::new();
        for part in &self.parts {
            rows.extend(self.store.read_columns::<R, T>(part, columns)?);
        }
        Ok(rows)
    }

    pub fn read_all(&self) -> Result<Vec<R>> {
        self.store.read_rows(&self.parts)
    }

    /// The parts whose key range meets `first..=last`.
    pub fn overlapping(&self, first: &str, last: &str) -> Table<R> {
        let meets = |part: &&PartRef| part.rows > 0 && part.first.as_str() <= last && part.last.as_str() >= first;
        let parts = match &self.ascending {
            None => self.parts.iter().filter(meets).cloned().collect(),
            Some(filled) => {
                let part = |index: &u32| &self.parts[*index as usize];
                let from = filled.partition_point(|index| part(index).last.as_str() < first);
                filled[from..].iter().map(part).take_while(meets).cloned().collect()
            }
        };
        Table::new(&self.store, parts)
    }

    /// One part as a table.
    pub fn part(&self, part: &PartRef) -> Table<R> {
        Table::new(&self.store, vec![part.clone()])
    }

    /// Content addresses of all parts: what a consumer of the whole table depends on.
    pub fn contents(&self) -> Vec<&Address> {
        self.parts.iter().map(|part| &part.content).collect()
    }
}

/// Where a policy's files are, and the servers that run it if some do. Reading a file verifies its hash.
#[derive(Clone, Debug)]
pub struct PolicyHandle {
    /// Name in the pipeline.
    pub name: String,
    files: BTreeMap<String, (Address, PathBuf)>,
    served: Option<Served>,
}

impl PolicyHandle {
    /// A Hugging Face folder. `relevant` picks the files that make the policy what it is.
    pub fn of_folder(name: &str, folder: &std::path::Path, relevant: impl Fn(&str) -> bool) -> Result<PolicyHandle> {
        if !fs::is_dir(&format!("open folder of policy `{name}`"), folder)? {
            return Err(Error::input("policy is not a folder").at(folder.display().to_string()).hint(
                "a policy is a Hugging Face folder: config.json, tokenizer.json, tokenizer_config.json, *.safetensors",
            ));
        }
        let mut files = BTreeMap::new();
        for file in fs::list(folder)?.into_iter().filter(|file| relevant(file)) {
            let path = folder.join(&file);
            files.insert(file, (fs::address(&path)?, path));
        }
        Ok(PolicyHandle { name: name.to_string(), files, served: None })
    }

    /// The output of a train stage.
    pub fn of_objects(name: &str, store: &Store, files: BTreeMap<String, (Address, u64)>) -> PolicyHandle {
        let located = |(file, (address, _)): (String, (Address, u64))| {
            let path = store.object_path(&address);
            (file, (address, path))
        };
        PolicyHandle { name: name.to_string(), files: files.into_iter().map(located).collect(), served: None }
    }

    /// The policy whose weights servers hold; the files here are its tokenizer's.
    pub fn served_by(self, served: Served) -> PolicyHandle {
        PolicyHandle { served: Some(served), ..self }
    }

    /// The servers that run it, where it does not run here.
    pub fn served(&self) -> Option<&Served> {
        self.served.as_ref()
    }

    /// Address of every file by name, and what servers serve: what a result made with this policy depends on.
    pub fn digest(&self) -> BTreeMap<&str, String> {
        let files = self.files.iter().map(|(file, (address, _))| (file.as_str(), address.to_string()));
        files.chain(self.served.iter().flat_map(Served::identity)).collect()
    }

    /// The same without the weights: what a result depends on that only tokenizes.
    pub fn tokenizer_digest(&self) -> BTreeMap<&str, String> {
        let files = self.files.iter().filter(|(file, _)| !file.contains("safetensors"));
        files.map(|(file, (address, _))| (file.as_str(), address.to_string())).collect()
    }

    pub fn file_names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Reads one file, verified.
    pub fn read(&self, file: &str) -> Result<Vec<u8>> {
        let (address, path) = self.find(file)?;
        let bytes = fs::read(path)?;
        verify(&bytes, address, path)?;
        Ok(bytes)
    }

    /// Maps one file, verified: weights, which would otherwise be in memory twice.
    pub fn map(&self, file: &str) -> Result<memmap2::Mmap> {
        let (address, path) = self.find(file)?;
        let map = fs::map(path)?;
        verify(&map, address, path)?;
        Ok(map)
    }

    fn find(&self, file: &str) -> Result<&(Address, PathBuf)> {
        self.files.get(file).ok_or_else(|| {
            Error::input(format!("policy `{}` has no file `{file}`", self.name))
                .hint("is it a complete checkpoint folder?")
        })
    }
}

fn verify(bytes: &[u8], address: &Address, path: &std::path::Path) -> Result<()> {
    if Address::of(bytes) == *address {
        return Ok(());
    }
    let error = Error::input("policy file changed or is damaged").at(path.display().to_string());
    Err(error.hint("run again: a damaged object of the store is made anew"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::problems::Problem;

    fn part(first: &str, last: &str, rows: u64) -> PartRef {
        let nothing = Address::of(b"");
        PartRef {
            address: nothing.clone(),
            content: nothing,
            rows,
            bytes: 0,
            first: first.into(),
            last: last.into(),
            counts: BTreeMap::new(),
        }
    }

    /// Goal: bisection finds what looking at every part finds.
    #[test]
    fn overlapping_parts_are_found_by_bisection() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        // Two ranges of samples per range of problems, an empty part between.
        let ranges = [("b", "d"), ("b", "d"), ("", ""), ("f", "f"), ("f", "f"), ("h", "k")];
        let parts: Vec<PartRef> = ranges.iter().map(|(a, b)| part(a, b, u64::from(!a.is_empty()))).collect();
        let table: Table<Problem> = Table::new(&store, parts.clone());
        assert!(table.ascending.is_some());
        let unsorted: Table<Problem> = Table { ascending: None, ..table.clone() };
        let ends = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "k", "l"];
        for (index, first) in ends.iter().enumerate() {
            for last in &ends[index..] {
                assert_eq!(
                    table.overlapping(first, last).parts(),
                    unsorted.overlapping(first, last).parts(),
                    "{first}..{last}"
                );
            }
        }
        assert_eq!(table.overlapping("c", "g").parts().len(), 4);
        let mixed: Table<Problem> = Table::new(&store, vec![part("f", "g", 1), part("a", "b", 1)]);
        assert!(mixed.ascending.is_none());
    }
}
