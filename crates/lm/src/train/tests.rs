//! The trainer as a whole: gradients reach everything, threads and packing change nothing, saved state goes on to the bit.

use super::bf16_tests::in_bf16;
use super::*;
use crate::model::config::Config;
use crate::model::ops::without_kernels;
use crate::model::tensors::TensorFile;
use crate::model::testing::{every_shape, file_bytes, tiny_config, tiny_tensors};
use candle_core::{DType, Device, Tensor};
use mindgap_base::rng::Stream;
use std::collections::{BTreeMap, HashMap};

pub(super) fn params(loss: &str) -> TrainerParams {
    TrainerParams {
        loss: Loss::from_value(&serde_json::json!(loss)).unwrap(),
        optimizer: AdamWParams { weight_decay: 0.1, ..AdamWParams::default() },
        schedule: Schedule { warmup_steps: 2, decay: Decay::Cosine, ..Schedule::constant(1e-2, 20) },
        packing: PackingParams { micro_batch_tokens: 40, ..PackingParams::default() },
        clip_norm: 1.0,
        accumulation: Accumulation::TokenMean,
        eos_token_ids: vec![2],
        skip_limit: 3,
        dtype: DType::F32,
        rounding: Rounding::Kept,
        lora: None,
        seed: 0,
        gradient_checkpointing: false,
    }
}

pub(super) fn trainer(config: &Config, params: TrainerParams) -> Trainer {
    Trainer::new(config, tiny_tensors(config, 3), params, &Device::Cpu).unwrap()
}

/// Rows of random tokens with a prompt, an end of sequence and stored log-probs.
pub(super) fn examples(count: usize) -> Vec<TrainExample> {
    let row = |i: usize| {
        let mut cursor = Stream::at(5, &[b"example", &i.to_le_bytes()]).cursor();
        let length = 4 + cursor.below(18) as usize;
        let mut token_ids: Vec<u32> = (0..length).map(|_| 3 + cursor.below(50) as u32).collect();
        token_ids.push(2);
        let column: Vec<f32> = token_ids.iter().map(|_| -3.0 * cursor.uniform() as f32).collect();
        TrainExample {
            loss_mask: (0..token_ids.len()).map(|t| t >= 3).collect(),
            logprob_reference: Some(column.clone()),
            logprob_behavior: (!i.is_multiple_of(3)).then_some(column),
            ..TrainExample::new(token_ids, Vec::new(), (i % 3) as u32)
        }
    };
    (0..count).map(row).collect()
}

pub(super) fn run(trainer: &mut Trainer, rows: &[TrainExample], steps: std::ops::Range<usize>) -> Vec<StepMetrics> {
    let batch = |i: usize| -> Vec<&TrainExample> { (0..5).map(|j| &rows[(i * 5 + j) % rows.len()]).collect() };
    steps.map(|i| trainer.step(&batch(i)).unwrap()).collect()
}

/// A trainer's state as it is now.
pub(super) fn saved(trainer: &Trainer) -> BTreeMap<String, Tensor> {
    TensorFile::open(&file_bytes(&trainer.state().unwrap())).unwrap().with_prefix("").unwrap()
}

/// Goes back to such a state, through a file.
pub(super) fn restore(trainer: &mut Trainer, state: &BTreeMap<String, Tensor>) -> mindgap_base::error::Result<()> {
    trainer.restore(&TensorFile::open(&file_bytes(state))?)
}

fn bits(weights: &BTreeMap<String, Tensor>) -> Vec<u32> {
    let values = |t: &Tensor| t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    weights.values().flat_map(values).map(f32::to_bits).collect()
}

const LOSSES: [&str; 12] =
    ["sft", "dft", "importance", "iw-sft", "psft", "idft", "eaft", "chord-phi", "talr", "asft", "power", "gift"];

