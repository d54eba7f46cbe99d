//! verdicts: what the judge said of each rollout, and why.

use super::row::row;

row! {
    /// One row per problem and sample.
    VerdictRow in "verdicts" v 1 key [problem_id, sample_index] {
        /// The problem
        problem_id: String,
        /// The sample
        sample_index: u32,
        /// `correct`, `incorrect`, `no_answer`, `unparsed` or `budget_exceeded`
        verdict: String,
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

impl VerdictRow {
    /// Correct, and fit to be a training target.
    pub fn may_be_chosen(&self) -> bool {
        self.verdict == "correct" && self.eligible
    }
}
