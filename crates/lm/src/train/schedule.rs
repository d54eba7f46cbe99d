//! The learning rate of a step, a pure function of its number.

use mindgap_base::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// What follows the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Half a cosine from the peak to the floor.
    Cosine,
    /// The peak to the end.
    Constant,
    /// The peak, then a straight line to the floor over the last `decay_share` of all steps.
    Wsd,
}

/// Linear warm-up over `warmup_steps` (step 0 already has a share of the peak), then a decay that would reach
/// `floor_share * peak` at step `total_steps`, one after the last.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    pub peak: f64,
    pub total_steps: u32,
    pub warmup_steps: u32,
    pub decay: Decay,
    pub floor_share: f64,
    /// Read by [`Decay::Wsd`] only.
    pub decay_share: f64,
}

impl Schedule {
    /// The same rate at every step.
    pub fn constant(peak: f64, total_steps: u32) -> Schedule {
        Schedule { peak, total_steps, warmup_steps: 0, decay: Decay::Constant, floor_share: 0.0, decay_share: 0.0 }
    }

    /// Errors: a peak that is not a positive number, shares outside 0 to 1, a warm-up longer than the training.
    pub fn check(&self) -> Result<()> {
        if !self.peak.is_finite() || self.peak <= 0.0 {
            return Err(Error::usage(format!("`learning_rate` is `{}`; it must be above 0", self.peak)));
        }
        for (name, share) in [("floor_share", self.floor_share), ("decay_share", self.decay_share)] {
            if !(0.0..=1.0).contains(&share) {
                return Err(Error::usage(format!("`{name}` is `{share}`; it must be between 0 and 1")));
            }
        }
        if self.warmup_steps > self.total_steps {
            let (warmup, total) = (self.warmup_steps, self.total_steps);
            return Err(Error::usage(format!("warm-up of {warmup} steps in a training of {total}")));
        }
        Ok(())
    }

    /// Learning rate of a step, 0-based. Past the end it stays at its last value.
    pub fn learning_rate(&self, step: u32) -> f64 {
        if step < self.warmup_steps {
            return self.peak * f64::from(step + 1) / f64::from(self.warmup_steps);
        }
        let progress = |from: f64, to: f64| ((f64::from(step) - from) / (to - from).max(1.0)).clamp(0.0, 1.0);
        let total = f64::from(self.total_steps);
        let share = match self.decay {
            Decay::Constant => return self.peak,
            Decay::Cosine => 0.5 + 0.5 * (std::f64::consts::PI * progress(f64::from(self.warmup_steps), total)).cos(),
            Decay::Wsd => 1.0 - progress((total * (1.0 - self.decay_share)).max(f64::from(self.warmup_steps)), total),
        };
        self.peak * (self.floor_share + (1.0 - self.floor_share) * share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warms_up_and_decays() {
        let base = Schedule { warmup_steps: 10, floor_share: 0.1, decay_share: 0.2, ..Schedule::constant(2.0, 110) };
        let cosine = Schedule { decay: Decay::Cosine, ..base };
        assert_eq!(cosine.learning_rate(0), 0.2);
        assert_eq!(cosine.learning_rate(9), 2.0);
        assert_eq!(cosine.learning_rate(10), 2.0);
        assert!((cosine.learning_rate(60) - 1.1).abs() < 1e-12);
        assert!((cosine.learning_rate(110) - 0.2).abs() < 1e-12);
        assert_eq!(base.learning_rate(109), 2.0);
        let wsd = Schedule { decay: Decay::Wsd, ..base };
        assert_eq!(wsd.learning_rate(88), 2.0);
        assert!((wsd.learning_rate(99) - 1.1).abs() < 1e-12);
        assert!((wsd.learning_rate(500) - 0.2).abs() < 1e-12);
    }

    #[test]
    fn impossible_schedules_are_errors() {
        assert!(Schedule::constant(1e-3, 10).check().is_ok());
        assert!(Schedule::constant(f64::NAN, 10).check().is_err());
        assert!(Schedule { warmup_steps: 11, ..Schedule::constant(1.0, 10) }.check().is_err());
        assert!(Schedule { floor_share: 1.5, ..Schedule::constant(1.0, 10) }.check().is_err());
    }
}
