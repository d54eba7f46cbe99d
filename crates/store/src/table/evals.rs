//! evals: accuracy of a policy on a benchmark.

use super::row::row;

row! {
    /// One row per benchmark and policy.
    Eval in "evals" v 1 key [benchmark, policy] {
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
    }
}
