//! verdicts: what the judge said of each rollout, and why.

use super::named;
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
        /// The final answer or the gold answer cannot be read, or a command or a policy that was to judge did not
        Unparsed = "unparsed",
        /// The comparison did not end within its budget of steps, a command within its limits, or a policy that judges within its tokens
        BudgetExceeded = "budget_exceeded",
    }
}

words! {
    /// Why a sample is no training target, however right its answer is.
    Refusal {
        /// It ends at the token limit, not where the policy would end
        CutOff = "cut_off",
        /// A special token stands inside
        SpecialToken = "special_token",
        /// It gives more than one final answer
        SeveralAnswers = "several_answers",
        /// The prompt asks for a boxed answer, and there is none
        NoBox = "no_box",
        /// It speaks of the solution it was shown, or of the task of retelling one
        MetaPhrase = "meta_phrase",
        /// It repeats wording of the prompt template
        PromptEcho = "prompt_echo",
        /// It shares its wording with the expert's solution
        Copied = "copied",
        /// It gives the answer without the work
        AnswerOnly = "answer_only",
        /// It states an equation between numbers that is false: the answer was known, the way was not
        WrongWorking = "wrong_working",
        /// Given the plain prompt, it is no likelier than the expert's solution
        Unlikely = "unlikely",
        /// Nothing stands behind its thoughts, which targets are to do without
        OnlyThoughts = "only_thoughts",
        /// It is longer than targets may be
        TooLong = "too_long",
        /// Given the plain prompt, its mean log-prob per token is below the limit
        LowLogprob = "low_logprob",
        /// An equal text was chosen
        Duplicate = "duplicate",
    }
}

row! {
    /// One row per problem and sample.
    VerdictRow in "verdicts" v 2 key [problem_id, sample_index] {
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
        /// The sample may be chosen as a training target if it is correct: nothing refuses it
        eligible: bool,
        /// Why it may not be chosen; null where it may
        refused: Option<Refusal>,
        /// The judge and its version
        judge_version: String,
    }
    counts(rows) {
        let problems = rows.chunk_by(|a, b| a.problem_id == b.problem_id);
        let solved = problems.filter(|samples| samples.iter().any(VerdictRow::may_be_chosen)).count();
        let correct = rows.iter().filter(|row| row.verdict.is_correct());
        let mut counts = named("solved_problems", solved);
        counts.extend(named("correct", correct.clone().count()));
        for reason in correct.filter_map(|row| row.refused) {
            *counts.entry(format!("refused_{reason}")).or_default() += 1;
        }
        for judge in ["command", "model"] {
            let failed = rows.iter().filter(|row| row.is_failed_by(judge)).count();
            counts.extend((failed > 0).then(|| named(&format!("{judge}_failed"), failed)).into_iter().flatten());
        }
        counts
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
    /// A judge of this kind was to say something, and did not: a program of the user's, a policy.
    fn is_failed_by(&self, judge: &str) -> bool {
        self.verdict.is_undecided() && self.method.split('/').next() == Some(judge)
    }

    /// Correct, and fit to be a training target.
    pub fn may_be_chosen(&self) -> bool {
        self.verdict.is_correct() && self.eligible
    }
}
