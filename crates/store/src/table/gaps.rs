//! gaps: how far training targets are from a policy, before and after rewriting. And what was checked on the way.

use super::rewrites::Source;
use super::row::row;
use super::words::words;

words! {
    /// What is looked at, and so when.
    Moment {
        /// The samples, as they were drawn
        Sampling = "sampling",
        /// The expert's solutions, before rewriting
        Before = "before",
        /// The targets that are trained on, after rewriting
        After = "after",
    }
}

words! {
    /// Targets that are counted together.
    Group {
        /// Correct samples of the policy, given the problem alone
        SelfAligned = "self",
        /// Correct samples of the policy, given the expert's solution too
        Guided = "guided",
        /// Correct samples from elsewhere
        Teacher = "teacher",
        /// The expert's solutions
        Expert = "expert",
        /// Every target together
        All = "all",
    }
}

impl From<Source> for Group {
    fn from(source: Source) -> Group {
        match source {
            Source::SelfAligned => Group::SelfAligned,
            Source::Guided => Group::Guided,
            Source::Teacher => Group::Teacher,
            Source::Expert => Group::Expert,
        }
    }
}

words! {
    /// What a check looks for.
    Warning {
        /// A few tokens the policy finds improbable outweigh all others
        LowEss = "low_ess",
        /// The policy finds the end of sequence improbable where it is the target
        EosNotLearned = "eos_not_learned",
        /// Targets repeat the expert's solution word for word
        Copied = "copied",
        /// Targets speak of a solution they were shown
        MetaPhrase = "meta_phrase",
        /// Targets give the answer without work
        AnswerOnly = "answer_only",
        /// Targets or samples have no end
        Truncated = "truncated",
        /// The judge could not read or compare the answer
        Undecided = "undecided",
        /// Two judges of the same samples disagree
        JudgesDisagree = "judges_disagree",
        /// The policy solves no more where it is shown the expert's solution
        NoLift = "no_lift",
    }
}

row! {
    /// One row per source of targets, before and after rewriting; `all` is every target together.
    Gap in "gaps" v 1 key [rewriting, source] {
        /// Before or after rewriting; `sampling` does not occur
        rewriting: Moment,
        /// Which targets
        source: Group,
        /// Targets
        row_count: u32,
        /// Target tokens
        token_count: u64,
        /// Tokens per target
        mean_length: f64,
        /// Log-prob per token given the plain training prompt, nats
        mean_logprob: f64,
        /// Log-prob per target, nats
        mean_row_logprob: f64,
        /// exp(-mean_logprob)
        perplexity: f64,
        /// Share of tokens with a probability below 0.05
        low_probability_share: f64,
        /// Variance over tokens of the implicit importance ratio of plain SFT, min(1/p, 100)
        ratio_variance: f64,
        /// Effective sample size of min(1/p, 100) over tokens, between 1 and token_count
        ess_tokens: f64,
        /// Effective sample size of 1/p(target) over targets, between 1 and row_count
        ess_rows: f64,
        /// Targets that were sampled, and so have a behaviour policy
        sampled_rows: u32,
        /// Tokens of the sampled targets
        sampled_tokens: u64,
        /// Estimate of KL(behaviour, policy) per token over the sampled targets, nats: mean of log b - log p
        kl_per_token: Option<f64>,
        /// Variance over sampled tokens of the importance ratio min(p/b, 100)
        behavior_ratio_variance: Option<f64>,
        /// Effective sample size of min(p/b, 100) over sampled tokens, between 1 and sampled_tokens
        behavior_ess_tokens: Option<f64>,
        /// Effective sample size of p/b over sampled targets, between 1 and sampled_rows
        behavior_ess_rows: Option<f64>,
        /// Mean probability of the end-of-sequence token where it is the target
        eos_probability: Option<f64>,
    }
}

row! {
    /// One row per check made of targets and samples, whether it raised a warning or not.
    GapWarning in "gap_warnings" v 1 key [warning, moment, source] {
        /// What is looked for
        warning: Warning,
        /// When it is looked for
        moment: Moment,
        /// `self`, `guided` or `expert` targets; `plain` or `guided` samples, numbered from the second set on
        source: String,
        /// The warning is raised
        raised: bool,
        /// What was measured, between 0 and 1
        value: f64,
        /// The value at which the warning is raised
        threshold: f64,
        /// Rows that show it, where rows do
        affected: u32,
        /// Rows looked at
        row_count: u32,
        /// The finding as a sentence
        message: String,
        /// Problems to look at, ten at most
        problem_ids: Vec<String>,
    }
}
