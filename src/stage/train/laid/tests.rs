use super::super::rows::Needs;
use super::*;
use crate::stage::texts::Texts;
use mindgap_store::parquet::{Encoded, Footer};
use mindgap_store::table::rollouts::{PromptKind, Rollout, StopReason};
use mindgap_store::{PartRef, Table, table};

fn part<R: table::Row>(store: &Store, rows: &[R]) -> PartRef {
    store.put_part(Encoded::new(rows, &Footer { stage: "test", fingerprint: "none" }).unwrap()).unwrap()
}

/// The sample of a problem: how long it is and what it says differ from the others'.
fn sample(problem: u32, sample_index: u32) -> Rollout {
    let token_ids: Vec<u32> =
        (0..2 + (problem + 2 * sample_index) % 4).map(|t| 100 * problem + 10 * sample_index + t).collect();
    let logprobs: Vec<f32> = token_ids.iter().map(|token| -0.001 * *token as f32).collect();
    Rollout {
        problem_id: format!("p{problem}"),
        sample_index,
        prompt_kind: if sample_index == 3 { PromptKind::Guided } else { PromptKind::Plain },
        completion: String::new(),
        prompt_ids: (0..3 + problem).collect(),
        logprob_behavior: Some(logprobs.clone()),
        logprob_policy: Some(logprobs),
        token_ids,
        stop_reason: StopReason::Eos,
        special_count: 0,
        seed: 0,
        prefill: None,
        engine: None,
        failure: None,
    }
}

/// What a teacher says of a sample's first tokens, two for each.
fn soft(of: &Rollout, scored: usize) -> Soft {
    let token_ids = of.token_ids[..scored].to_vec();
    let top_ids: Vec<u32> = token_ids.iter().flat_map(|token| [*token, token + 1]).collect();
    Soft {
        problem_id: of.problem_id.clone(),
        choice_index: of.sample_index,
        prompt_token_count: 9,
        logprob_teacher: vec![-0.5; scored],
        k: 2,
        top_logprobs: top_ids.iter().map(|id| -0.01 * *id as f32).collect(),
        top_ids,
        tail: vec![0.1; scored],
        token_ids,
        engine: None,
        failure: None,
    }
}

/// Goal: rows of several parts, whose samples lie apart, with what stands beside them, are those put together from whole tables.
#[test]
fn rows_are_those_of_the_whole_tables() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("store")).unwrap();
    let problems = [1, 2, 3];
    let samples = |of: std::ops::Range<u32>| -> Vec<Rollout> {
        problems.iter().flat_map(|p| of.clone().map(|index| sample(*p, index))).collect()
    };
    let parts = [samples(0..2), samples(2..4)];
    let (all, skip) = (samples(0..4), 1);
    // One sample of which nothing is said, and one that was cut off.
    let told: Vec<Soft> = all
        .iter()
        .filter(|row| (row.problem_id.as_str(), row.sample_index) != ("p2", 1))
        .map(|row| soft(row, row.token_ids.len() - usize::from(row.sample_index == 2)))
        .collect();
    let rows = Rows {
        table: Kind::Texts(Texts::Rollouts(Table::new(&store, parts.iter().map(|rows| part(&store, rows)).collect()))),
        reference: None,
        sources: vec![Source::SelfAligned],
        weight: 0.5,
        weights: None,
        highest: None,
        per_source: None,
        soft: Some(Table::new(&store, told.chunks(4).map(|rows| part(&store, rows)).collect())),
        rewards: None,
        needs: Needs { scale: None, skip },
    };

    let wanted: Vec<&Rollout> = all
        .iter()
        .filter(|row| row.sample_index != 3 && (row.problem_id.as_str(), row.sample_index) != ("p2", 1))
        .collect();
    let laid = Laid::of(&rows, &store).unwrap();
    assert_eq!((laid.len(), rows.row_count().unwrap()), (wanted.len(), wanted.len()));
    for (at, row) in wanted.into_iter().enumerate() {
        let (prompt, scored) = (row.prompt_ids.len(), row.token_ids.len() - usize::from(row.sample_index == 2));
        let teacher = soft(row, scored);
        let longest = all
            .iter()
            .filter(|other| other.problem_id == row.problem_id && other.sample_index != 3)
            .map(|other| other.token_ids.len() as u32)
            .max();
        let token_ids = [&row.prompt_ids[..], &row.token_ids].concat();
        let loss_mask = (0..token_ids.len()).map(|t| t >= prompt + skip && t < prompt + scored).collect();
        let behavior = [vec![0.0; prompt], row.logprob_behavior.clone().unwrap()].concat();
        let expected = TrainExample {
            name: format!("problem `{}`, sample {}", row.problem_id, row.sample_index),
            weight: 0.5,
            longest,
            logprob_behavior: Some(behavior),
            soft: Some(SoftTargets {
                k: 2,
                first: prompt,
                ids: teacher.top_ids.into(),
                logprobs: teacher.top_logprobs.into(),
            }),
            ..TrainExample::new(token_ids, loss_mask, Source::SelfAligned as u32)
        };
        assert_eq!(laid.example(at).unwrap(), expected);
    }
}

/// Soft targets of another policy's samples say so.
#[test]
fn soft_targets_of_other_tokens_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("store")).unwrap();
    let row = sample(1, 0);
    let mut other = soft(&row, 2);
    other.token_ids[1] += 1;
    let rows = Rows {
        table: Kind::Texts(Texts::Rollouts(Table::new(&store, vec![part(&store, &[row])]))),
        reference: None,
        sources: Vec::new(),
        weight: 1.0,
        weights: None,
        highest: None,
        per_source: None,
        soft: Some(Table::new(&store, vec![part(&store, &[other])])),
        rewards: None,
        needs: Needs::default(),
    };
    let error = Laid::of(&rows, &store).err().unwrap();
    assert!(error.to_string().contains("the soft targets are of other tokens"), "{error}");
}
