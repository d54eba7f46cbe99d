//! train_steps: what happened in each optimizer step; train_evals: how held-out rows fared on the way. And the batch plan
//! that was fixed before the first step.

use super::row::row;

row! {
    /// One row per optimizer step.
    TrainStep in "train_steps" v 1 key [step] {
        /// 0-based
        step: u32,
        /// Mean over target tokens of weight times negative log-prob
        loss: f64,
        /// Mean over target tokens of the negative log-prob, nats
        nll: f64,
        /// Global L2 norm of the gradient, before clipping
        grad_norm: f64,
        /// Learning rate of this step
        learning_rate: f64,
        /// Target tokens in the step
        token_count: u64,
        /// Mean of the token weights
        weight_mean: f64,
        /// Variance of the token weights
        weight_var: f64,
        /// Effective sample size of the token weights: (sum w)^2 / sum w^2, between 1 and `token_count`
        ess: f64,
        /// The gradient was clipped
        clipped: bool,
        /// Why no update was made, where none was
        skipped: Option<String>,
        /// Share of target tokens with a weight below 0.05
        low_weight_share: f64,
        /// Mean probability of the end of sequence where it is the target
        eos_probability: Option<f64>,
        /// nll over the self-aligned rows of the step
        nll_self: Option<f64>,
        /// nll over the guided rows of the step
        nll_guided: Option<f64>,
        /// nll over the expert's rows of the step
        nll_expert: Option<f64>,
        /// nll over the rows of the step from elsewhere
        nll_teacher: Option<f64>,
    }
    optional [nll_teacher]
}

row! {
    /// One row per evaluation of the held-out rows during training.
    TrainEval in "train_evals" v 1 key [step] {
        /// Steps done before; 0 is the policy that training starts from
        step: u32,
        /// Mean over the held-out target tokens of the negative log-prob, nats
        nll: f64,
        /// The training loss on the held-out rows; null where it needs log-probs that they lack
        loss: Option<f64>,
        /// Held-out target tokens
        token_count: u64,
        /// Mean probability of the end of sequence where it is the target
        eos_probability: Option<f64>,
        /// nll over the self-aligned held-out rows
        nll_self: Option<f64>,
        /// nll over the guided held-out rows
        nll_guided: Option<f64>,
        /// nll over the expert's held-out rows
        nll_expert: Option<f64>,
        /// The lowest nll so far: these weights are kept as the best
        best: bool,
        /// nll over the held-out rows from elsewhere
        nll_teacher: Option<f64>,
    }
    optional [nll_teacher]
}

row! {
    /// One row per optimizer step: which rows it sees, in order.
    BatchPlan in "batch_plan" v 1 key [step] {
        /// 0-based
        step: u32,
        /// Pass over the data this step starts in, 0-based
        epoch: u32,
        /// Row numbers into the training table, in reading order; where several tables are mixed, into what is taken of each, one after the other
        rows: Vec<u32>,
        /// Which entry of `data` each row is of, 0-based, where several tables are mixed
        portions: Option<Vec<u32>>,
    }
    optional [portions]
}
