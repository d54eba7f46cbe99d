//! budget: a count of steps instead of a clock, so that a verdict is the same on any machine at any load.

/// Steps that are left.
#[derive(Debug, Clone)]
pub struct Budget {
    left: u64,
}

/// No steps are left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exhausted;

impl Budget {
    /// A budget of `steps`.
    pub fn new(steps: u64) -> Budget {
        Budget { left: steps }
    }

    /// Takes `steps`, or empties the budget and fails.
    pub fn spend(&mut self, steps: u64) -> Result<(), Exhausted> {
        if steps > self.left {
            self.left = 0;
            return Err(Exhausted);
        }
        self.left -= steps;
        Ok(())
    }

    /// True once a step was refused.
    pub fn is_exhausted(&self) -> bool {
        self.left == 0
    }
}
