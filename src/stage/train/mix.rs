//! What a training is made of: the rows of one stage, or portions of several.

use super::params::RowWeights;
use mindgap_base::error::{Error, Result};
use mindgap_base::rng::Stream;
use mindgap_store::table::rewrites::Source;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The rows of one stage, or portions of several.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum DataOf {
    Stage(String),
    Portions(Vec<Portion>),
}

/// Rows of one stage among others.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Portion {
    /// A rewrite stage, a rollout stage, or a documents stage.
    pub from: String,
    /// The share of all rows that are to be its: the rows of portions without a share are counted first.
    pub share: Option<f64>,
    /// How many rows are to be its.
    pub rows: Option<u32>,
    /// Where not all rows are taken, take those with the highest values of a column of a stage; some at random without.
    pub highest: Option<Highest>,
    /// An ingest stage: where not all rows are taken, as many are of every source of its problems.
    pub per_source: Option<String>,
    /// What the loss of each of its rows is multiplied with.
    #[serde(default = "one")]
    pub weight: f32,
    /// Only rows of these sources; all where none is named.
    #[serde(default)]
    pub sources: Vec<Source>,
    /// A weight for every row, by which the loss is multiplied too.
    pub row_weights: Option<RowWeights>,
    /// Log-probs of its targets under a frozen reference policy, for losses that compare with one.
    pub logprobs: Option<String>,
    /// A soft stage over its rows, for losses that go by a teacher's distributions. Rows of which it says nothing are left out.
    pub soft: Option<String>,
    /// A column of rewards of its samples, for losses that compare the samples of a problem.
    pub rewards: Option<Highest>,
}

/// A column of a stage that knows rows by problem, and by choice where rows of a problem differ.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Highest {
    pub from: String,
    /// Numbers, truth values (1 and 0), or lists of numbers, of which the mean is taken.
    pub column: String,
}

fn one() -> f32 {
    1.0
}

impl Portion {
    /// All rows of a stage.
    pub fn all(from: &str) -> Portion {
        Portion {
            from: from.to_string(),
            share: None,
            rows: None,
            highest: None,
            per_source: None,
            weight: one(),
            sources: Vec::new(),
            row_weights: None,
            logprobs: None,
            soft: None,
            rewards: None,
        }
    }

    fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::usage(format!("`data` from `{}`: {what}", self.from)));
        if self.share.is_some() && self.rows.is_some() {
            return wrong("it has both `share` and `rows`".to_string());
        }
        if let Some(share) = self.share.filter(|share| !(*share > 0.0 && *share < 1.0)) {
            return wrong(format!("`share` is {share}; it must be above 0 and below 1"));
        }
        let chooses = [("highest", self.highest.is_some()), ("per_source", self.per_source.is_some())];
        if let Some((key, _)) = chooses.iter().find(|(_, is_there)| *is_there)
            && self.share.is_none()
            && self.rows.is_none()
        {
            return wrong(format!("`{key}` chooses some rows, and neither `share` nor `rows` says how many"));
        }
        if self.rewards.is_some() && (self.share.is_some() || self.rows.is_some()) {
            return wrong("`rewards` compare all samples of a problem, and `share` or `rows` takes some".to_string());
        }
        if self.rows == Some(0) {
            return wrong("`rows` must be at least 1".to_string());
        }
        if !(self.weight >= 0.0 && self.weight.is_finite()) {
            return wrong(format!("`weight` is {}; it must be a number that is not negative", self.weight));
        }
        self.row_weights.as_ref().map_or(Ok(()), RowWeights::check)
    }
}

/// Errors: portions that are none, or whose shares leave nothing to be a share of.
pub fn check(portions: &[Portion]) -> Result<()> {
    if portions.is_empty() {
        return Err(Error::usage("`data` is empty").hint("data = \"STAGE\", or data = [{ from = \"STAGE\" }, ..]"));
    }
    portions.iter().try_for_each(Portion::check)?;
    let shares: f64 = portions.iter().filter_map(|portion| portion.share).sum();
    if portions.iter().all(|portion| portion.share.is_some()) || shares >= 1.0 {
        return Err(Error::usage("the shares of `data` leave no rows to be shares of")
            .hint("leave one portion without a share, and let the shares of the others sum to less than 1"));
    }
    Ok(())
}

/// How many rows each portion gives, of so many that it has.
pub fn sizes(portions: &[Portion], available: &[usize]) -> Vec<usize> {
    let fixed = |portion: &Portion, available: usize| match (portion.share, portion.rows) {
        (Some(_), _) => 0,
        (None, Some(rows)) => rows as usize,
        (None, None) => available,
    };
    let counted: usize = portions.iter().zip(available).map(|(portion, available)| fixed(portion, *available)).sum();
    let shares: f64 = portions.iter().filter_map(|portion| portion.share).sum();
    let all = counted as f64 / (1.0 - shares);
    let size = |(portion, available): (&Portion, &usize)| match portion.share {
        _ if *available == 0 => 0,
        Some(share) => (all * share).round() as usize,
        None => fixed(portion, *available),
    };
    portions.iter().zip(available).map(size).collect()
}

/// Which of a portion's rows are taken, in order: all of them as often as they fit into `size`, and of the rest those with the
/// highest value, or where there are no values those whose names the seed puts first. A row that is added to the stage changes at
/// most one that is taken.
pub fn picked(names: &[String], values: Option<&[f64]>, size: usize, seed: u64) -> Vec<usize> {
    if names.is_empty() {
        return Vec::new();
    }
    let (whole, rest) = (size / names.len(), size % names.len());
    let mut order: Vec<usize> = (0..names.len()).collect();
    match values {
        Some(values) => order.sort_by(|a, b| values[*b].total_cmp(&values[*a])),
        None => order.sort_by_cached_key(|index| Stream::at(seed, &[b"portion", names[*index].as_bytes()]).bits(0)),
    }
    let mut picked: Vec<usize> = order[..rest].to_vec();
    (0..whole).for_each(|_| picked.extend(0..names.len()));
    picked.sort_unstable();
    picked
}

