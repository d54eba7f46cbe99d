//! How far two judges of the same samples agree.

use serde::Serialize;

/// Samples by whether each of two judges calls them correct.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Agreement {
    pub both: u64,
    pub first_only: u64,
    pub second_only: u64,
    pub neither: u64,
}

impl Agreement {
    pub fn add(&mut self, first: bool, second: bool) {
        match (first, second) {
            (true, true) => self.both += 1,
            (true, false) => self.first_only += 1,
            (false, true) => self.second_only += 1,
            (false, false) => self.neither += 1,
        }
    }

    pub fn samples(&self) -> u64 {
        self.both + self.first_only + self.second_only + self.neither
    }

    pub fn agree(&self) -> u64 {
        self.both + self.neither
    }

    /// Agreement beyond what the judges' shares of correct samples bring by chance: (p_o - p_e) / (1 - p_e), 1 where they always agree
    /// (Cohen 1960, doi:10.1177/001316446002000104). None where chance leaves nothing to be seen.
    pub fn kappa(&self) -> Option<f64> {
        let n = self.samples() as f64;
        let (first, second) = (self.both + self.first_only, self.both + self.second_only);
        let (first, second) = (first as f64 / n, second as f64 / n);
        let by_chance = first * second + (1.0 - first) * (1.0 - second);
        (by_chance < 1.0).then(|| (self.agree() as f64 / n - by_chance) / (1.0 - by_chance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kappa(both: u64, first_only: u64, second_only: u64, neither: u64) -> Option<f64> {
        Agreement { both, first_only, second_only, neither }.kappa()
    }

    #[test]
    fn samples_are_counted() {
        let mut agreement = Agreement::default();
        for (first, second) in [(true, true), (true, false), (true, false), (false, true), (false, false)] {
            agreement.add(first, second);
        }
        assert_eq!(agreement, Agreement { both: 1, first_only: 2, second_only: 1, neither: 1 });
        assert_eq!((agreement.samples(), agreement.agree()), (5, 2));
    }

    /// By hand: 20, 5, 10, 15 agree on 0.7, on 0.5 by chance.
    #[test]
    fn kappa_is_what_chance_does_not_explain() {
        assert!((kappa(20, 5, 10, 15).unwrap() - 0.4).abs() < 1e-12);
        assert_eq!(kappa(3, 0, 0, 5), Some(1.0));
        assert_eq!(kappa(0, 5, 5, 0), Some(-1.0));
        assert!(kappa(9, 3, 3, 1).unwrap().abs() < 1e-12);
        assert_eq!(kappa(7, 0, 0, 0), None);
        assert_eq!(kappa(0, 0, 0, 0), None);
    }
}
