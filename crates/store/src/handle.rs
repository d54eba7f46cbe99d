//! Read handles: what a stage gets to see of a table.

use super::{PartRef, Store};
use crate::table::Row;
use mindgap_base::address::Address;
use mindgap_base::error::Result;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;

/// Parts of a table, found by the range of their first key column.
#[derive(Clone)]
pub struct Parts {
    parts: Vec<PartRef>,
    /// Parts that hold rows, if both ends of their key ranges go up: then a range is found by bisection.
    ascending: Option<Vec<u32>>,
}

impl Parts {
    pub fn new(parts: Vec<PartRef>) -> Parts {
        let filled: Vec<u32> = (0..parts.len() as u32).filter(|&i| parts[i as usize].rows > 0).collect();
        let go_up = |pair: &[u32]| {
            let (a, b) = (&parts[pair[0] as usize], &parts[pair[1] as usize]);
            a.first <= b.first && a.last <= b.last
        };
        let ascending = filled.windows(2).all(go_up).then_some(filled);
        Parts { parts, ascending }
    }

    /// The parts whose key range meets `first..=last`.
    pub fn overlapping(&self, first: &str, last: &str) -> Vec<PartRef> {
        let meets = |part: &&PartRef| part.rows > 0 && part.first.as_str() <= last && part.last.as_str() >= first;
        match &self.ascending {
            None => self.parts.iter().filter(meets).cloned().collect(),
            Some(filled) => {
                let part = |index: &u32| &self.parts[*index as usize];
                let from = filled.partition_point(|index| part(index).last.as_str() < first);
                filled[from..].iter().map(part).take_while(meets).cloned().collect()
            }
        }
    }
}

/// A finished table, read part by part; each part is verified when read.
#[derive(Clone)]
pub struct Table<R> {
    store: Store,
    parts: Parts,
    rows: PhantomData<R>,
}

impl<R: Row> Table<R> {
    pub fn new(store: &Store, parts: Vec<PartRef>) -> Table<R> {
        Table { store: store.clone(), parts: Parts::new(parts), rows: PhantomData }
    }

    pub fn parts(&self) -> &[PartRef] {
        &self.parts.parts
    }

    /// Rows of all parts, as the store's bookkeeping has them.
    pub fn row_count(&self) -> u64 {
        self.parts().iter().map(|part| part.rows).sum()
    }

    pub fn read(&self, part: &PartRef) -> Result<Vec<R>> {
        self.store.read_part(part)
    }

    /// Some columns of all parts, as rows of a type with just these fields: what a join needs without the rest.
    pub fn select<T: DeserializeOwned>(&self, columns: &[&str]) -> Result<Vec<T>> {
        let mut rows = Vec::new();
        for part in self.parts() {
            rows.extend(self.store.read_columns::<R, T>(part, columns)?);
        }
        Ok(rows)
    }

    pub fn read_all(&self) -> Result<Vec<R>> {
        self.store.read_rows(self.parts())
    }

    /// The parts whose key range meets `first..=last`.
    pub fn overlapping(&self, first: &str, last: &str) -> Table<R> {
        Table::new(&self.store, self.parts.overlapping(first, last))
    }

    /// One part as a table.
    pub fn part(&self, part: &PartRef) -> Table<R> {
        Table::new(&self.store, vec![part.clone()])
    }

    /// Content addresses of all parts: what a consumer of the whole table depends on.
    pub fn contents(&self) -> Vec<&Address> {
        self.parts().iter().map(|part| &part.content).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

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
        // Two ranges of samples per range of problems, an empty part between.
        let ranges = [("b", "d"), ("b", "d"), ("", ""), ("f", "f"), ("f", "f"), ("h", "k")];
        let parts: Vec<PartRef> = ranges.iter().map(|(a, b)| part(a, b, u64::from(!a.is_empty()))).collect();
        let found = Parts::new(parts);
        assert!(found.ascending.is_some());
        let unsorted = Parts { ascending: None, ..found.clone() };
        let ends = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "k", "l"];
        for (index, first) in ends.iter().enumerate() {
            for last in &ends[index..] {
                assert_eq!(found.overlapping(first, last), unsorted.overlapping(first, last), "{first}..{last}");
            }
        }
        assert_eq!(found.overlapping("c", "g").len(), 4);
        assert!(Parts::new(vec![part("f", "g", 1), part("a", "b", 1)]).ascending.is_none());
    }
}