/// The same with as many rows of every group, the first of them by name one more where that does not come out even. Rows of a group
/// are in the order of all.
pub fn picked_of_each(
    groups: &[String],
    names: &[String],
    values: Option<&[f64]>,
    size: usize,
    seed: u64,
) -> Vec<usize> {
    let mut members: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    groups.iter().enumerate().for_each(|(index, group)| members.entry(group).or_default().push(index));
    let count = members.len().max(1);
    let (each, more) = (size / count, size % count);
    let of_group = |(rank, members): (usize, Vec<usize>)| {
        let own: Vec<String> = members.iter().map(|index| names[*index].clone()).collect();
        let values: Option<Vec<f64>> = values.map(|values| members.iter().map(|index| values[*index]).collect());
        let taken = picked(&own, values.as_deref(), each + usize::from(rank < more), seed);
        taken.into_iter().map(|index| members[index]).collect::<Vec<usize>>()
    };
    let mut picked: Vec<usize> = members.into_values().enumerate().flat_map(of_group).collect();
    picked.sort_unstable();
    picked
}

/// By hand, so that an error names the key that is wrong.
impl<'de> Deserialize<'de> for DataOf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<DataOf, D::Error> {
        struct DataVisitor;
        impl<'de> Visitor<'de> for DataVisitor {
            type Value = DataOf;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("the name of a stage, or a list of tables with `from`")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<DataOf, E> {
                Ok(DataOf::Stage(name.to_string()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<DataOf, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(items)).map(DataOf::Portions)
            }

            fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<DataOf, A::Error> {
                Portion::deserialize(MapAccessDeserializer::new(table)).map(|portion| DataOf::Portions(vec![portion]))
            }
        }
        deserializer.deserialize_any(DataVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn portion(share: Option<f64>, rows: Option<u32>) -> Portion {
        Portion { share, rows, ..Portion::all("a") }
    }

    #[test]
    fn a_share_is_of_all_rows() {
        let portions = [portion(None, None), portion(Some(0.1), None), portion(None, Some(50))];
        assert_eq!(sizes(&portions, &[400, 1000, 20]), [400, 50, 50]);
        assert_eq!(sizes(&portions[..1], &[7]), [7]);
        let two = [portion(None, None), portion(Some(0.25), None), portion(Some(0.25), None)];
        assert_eq!(sizes(&two, &[10, 3, 9]), [10, 5, 5]);
        assert_eq!(sizes(&two, &[10, 0, 9]), [10, 0, 5], "nothing can be taken of nothing");
    }

    #[test]
    fn rows_are_picked_by_name() {
        let names: Vec<String> = (0..40).map(|i| format!("{i:02x}")).collect();
        let ten = picked(&names, None, 10, 3);
        assert_eq!(ten.len(), 10);
        assert!(ten.windows(2).all(|pair| pair[0] < pair[1]), "each once, in order");
        assert_ne!(ten, picked(&names, None, 10, 4));
        let twelve = picked(&names, None, 12, 3);
        assert!(ten.iter().all(|index| twelve.contains(index)), "more rows are the same and more");
        let values: Vec<f64> = (0..40).map(|i| f64::from((i * 7) % 40)).collect();
        let best = picked(&names, Some(&values), 4, 3);
        assert_eq!(
            best.iter().map(|index| values[*index] as u32).collect::<BTreeSet<_>>(),
            BTreeSet::from([36, 37, 38, 39])
        );
        // Another row changes one at most.
        let grown: Vec<String> = names.iter().cloned().chain(["zz".to_string()]).collect();
        let found = picked(&grown, None, 10, 3);
        assert!(found.iter().filter(|index| ten.contains(index)).count() >= 9);
        // More than there are: all of them again.
        let more = picked(&names, None, 90, 3);
        let times = |index: usize| more.iter().filter(|found| **found == index).count();
        assert!((0..40).all(|index| (2..=3).contains(&times(index))) && more.len() == 90);
        assert_eq!(picked(&[], None, 5, 0), Vec::<usize>::new());
    }

    /// As many of every group, the best of each, whatever is best of all.
    #[test]
    fn groups_give_equally_many() {
        let names: Vec<String> = (0..30).map(|i| format!("{i:02x}")).collect();
        let groups: Vec<String> = (0..30).map(|i| if i < 4 { "few" } else { "many" }.to_string()).collect();
        let values: Vec<f64> = (0..30).map(f64::from).collect();
        assert_eq!(picked_of_each(&groups, &names, Some(&values), 5, 0), [1, 2, 3, 28, 29]);
        let taken = picked_of_each(&groups, &names, None, 10, 1);
        assert_eq!((taken.iter().filter(|i| **i < 4).count(), taken.len()), (5, 10), "few are taken again");
        assert!(picked_of_each(&[], &[], None, 3, 0).is_empty());
    }

    #[test]
    fn shares_must_leave_something() {
        assert!(check(&[portion(None, None), portion(Some(0.5), None)]).is_ok());
        for wrong in [
            vec![],
            vec![portion(Some(0.5), None)],
            vec![portion(None, None), portion(Some(0.5), None), portion(Some(0.5), None)],
            vec![portion(None, None), portion(Some(0.5), Some(3))],
            vec![portion(None, Some(0))],
            vec![Portion { weight: -1.0, ..Portion::all("a") }],
        ] {
            assert!(check(&wrong).is_err(), "{wrong:?}");
        }
    }
}