/// One step of a policy of this shape moves all its tensors. Without decay: that would move a matrix which has no gradient.
fn assert_moves_every_tensor(config: &Config, loss: &str) {
    let optimizer = AdamWParams { weight_decay: 0.0, ..AdamWParams::default() };
    let mut trainer = trainer(config, TrainerParams { optimizer, ..params(loss) });
    let before = trainer.weights().unwrap();
    let metrics = &run(&mut trainer, &examples(5), 0..1)[0];
    assert!(metrics.skipped.is_none() && metrics.grad_norm > 0.0, "{loss}: {metrics:?}");
    for (name, after) in trainer.weights().unwrap() {
        let moved = (after - &before[&name]).unwrap().abs().unwrap().sum_all().unwrap();
        assert!(moved.to_scalar::<f32>().unwrap() > 0.0, "{loss} does not move `{name}`");
    }
}

#[test]
fn one_step_moves_every_tensor() {
    for loss in LOSSES {
        assert_moves_every_tensor(&tiny_config(), loss);
    }
}

#[test]
fn training_lowers_the_loss() {
    let rows = examples(5);
    let mut trainer = trainer(&tiny_config(), params("sft"));
    let metrics = run(&mut trainer, &rows, 0..20);
    assert!(metrics[19].nll < 0.6 * metrics[0].nll, "{} then {}", metrics[0].nll, metrics[19].nll);
    let all: Vec<&TrainExample> = rows.iter().collect();
    let evaluated = trainer.evaluate(&all).unwrap();
    assert_eq!(evaluated.nll, trainer.step(&all).unwrap().nll);
}

#[test]
fn thread_count_changes_no_bit() {
    let rows = examples(15);
    let [.., stochastic] = in_bf16("dft");
    for params in [params("dft"), stochastic] {
        let in_pool = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut trainer = trainer(&tiny_config(), params.clone());
                let metrics = run(&mut trainer, &rows, 0..4);
                (bits(&trainer.weights().unwrap()), metrics)
            })
        };
        let one = in_pool(1);
        assert_eq!(one, in_pool(2));
        assert_eq!(one, in_pool(5));
    }
}

#[test]
fn a_saved_state_goes_on_to_the_bit() {
    let rows = examples(15);
    let [.., stochastic] = in_bf16("dft");
    for params in ["dft", "psft", "asft", "gift"].map(params).into_iter().chain([stochastic]) {
        let trainer = || trainer(&tiny_config(), params.clone());
        let mut straight = trainer();
        let metrics = run(&mut straight, &rows, 0..12);
        let mut first = trainer();
        run(&mut first, &rows, 0..5);
        let state = saved(&first);
        run(&mut first, &rows, 5..7);
        let mut second = trainer();
        restore(&mut second, &state).unwrap();
        assert_eq!(second.steps_done(), 5);
        assert_eq!(run(&mut second, &rows, 5..12), metrics[5..], "{params:?}");
        assert_eq!(bits(&second.weights().unwrap()), bits(&straight.weights().unwrap()), "{params:?}");
    }
}

#[test]
fn bad_states_are_errors_and_change_nothing() {
    let mut trainer = trainer(&tiny_config(), params("dft"));
    let before = bits(&trainer.weights().unwrap());
    let state = saved(&trainer);
    for key in ["trainer.counters", "weights.model.norm.weight", "adamw.first.model.norm.weight"] {
        let mut broken = state.clone();
        broken.remove(key);
        assert!(restore(&mut trainer, &broken).unwrap_err().what().contains(key));
    }
    let mut broken = state.clone();
    broken.insert("weights.model.norm.weight".to_string(), Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap());
    assert!(restore(&mut trainer, &broken).unwrap_err().what().contains("shape [3]"));
    assert_eq!(bits(&trainer.weights().unwrap()), before);
}

