//! Means over problems and replications, with intervals: for a policy, or for the difference of two on the same problems.

use super::metrics::mean;
use mindgap_base::rng::Stream;
use serde::Serialize;

/// A mean and its interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
}

/// Values of one benchmark: per replication (a training seed, say), per problem, the problems in the same order everywhere.
pub type Stratum = Vec<Vec<f64>>;

/// The mean over benchmarks of the mean over replications and problems, with a percentile interval that draws both
/// replications and problems again: the pigeonhole bootstrap (Owen 2007, "The pigeonhole bootstrap", Annals of Applied
/// Statistics 1), which is conservative. Differences of two policies are paired by giving their differences as values.
/// All benchmarks have the same number of replications. Nothing at all gives zeros.
pub fn crossed_interval(strata: &[Stratum], level: f64, resamples: u32, seed: u64) -> Interval {
    let replications = strata.first().map_or(0, Vec::len);
    let strata: Vec<&Stratum> = strata.iter().filter(|s| s.iter().all(|values| !values.is_empty())).collect();
    if replications == 0 || strata.is_empty() {
        return Interval { mean: 0.0, low: 0.0, high: 0.0 };
    }
    let mut means: Vec<f64> = (0..resamples).map(|draw| redrawn(&strata, replications, seed, draw)).collect();
    means.sort_by(f64::total_cmp);
    let at = |q: f64| means[(q * (means.len() - 1) as f64).round() as usize];
    let centre = mean(strata.iter().map(|s| mean(s.iter().map(|values| mean(values.iter().copied())))));
    match means.is_empty() {
        true => Interval { mean: centre, low: centre, high: centre },
        false => Interval { mean: centre, low: at((1.0 - level) / 2.0), high: at((1.0 + level) / 2.0) },
    }
}

/// The mean of one draw: the same replications for every benchmark, problems of its own for each.
fn redrawn(strata: &[&Stratum], replications: usize, seed: u64, draw: u32) -> f64 {
    let mut draws = Stream::at(seed, &[b"crossed bootstrap", &draw.to_le_bytes()]).cursor();
    let every: Vec<usize> = (0..replications).collect();
    let drawn: Vec<usize> = every.iter().map(|_| *draws.choose(&every)).collect();
    let mut of_stratum = |stratum: &Stratum| {
        let problems: Vec<usize> = (0..stratum[0].len()).collect();
        mean(problems.iter().map(|_| {
            let problem = *draws.choose(&problems);
            mean(drawn.iter().map(|replication| stratum[*replication][problem]))
        }))
    };
    mean(strata.iter().map(|stratum| of_stratum(stratum)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64, count: usize) -> Vec<f64> {
        let mut draws = Stream::at(seed, &[b"noise"]).cursor();
        (0..count).map(|_| *draws.choose(&[0.0, 1.0])).collect()
    }

    #[test]
    fn benchmarks_count_alike_whatever_their_size() {
        let interval = crossed_interval(&[vec![vec![1.0; 10]], vec![vec![0.0; 90]]], 0.95, 100, 0);
        assert_eq!(interval, Interval { mean: 0.5, low: 0.5, high: 0.5 });
    }

    /// The interval covers problems and replications: with either fixed it is narrower.
    #[test]
    fn both_problems_and_replications_widen_it() {
        let width = |stratum: Stratum| {
            let interval = crossed_interval(&[stratum], 0.95, 2000, 0);
            interval.high - interval.low
        };
        let same_problems: Stratum = (0..5).map(|r| vec![r as f64 / 10.0; 100]).collect();
        let same_replications: Stratum = vec![noise(0, 100); 5];
        let both: Stratum = (0..5).map(|r| noise(0, 100).iter().map(|v| v + r as f64 / 10.0).collect()).collect();
        let (a, b, c) = (width(same_problems), width(same_replications), width(both));
        assert!(a > 0.1 && b > 0.1 && c > a && c > b, "{a} {b} {c}");
    }

    /// Pairing removes what two policies have in common: problems that are hard for both.
    #[test]
    fn paired_differences_are_narrower() {
        let hard = noise(1, 200);
        let better: Vec<f64> = hard.iter().zip(noise(2, 200)).map(|(h, n)| h + 0.1 + n / 10.0).collect();
        let difference: Vec<f64> = better.iter().zip(&hard).map(|(a, b)| a - b).collect();
        let paired = crossed_interval(&[vec![difference]], 0.95, 1000, 0);
        let alone = crossed_interval(&[vec![better]], 0.95, 1000, 0);
        assert!(paired.low > 0.1 && (paired.mean - 0.15).abs() < 0.01, "{paired:?}");
        assert!(alone.high - alone.low > 5.0 * (paired.high - paired.low), "{alone:?} {paired:?}");
    }

    #[test]
    fn nothing_gives_zeros() {
        let zero = Interval { mean: 0.0, low: 0.0, high: 0.0 };
        assert_eq!(crossed_interval(&[], 0.95, 100, 0), zero);
        assert_eq!(crossed_interval(&[vec![]], 0.95, 100, 0), zero);
        assert_eq!(crossed_interval(&[vec![vec![]]], 0.95, 100, 0), zero);
    }
}
