//! What the demonstration does for the policy: the solve rate with it and without, of problems that were sampled with both. A
//! policy teaches itself nothing where seeing the solution does not help it.

use super::warnings::Verdict;
use crate::stats::metrics::mean;
use mindgap_store::table::gaps::{GapWarning, Moment, Warning};
use mindgap_store::table::rollouts::PromptKind;
use std::collections::BTreeMap;

/// Samples of each problem, and how many of them are correct.
type Tallies = BTreeMap<String, (u32, u32)>;

#[derive(Default)]
pub struct Lift {
    plain: Tallies,
    guided: Tallies,
    /// Guided samples were drawn where plain ones had failed.
    is_chosen: bool,
}

impl Lift {
    /// Takes in samples of one kind, as one judge sees them.
    pub fn add(&mut self, kind: PromptKind, is_chosen: bool, verdicts: &[Verdict]) {
        let tallies = match kind {
            PromptKind::Plain => &mut self.plain,
            PromptKind::Guided => &mut self.guided,
            PromptKind::Imported => return,
        };
        self.is_chosen |= is_chosen && kind == PromptKind::Guided;
        for verdict in verdicts {
            let (samples, correct) = tallies.entry(verdict.problem_id.clone()).or_default();
            *samples += 1;
            *correct += u32::from(verdict.verdict.is_correct());
        }
    }

    /// None where no problem was sampled with both.
    pub fn finish(self) -> Option<GapWarning> {
        let share = |(samples, correct): (u32, u32)| f64::from(correct) / f64::from(samples);
        let both: Vec<(&String, f64, f64)> = self
            .guided
            .iter()
            .filter_map(|(id, guided)| Some((id, share(*self.plain.get(id)?), share(*guided))))
            .collect();
        if both.is_empty() {
            return None;
        }
        let (plain, guided) = (mean(both.iter().map(|b| b.1)), mean(both.iter().map(|b| b.2)));
        let lifts: Vec<f64> = both.iter().map(|(_, plain, guided)| guided - plain).collect();
        // The lower end of a 95 % interval over problems.
        let least = guided - plain - 1.96 * standard_error(&lifts);
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let (count, from, to) = (both.len(), percent(plain), percent(guided));
        let message = match (self.is_chosen, least > 0.0) {
            (true, _) => format!(
                "the demonstration solves {to} of the samples of {count} problems that were chosen because plain samples fail; draw \
                 both for the same problems to see what it lifts"
            ),
            (false, true) => format!("the demonstration lifts this policy from {from} to {to} on {count} problems"),
            (false, false) => format!(
                "the demonstration does not surely lift this policy: from {from} to {to} on {count} problems, {:+.1} points at least; \
                 there is little it can teach itself by it",
                100.0 * least
            ),
        };
        let falls = both.iter().filter(|(_, plain, guided)| guided < plain).map(|(id, ..)| (*id).clone());
        let falls: Vec<String> = falls.collect();
        Some(GapWarning {
            warning: Warning::NoLift,
            moment: Moment::Sampling,
            source: PromptKind::Guided.as_str().to_string(),
            raised: if self.is_chosen { guided == 0.0 } else { least <= 0.0 },
            value: guided,
            threshold: plain,
            affected: falls.len() as u32,
            row_count: count as u32,
            message,
            problem_ids: falls.into_iter().take(10).collect(),
        })
    }
}

fn standard_error(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let center = mean(values.iter().copied());
    (values.iter().map(|x| (x - center).powi(2)).sum::<f64>() / (n - 1.0).max(1.0) / n).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(correct: &[bool]) -> Vec<Verdict> {
        let of =
            |(index, correct): (usize, &bool)| Verdict::new(&format!("{:02}", index / 2), (index % 2) as u32, *correct);
        correct.iter().enumerate().map(of).collect()
    }

    fn lift(plain: &[bool], guided: &[bool], is_chosen: bool) -> Option<GapWarning> {
        let mut lift = Lift::default();
        lift.add(PromptKind::Plain, false, &verdicts(plain));
        lift.add(PromptKind::Guided, is_chosen, &verdicts(guided));
        lift.finish()
    }

    #[test]
    fn a_demonstration_that_helps_is_told_and_one_that_does_not_is_warned_of() {
        let (seldom, often) = ([vec![true; 4], vec![false; 16]].concat(), [vec![true; 16], vec![false; 4]].concat());
        let helps = lift(&seldom, &often, false).unwrap();
        assert_eq!((helps.raised, helps.row_count, helps.affected), (false, 10, 0));
        assert_eq!(helps.message, "the demonstration lifts this policy from 20.0 % to 80.0 % on 10 problems");
        let hurts = lift(&often, &seldom, false).unwrap();
        assert!(hurts.raised && hurts.affected == 6 && hurts.problem_ids[0] == "02", "{hurts:?}");
        assert!(lift(&seldom, &seldom, false).unwrap().raised);
    }

    #[test]
    fn problems_that_plain_samples_chose_tell_no_lift() {
        let (never, sometimes) = (vec![false; 8], [vec![true; 3], vec![false; 5]].concat());
        let chosen = lift(&never, &sometimes, true).unwrap();
        assert!(!chosen.raised && chosen.message.contains("draw both"), "{}", chosen.message);
        assert!(lift(&never, &never, true).unwrap().raised);
        assert_eq!(lift(&[], &sometimes, false), None);
    }
}