/// A row's log-probs do not depend on its neighbours in the pack, nor on how the step is cut.
#[test]
fn packing_has_no_cross_talk() {
    let rows = examples(6);
    let nll = |rows: &[TrainExample], tokens: usize| {
        let mut params = params("sft");
        params.packing.micro_batch_tokens = tokens;
        let all: Vec<&TrainExample> = rows.iter().collect();
        let metrics = trainer(&tiny_config(), params).evaluate(&all).unwrap();
        metrics.nll * metrics.token_count as f64
    };
    let alone: f64 = rows.iter().map(|row| nll(std::slice::from_ref(row), 1000)).sum();
    for tokens in [1, 40, 1000] {
        assert!((nll(&rows, tokens) / alone - 1.0).abs() < 1e-12, "micro-batches of {tokens}");
    }
    let mut changed = rows.clone();
    changed[1].token_ids.iter_mut().for_each(|id| *id = 60 - *id);
    let others = |rows: &[TrainExample]| nll(rows, 1000) - nll(&rows[1..2], 1000);
    assert!((others(&changed) - others(&rows)).abs() < 1e-9);
}

/// A mean by problem is the same however the step is cut, and what it is by hand: of each row its NLL by the longest of its problem.
#[test]
fn a_mean_by_problem_does_not_know_micro_batches() {
    let mut rows = examples(5);
    for (i, row) in rows.iter_mut().enumerate() {
        row.weight = [1.0, 0.25, 0.0, 3.0, 1.0][i];
        row.longest = [Some(30), Some(30), Some(7), None, Some(19)][i];
    }
    // Its target is not trained on, so it counts nowhere.
    rows[4].loss_mask.fill(false);
    let evaluate = |rows: &[&TrainExample], accumulation: Accumulation, tokens: usize| {
        let mut params = TrainerParams { accumulation, ..params("sft") };
        params.packing.micro_batch_tokens = tokens;
        trainer(&tiny_config(), params).evaluate(rows).unwrap()
    };
    let nll = |row: &TrainExample| {
        let metrics = evaluate(&[row], Accumulation::TokenMean, 1000);
        (metrics.nll * metrics.token_count as f64, metrics.token_count as f64)
    };
    let (third, own) = nll(&rows[3]);
    let by_hand = (nll(&rows[0]).0 / 30.0 + 0.25 * nll(&rows[1]).0 / 30.0 + 3.0 * third / own) / 4.25;
    let all: Vec<&TrainExample> = rows.iter().collect();
    for tokens in [1, 30, 1000] {
        let loss = evaluate(&all, Accumulation::LongestOfProblem, tokens).loss;
        assert!((loss / by_hand - 1.0).abs() < 1e-6, "{loss} and {by_hand}");
    }
}

#[test]
fn steps_without_an_update_are_reported_and_then_stop() {
    let mut untargeted = examples(1);
    untargeted[0].loss_mask.fill(false);
    let mut skipping = trainer(&tiny_config(), params("sft"));
    let before = bits(&skipping.weights().unwrap());
    let rows: Vec<&TrainExample> = untargeted.iter().collect();
    assert_eq!(skipping.step(&rows).unwrap().skipped.as_deref(), Some("no target token in this step"));
    assert!(skipping.step(&rows).is_ok());
    assert!(skipping.step(&rows).unwrap_err().what().contains("3 steps in a row"));
    assert_eq!(bits(&skipping.weights().unwrap()), before);

    let mut tensors: HashMap<String, Tensor> = tiny_tensors(&tiny_config(), 3);
    tensors.insert("model.norm.weight".to_string(), Tensor::full(f32::INFINITY, 24, &Device::Cpu).unwrap());
    let mut broken = Trainer::new(&tiny_config(), tensors, params("sft"), &Device::Cpu).unwrap();
    let rows = examples(2);
    let reason = broken.step(&rows.iter().collect::<Vec<_>>()).unwrap().skipped.unwrap();
    assert!(reason.contains("NaN") || reason.contains("inf"), "{reason}");
}

