//! verdicts: what the judge said of each rollout, and why.

use super::row::row;
use super::words::words;

words! {
    /// What the judge says of a sample.
    Verdict {
        /// The final answer equals the gold answer
        Correct = "correct",
        /// The final answer differs from the gold answer
        Incorrect = "incorrect",
        /// There is no final answer, or only the beginning of one
        NoAnswer = "no_answer",
        /// The final answer cannot be read
        Unparsed = "unparsed",
        /// The comparison did not end within its budget of steps
        BudgetExceeded = "budget_exceeded",
    }
}

row! {
    /// One row per problem and sample.
    VerdictRow in "verdicts" v 1 key [problem_id, sample_index] {
        /// The problem
        problem_id: String,
        /// The sample
        sample_index: u32,
        /// What the judge says
        verdict: Verdict,
        /// The final answer found in the completion
        extracted: Option<String>,
        /// How equality was decided, or why not
        method: String,
        /// The sample may be chosen as a training target: one boxed answer, no special token inside
        eligible: bool,
        /// The judge and its version
        judge_version: String,
    }
    count "solved_problems"(rows) {
        let problems = rows.chunk_by(|a, b| a.problem_id == b.problem_id);
        problems.filter(|samples| samples.iter().any(VerdictRow::may_be_chosen)).count()
    }
}

impl Verdict {
    pub fn is_correct(self) -> bool {
        self == Verdict::Correct
    }

    /// Neither right nor wrong: the judge could not read or compare the answer.
    pub fn is_undecided(self) -> bool {
        matches!(self, Verdict::Unparsed | Verdict::BudgetExceeded)
    }
}

impl VerdictRow {
    /// Correct, and fit to be a training target.
    pub fn may_be_chosen(&self) -> bool {
        self.verdict.is_correct() && self.eligible
    }
}
