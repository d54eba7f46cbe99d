//! Content-defined boundaries: where a table of problems is cut depends on the ids alone, never on row positions, so that
//! adding or removing a problem touches the part it falls in and no other.

use mindgap_base::error::{Error, Result};
use mindgap_store::PartRef;
use std::ops::Range;

/// Cuts sorted rows into ranges of `target` rows on average. A new range starts at an id whose value is a multiple of
/// `target`, ids being hashes.
pub fn cut<T>(rows: &[T], id: impl Fn(&T) -> &str, target: u32) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut start = 0;
    for (index, row) in rows.iter().enumerate().skip(1) {
        if starts_range(id(row), target) {
            ranges.push(start..index);
            start = index;
        }
    }
    if start < rows.len() {
        ranges.push(start..rows.len());
    }
    ranges
}

/// Groups parts of a table that was cut by [`cut`] into units of work of `target` rows on average, on boundaries the table
/// has. With a target that is a multiple of the table's own the groups are those `cut` would make of the rows.
pub fn group(parts: &[PartRef], target: u32) -> Vec<Range<usize>> {
    cut(parts, |part| &part.first, target)
}

/// Whether a range of `target` rows on average begins at an id, wherever it stands.
pub fn starts_range(id: &str, target: u32) -> bool {
    let hash = blake3::hash(id.as_bytes());
    let value = u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("8 bytes"));
    value.is_multiple_of(u64::from(target.max(1)))
}

/// Cuts the ids from `first` to `last` into `count` ranges, both ends inclusive, that follow each other without a gap. Ids are
/// hashes, so each holds about as many; where the cuts lie follows from the two ends and the count alone.
pub fn slices(first: &str, last: &str, count: u64) -> Vec<(String, String)> {
    let ends = |id: &str| id.get(..ID_DIGITS).and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let (Some(low), Some(high)) = (ends(first), ends(last)) else { return vec![(first.to_string(), last.to_string())] };
    let width = u128::from(high.saturating_sub(low)) + 1;
    let count = u128::from(count).clamp(1, width);
    let start = |number: u128| low + (width * number / count) as u64;
    let border = |number: u128| match number {
        0 => (first.to_string(), String::new()),
        number if number == count => (String::new(), last.to_string()),
        number => (hex(start(number)), hex(start(number) - 1)),
    };
    (0..count).map(|number| (border(number).0, border(number + 1).1)).collect()
}

/// Hexadecimal digits of a problem's id.
const ID_DIGITS: usize = 16;

fn hex(value: u64) -> String {
    format!("{value:0ID_DIGITS$x}")
}

/// Refuses a zero where a count is needed.
pub fn at_least_one(value: u32, name: &str) -> Result<()> {
    match value {
        0 => Err(Error::usage(format!("`{name}` must be at least 1"))),
        _ => Ok(()),
    }
}

/// Refuses a count that is not from 1 to `most`, before anything is allocated by it.
pub fn count(value: u32, name: &str, most: u32) -> Result<()> {
    match value > most {
        true => Err(Error::usage(format!("`{name}` is {value}, more than {most}"))),
        false => at_least_one(value, name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(n: u32) -> Vec<String> {
        let mut ids: Vec<String> = (0..n).map(|i| blake3::hash(&i.to_le_bytes()).to_hex()[..16].to_string()).collect();
        ids.sort();
        ids
    }

    #[test]
    fn ranges_cover_all_rows_in_order() {
        let ids = ids(1000);
        let ranges = cut(&ids, |id| id, 50);
        assert!(ranges.len() > 10 && ranges.len() < 40, "{} ranges", ranges.len());
        assert_eq!(ranges.iter().flat_map(Clone::clone).collect::<Vec<_>>(), (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn groups_of_parts_are_cuts_of_rows() {
        let ids = ids(4000);
        let part = |range: &Range<usize>| PartRef {
            address: mindgap_base::address::Address::of(b""),
            content: mindgap_base::address::Address::of(b""),
            rows: range.len() as u64,
            bytes: 0,
            first: ids[range.start].clone(),
            last: ids[range.end - 1].clone(),
            counts: Default::default(),
        };
        let fine = cut(&ids, |id| id, 16);
        let parts: Vec<PartRef> = fine.iter().map(part).collect();
        let rows = |groups: Vec<Range<usize>>| -> Vec<Range<usize>> {
            groups.into_iter().map(|g| fine[g.start].start..fine[g.end - 1].end).collect()
        };
        assert_eq!(rows(group(&parts, 64)), cut(&ids, |id| id, 64));
        // The table's own boundaries are the finest there are.
        assert_eq!(rows(group(&parts, 1)), fine);
    }

    #[test]
    fn slices_hold_every_id_once() {
        let ids = ids(500);
        let (first, last) = (&ids[0], &ids[499]);
        for count in [1, 2, 7, 64, 500] {
            let slices = slices(first, last, count);
            assert_eq!(slices.len() as u64, count);
            assert_eq!((&slices[0].0, &slices[count as usize - 1].1), (first, last));
            let held = |id: &String| slices.iter().filter(|(a, b)| a <= id && id <= b).count();
            assert!(ids.iter().all(|id| held(id) == 1));
            let most = slices.iter().map(|(a, b)| ids.iter().filter(|id| a <= *id && *id <= b).count()).max().unwrap();
            assert!(most < 4 * 500 / count as usize + 12, "{most} of {count} slices");
        }
        assert_eq!(slices(first, first, 9), [(first.clone(), first.clone())]);
    }

    #[test]
    fn removing_one_row_changes_one_range() {
        let ids = ids(1000);
        let texts = |ids: &[String]| -> Vec<Vec<String>> {
            cut(ids, |id| id, 50).into_iter().map(|r| ids[r].to_vec()).collect()
        };
        let before = texts(&ids);
        // A row that starts no range: its removal leaves every boundary where it was.
        let victim = (1..1000).find(|&i| !starts_range(&ids[i], 50)).expect("most rows start no range");
        let mut fewer = ids.clone();
        fewer.remove(victim);
        let after = texts(&fewer);
        assert_eq!(before.iter().filter(|range| !after.contains(range)).count(), 1);
    }
}