#[test]
fn missing_reference_log_probs_are_named() {
    let mut rows = examples(3);
    rows[1].logprob_reference = None;
    let mut trainer = trainer(&tiny_config(), params("iw-sft"));
    let error = trainer.step(&rows.iter().collect::<Vec<_>>()).unwrap_err();
    assert_eq!(error.places(), ["step 0", "row 1 of the batch"]);
    rows[1].name = "problem `p`".to_string();
    let error = trainer.step(&rows.iter().collect::<Vec<_>>()).unwrap_err();
    assert_eq!(error.places(), ["step 0", "row 1 of the batch", "problem `p`"]);
}

/// A token that the policy does not have is told with its row, though a micro-batch holds several and though nothing reads the
/// last target.
#[test]
fn tokens_outside_the_vocabulary_are_told_with_their_row() {
    for token in [0, 9] {
        let mut rows = examples(3);
        rows[2].name = "problem `p`".to_string();
        rows[2].token_ids.truncate(10);
        rows[2].loss_mask.truncate(10);
        (rows[2].logprob_reference, rows[2].logprob_behavior) = (None, None);
        let last = rows[2].token_ids.len() - 1;
        rows[2].token_ids[token.min(last)] = 61;
        let error = trainer(&tiny_config(), params("sft")).step(&rows.iter().collect::<Vec<_>>()).unwrap_err();
        assert!(error.what().contains("token id 61 is outside the vocabulary of 61"), "{error}");
        assert_eq!(error.places(), ["step 0", "row 2 of the batch", "problem `p`"]);
    }
}

/// What no training can be told is refused before a weight is looked at.
#[test]
fn parameters_outside_their_range_are_named() {
    let refused = |change: fn(&mut TrainerParams)| {
        let mut params = params("sft");
        change(&mut params);
        Trainer::new(&tiny_config(), HashMap::new(), params, &Device::Cpu).err().unwrap().what().to_string()
    };
    assert!(refused(|p| p.clip_norm = -1.0).contains("`clip_norm` is `-1`"));
    assert!(refused(|p| p.clip_norm = f64::NAN).contains("`clip_norm` is `NaN`"));
    assert!(refused(|p| p.packing.max_length = 1).contains("`max_length` is `1`"));
    assert!(refused(|p| p.packing.micro_batch_tokens = 0).contains("`micro_batch_tokens` is `0`"));
    assert!(refused(|p| p.optimizer.beta2 = 1.0).contains("`beta2` is `1`"));
    assert!(refused(|p| p.schedule.floor_share = f64::NAN).contains("`floor_share` is `NaN`"));
    assert!(refused(|_| ()).contains("is missing"));
}

/// What runs on other devices, operators composed of candle's, gives the kernels' gradients: whole or by blocks, all weights or
/// adapters, one- and two-term losses.
#[test]
fn compositions_agree_with_the_kernels() {
    let rows = examples(15);
    let lora = || Some(LoraParams { rank: 3, alpha: 6.0, targets: vec!["q_proj".to_string(), "up_proj".to_string()] });
    for (loss, lora, gradient_checkpointing) in [
        ("sft", None, false),
        ("dft", None, false),
        ("dft", None, true),
        ("asft", None, true),
        ("power", None, false),
        ("gift", None, true),
        ("sft", lora(), false),
        ("dft", lora(), true),
    ] {
        let config = Config { tie_word_embeddings: loss == "dft", ..tiny_config() };
        let own = || {
            let mut trainer =
                trainer(&config, TrainerParams { lora: lora.clone(), gradient_checkpointing, ..params(loss) });
            (run(&mut trainer, &rows, 0..3), saved(&trainer))
        };
        let (kernels, composed) = (own(), without_kernels(own));
        assert_ne!(kernels.0, composed.0, "other operations should round otherwise");
        for (a, b) in kernels.0.iter().zip(&composed.0) {
            assert!((a.loss - b.loss).abs() < 1e-5 && (a.grad_norm / b.grad_norm - 1.0).abs() < 1e-4, "{a:?} {b:?}");
        }
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (name, moment) in kernels.1.iter().filter(|(name, _)| name.starts_with("adamw.first.")) {
            for (a, b) in values(moment).iter().zip(&values(&composed.1[name])) {
                assert!((a - b).abs() < 1e-5, "{loss} {name}: {a} and {b}");
            }
        }
    }
}

