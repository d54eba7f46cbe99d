//! Several tables in one training: which rows are taken, what they weigh, and what the batch plan says of them.

use super::Ran;
use crate::support::{fails, pipeline, scratch};
use mindgap_store::table::logprobs::Logprob;
use mindgap_store::table::problems::Problem;
use mindgap_store::table::rewrites::Rewrite;
use mindgap_store::table::train_steps::{BatchPlan, TrainStep};
use std::collections::BTreeSet;

/// Two tables of a random policy of two small layers, and trainings on mixtures of them.
const MIXTURE: &str = r#"
[policies]
base = { path = "FIXTURES/model/qwen2" }
[stages.problems]
kind = "ingest"
matrix.of = [{ name = "new", file = "train-0" }, { name = "old", file = "train-1" }]
files = [{ path = "DATA/world/{of.file}.parquet", source = "{of.name}" }]
limit = 18
[stages.expert]
kind = "rewrite"
matrix.of = ["new", "old"]
problems = "problems-{of}"
policy = "base"
[stages.logprobs]
kind = "logprob"
rewrites = "expert-old"
policy = "base"
[stages.train]
kind = "train"
policy = "base"
data = DATA_OF
loss = "sft"
learning_rate = 1e-4
batch_size = 10
epochs = 1
seed = 3
"#;

fn run(folder: &std::path::Path, data: &str) -> Ran {
    let text = MIXTURE.replace("DATA_OF", data);
    Ran::new(&folder.join("store"), &pipeline(folder, "mixture.toml", &text))
}

fn mean(row: &Logprob) -> f64 {
    row.logprob_policy.iter().map(|v| f64::from(*v)).sum::<f64>() / row.logprob_policy.len() as f64
}

/// Row number and portion of every row of every step.
fn planned(ran: &Ran) -> Vec<(u32, u32)> {
    let rows = |step: BatchPlan| step.rows.into_iter().zip(step.portions.expect("a mixture tells portions"));
    ran.rows::<BatchPlan>("train").into_iter().flat_map(rows).collect()
}

/// Goal: a share is of all rows, the highest are the highest, and the plan names the portion of every row.
#[test]
fn a_share_of_the_highest_rows_is_mixed_in() {
    let folder = scratch();
    let data = "[{ from = 'expert-new' }, { from = 'expert-old', share = 0.25, highest = { from = 'logprobs', column = 'logprob_policy' } }]";
    let ran = run(folder.path(), data);
    let plan = planned(&ran);
    assert_eq!(plan.len(), 24, "18 rows are three quarters");
    assert_eq!(plan.iter().filter(|(_, portion)| *portion == 1).count(), 6);
    assert!(plan.iter().all(|(row, portion)| (*row >= 18) == (*portion == 1)));
    assert_eq!(plan.iter().map(|(row, _)| row).collect::<BTreeSet<_>>().len(), 24, "each once in an epoch");

    // By hand: the six likeliest targets make the token count of the epoch.
    let mut scored = ran.rows::<Logprob>("logprobs");
    scored.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
    let best: usize = scored[..6].iter().map(|row| row.token_ids.len()).sum();
    let new: usize = ran.rows::<Rewrite>("expert-new").iter().map(|row| row.token_ids.len()).sum();
    let trained: u64 = ran.rows::<TrainStep>("train").iter().map(|step| step.token_count).sum();
    assert_eq!(trained, (best + new) as u64);
}

/// Goal: of every source of the rows' problems as many are taken, the best of each.
#[test]
fn sources_give_equally_many() {
    let folder = scratch();
    let both = "[{ path = \"DATA/world/train-0.parquet\", source = \"new\" }, { path = \"DATA/world/task-large.parquet\", source = \"old\" }]";
    let data = "[{ from = 'expert-old', rows = 7, per_source = 'problems-old', highest = { from = 'logprobs', column = 'logprob_policy' } }]";
    let text = MIXTURE
        .replace("[{ path = \"DATA/world/{of.file}.parquet\", source = \"{of.name}\" }]", both)
        .replace("limit = 18", "limit = 60")
        .replace("DATA_OF", data);
    let ran = Ran::new(&folder.path().join("store"), &pipeline(folder.path(), "mixture.toml", &text));
    let mut scored = ran.rows::<Logprob>("logprobs");
    scored.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
    let problems = ran.rows::<Problem>("problems-old");
    let tokens = |source: &str, count: usize| -> usize {
        let of = |row: &&Logprob| problems.iter().any(|p| p.problem_id == row.problem_id && p.source == source);
        let best: Vec<usize> = scored.iter().filter(of).take(count).map(|row| row.token_ids.len()).collect();
        assert_eq!(best.len(), count, "{source}");
        best.iter().sum()
    };
    let trained: u64 = ran.rows::<TrainStep>("train").iter().map(|step| step.token_count).sum();
    assert_eq!(trained, (tokens("new", 4) + tokens("old", 3)) as u64);
    let best: usize = scored[..7].iter().map(|row| row.token_ids.len()).sum();
    assert_ne!(trained, best as u64, "the best of all are others");
}

/// Goal: a portion of weight 0 counts for nothing, and all rows of one table are that table, whichever way it is written.
#[test]
fn portions_weigh_what_they_say() {
    let folder = scratch();
    let losses = |data: &str| -> Vec<f64> {
        run(folder.path(), data).rows::<TrainStep>("train").iter().map(|step| step.nll).collect()
    };
    let one = losses("'expert-new'");
    assert_eq!(losses("[{ from = 'expert-new' }]"), one);
    assert_eq!(losses("[{ from = 'expert-new', weight = 3.0 }]"), one, "only proportions matter");
    assert_ne!(losses("[{ from = 'expert-new', rows = 17 }]"), one);
    let weighted = losses(
        "[{ from = 'expert-new', row_weights = { from = 'logprobs_new', column = 'prompt_token_count' } }]"
            .replace("logprobs_new", "logprobs")
            .replace("expert-new", "expert-old")
            .as_str(),
    );
    assert_ne!(weighted, losses("[{ from = 'expert-old' }]"), "a column of a stage weighs rows");
}

#[test]
fn mistakes_are_told() {
    let folder = scratch();
    for (data, says) in [
        ("[]", "`data` is empty"),
        ("[{ from = 'expert-new', share = 0.5 }]", "leave no rows"),
        ("[{ from = 'expert-new' }, { from = 'expert-old', share = 1.5 }]", "`share` is 1.5"),
        ("[{ from = 'expert-new', shares = 0.5 }]", "unknown key `shares`"),
        ("[{ from = 'expert-nw' }]", "`data` names `expert-nw`, which does not exist"),
        ("[{ from = 'expert-new', highest = { from = 'logprobs', column = 'x' } }]", "says how many"),
        ("[{ from = 'expert-new', per_source = 'problems-new' }]", "`per_source` chooses some rows"),
        ("[{ from = 'expert-new', rows = 3, per_source = 'expert-old' }]", "`expert-old`"),
        ("[{ from = 'expert-new', row_weights = { column = 'x' } }]", "either a `file` or a stage"),
        ("[{ from = 'expert-new' }]\nsources = ['self']", "are of one table"),
        ("3", "the name of a stage, or a list"),
    ] {
        let file = pipeline(folder.path(), "wrong.toml", &MIXTURE.replace("DATA_OF", data));
        let said = fails(&folder.path().join("store"), &["plan", file.to_str().unwrap()], 2);
        assert!(said.contains(says), "{data}: {said}");
    }
}
