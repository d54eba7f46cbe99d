//! evals: accuracy of a policy on a benchmark. forgetting: what a policy has lost, over benchmarks.

use super::row::row;

row! {
    /// One row per benchmark and policy.
    Eval in "evals" v 2 key [benchmark, policy] {
        /// The benchmark: the problems' source
        benchmark: String,
        /// Name of the policy in the pipeline
        policy: String,
        /// Problems
        n: u32,
        /// Samples per problem
        k: u32,
        /// Sampling temperature
        temperature: f64,
        /// Share of correct samples, averaged over problems
        mean_at_k: f64,
        /// Share of problems with at least one correct sample among k
        pass_at_k: f64,
        /// Share of problems whose most frequent answer is correct; answers judged correct are one, others by what is read from them
        maj_at_k: f64,
        /// Lower end of the 95 % interval of mean_at_k, bootstrap over problems
        ci_low: f64,
        /// Upper end of the 95 % interval of mean_at_k, bootstrap over problems
        ci_high: f64,
        /// Share of samples cut off at the token limit
        truncated_share: f64,
        /// Share of samples without a final answer
        no_answer_share: f64,
        /// Of the correct samples, the share that was cut off at the token limit; null where none was
        truncated_correct_share: Option<f64>,
        /// mean_at_k minus that of the base policy, on the same problems
        change_from_base: Option<f64>,
        /// Lower end of its 95 % interval, bootstrap over problems
        change_from_base_low: Option<f64>,
        /// Upper end of its 95 % interval
        change_from_base_high: Option<f64>,
        /// mean_at_k minus the highest of the base policy and the policies before this one in the sequence
        change_from_best: Option<f64>,
        /// Mean over the tokens of this policy's samples of its own log-prob minus the base policy's, nats
        kl_per_token: Option<f64>,
    }
    optional [truncated_correct_share, change_from_base, change_from_base_low, change_from_base_high, change_from_best, kl_per_token]
}

row! {
    /// One row per policy that is compared with a base policy: what it has kept.
    Forgetting in "forgetting" v 1 key [policy] {
        /// Name of the policy in the pipeline
        policy: String,
        /// The policy it is compared with
        base: String,
        /// Tasks learned before its own
        earlier_tasks: u32,
        /// Backward transfer: mean over the earlier tasks of mean_at_k minus that right after learning the task (Lopez-Paz and Ranzato 2017, equation 3); below 0 is forgetting
        bwt: Option<f64>,
        /// Lower end of its 95 % interval, bootstrap over problems
        bwt_low: Option<f64>,
        /// Upper end of its 95 % interval
        bwt_high: Option<f64>,
        /// Mean over the untouched benchmarks of mean_at_k minus the base policy's
        retention: Option<f64>,
        /// Lower end of its 95 % interval, bootstrap over problems
        retention_low: Option<f64>,
        /// Upper end of its 95 % interval
        retention_high: Option<f64>,
        /// KL(policy, base) per sample: mean over its samples of the summed difference of log-probs, nats
        kl_per_sample: Option<f64>,
        /// Lower end of its 95 % interval, bootstrap over problems
        kl_per_sample_low: Option<f64>,
        /// Upper end of its 95 % interval
        kl_per_sample_high: Option<f64>,
        /// The same per token, without an interval
        kl_per_token: Option<f64>,
    }
}