/// No composition cuts a gradient, for any loss and any family of models.
#[test]
fn one_step_of_compositions_moves_every_tensor() {
    for (loss, config) in LOSSES.into_iter().zip(every_shape().into_iter().cycle()) {
        without_kernels(|| assert_moves_every_tensor(&config, loss));
    }
}

/// A checkpoint made with kernels goes on without them, and the other way round: it is the same state.
#[test]
fn a_checkpoint_goes_on_elsewhere() {
    let rows = examples(15);
    let straight = run(&mut trainer(&tiny_config(), params("dft")), &rows, 0..6);
    let first = || {
        let mut trainer = trainer(&tiny_config(), params("dft"));
        run(&mut trainer, &rows, 0..3);
        saved(&trainer)
    };
    let go_on = |state: BTreeMap<String, Tensor>| {
        let mut trainer = trainer(&tiny_config(), params("dft"));
        restore(&mut trainer, &state).unwrap();
        run(&mut trainer, &rows, 3..6)
    };
    let (there, here) = (first(), without_kernels(first));
    for metrics in [without_kernels(|| go_on(there)), go_on(here)] {
        for (a, b) in straight[3..].iter().zip(&metrics) {
            assert!((a.loss - b.loss).abs() < 1e-5, "{a:?} {b:?}");
        }
    }
}

#[test]
fn a_gpu_trains_as_the_cpu_does() {
    let Some(device) = crate::model::device::for_tests() else { return };
    let rows = examples(15);
    let on = |device: &Device| {
        let mut trainer = Trainer::new(&tiny_config(), tiny_tensors(&tiny_config(), 3), params("dft"), device).unwrap();
        run(&mut trainer, &rows, 0..5)
    };
    for (a, b) in on(&Device::Cpu).iter().zip(&on(&device)) {
        assert!((a.loss - b.loss).abs() < 1e-3 && (a.grad_norm / b.grad_norm - 1.0).abs() < 1e-2, "{a:?} {b:?}");
    }
}

/// Held-out rows come without reference log-probs: what can be measured is.
#[test]
fn evaluates_without_reference_log_probs() {
    let mut rows = examples(3);
    let rows_of = |rows: &[TrainExample], loss: &str| {
        let rows: Vec<&TrainExample> = rows.iter().collect();
        trainer(&tiny_config(), params(loss)).evaluate(&rows).unwrap()
    };
    assert_ne!(rows_of(&rows, "iw-sft").loss, rows_of(&rows, "sft").loss);
    rows.iter_mut().for_each(|row| row.logprob_reference = None);
    assert_eq!(rows_of(&rows, "iw-sft"), rows_of(&rows, "sft"));
}

/// Computing blocks again gives the same bits, whichever way gradients come and whatever is trained.
#[test]
fn gradient_checkpointing_changes_no_bit() {
    let rows = examples(15);
    let lora = Some(LoraParams { rank: 3, alpha: 6.0, targets: vec!["q_proj".to_string(), "up_proj".to_string()] });
    for (loss, dtype, lora) in
        [("dft", DType::F32, None), ("asft", DType::F32, None), ("dft", DType::BF16, None), ("sft", DType::F32, lora)]
    {
        for tie_word_embeddings in [true, false] {
            let config = Config { tie_word_embeddings, ..tiny_config() };
            let own = |gradient_checkpointing| {
                let params = TrainerParams { dtype, lora: lora.clone(), gradient_checkpointing, ..params(loss) };
                let mut trainer = trainer(&config, params);
                (run(&mut trainer, &rows, 0..3), bits(&trainer.weights().unwrap()))
            };
            assert!(own(true) == own(false), "{loss} {dtype:?} tied {tie_word_embeddings}");
        }
    }
}
