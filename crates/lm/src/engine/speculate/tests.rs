use super::*;
use crate::engine::tests::{Bench, GO, small};
use crate::engine::{Limits, Progress, Request, Sample, Sampling, StopReason, generate};
use crate::model::runner::Runner;
use crate::model::testing::{every_shape, tiny_tensors};
use crate::model::tokenizer::Tokenizer;
use crate::model::transformer::Transformer;
use candle_core::{DType, Device};
use mindgap_base::rng::Stream;
use std::sync::Mutex;

/// What is drawn, and how far the call was when it ended.
fn run(
    runner: &Runner,
    tokenizer: Option<&Tokenizer>,
    requests: &[Request],
    sampling: &Sampling,
    (slots, threads): (usize, usize),
) -> (Vec<Vec<Sample>>, Progress) {
    let last = Mutex::new(Progress::default());
    let limits = Limits { slots, kv_budget_bytes: 1 << 30, threads, cancel: &GO };
    let samples =
        generate(runner, tokenizer, requests, sampling, &limits, &|progress| *last.lock().unwrap() = progress).unwrap();
    (samples, last.into_inner().unwrap())
}

/// Prompts of a few tokens of 61, said twice or more.
fn requests(count: u32, samples: u32) -> Vec<Request> {
    let prompt = |index: u32| (0..4 + index * 7 % 23).map(|i| (i % 5 * 31 + index * 7) % 61).collect::<Vec<_>>();
    let stream = |index: u32, j: u32| Stream::at(2, &[&index.to_le_bytes(), &j.to_le_bytes()]);
    (0..count).map(|index| Request::new(prompt(index), (0..samples).map(|j| stream(index, j)).collect())).collect()
}

/// Goal: whatever is guessed, samples are the same to the bit, for every family, way to draw and size of batch; and guesses
/// come out and fail in all of them.
#[test]
fn guesses_change_no_sample() {
    for config in every_shape() {
        let transformer =
            Transformer::from_tensors(&config, tiny_tensors(&config, 5), DType::F32, &Device::Cpu).unwrap();
        let runner = Runner::from_transformer(&transformer).unwrap();
        let requests = requests(5, 3);
        let plain = Sampling { eos: vec![3, 50], ..Sampling::plain(40, &[]) };
        let (mut right, mut wrong) = (0, 0);
        for sampling in [
            plain.clone(),
            Sampling { temperature: 0.5, top_p: 0.9, ..plain.clone() },
            Sampling { temperature: 0.3, top_k: 7, min_p: 0.05, ..plain.clone() },
            Sampling { temperature: 0.0, ..plain },
            // To the last position.
            Sampling { temperature: 0.4, ..Sampling::plain(500, &[]) },
        ] {
            let (expected, without) = run(&runner, None, &requests, &sampling, (64, 1));
            assert_eq!((without.guessed, without.guessed_right), (0, 0));
            for (most, slots, threads) in [(1, 1, 1), (4, 3, 2), (8, 1, 2), (30, 15, 1)] {
                let guessing = Sampling { speculate: most, ..sampling.clone() };
                let (samples, progress) = run(&runner, None, &requests, &guessing, (slots, threads));
                let context = format!("{:?}, {sampling:?}, {most} guesses, {slots} slots", config.architecture);
                assert_eq!(samples, expected, "{context}");
                assert_eq!(progress.new_tokens, without.new_tokens, "{context}");
                right += progress.guessed_right;
                wrong += progress.guessed - progress.guessed_right;
            }
        }
        assert!(right > 100 && wrong > 100, "{:?}: {right} right, {wrong} wrong", config.architecture);
    }
}

/// Goal: a sample that repeats what another one said takes few steps, and ends at the EOS or stop string in the middle of its guesses.
#[test]
fn a_run_of_right_guesses_ends_where_the_sample_ends() {
    let Bench { policy, runner } = small();
    let tokenizer = Some(policy.tokenizer());
    let greedy = Sampling { temperature: 0.0, ..Sampling::plain(60, &[]) };
    let request = |samples| vec![Request::new([5, 9, 70, 40], vec![Stream::at(1, &[]); samples])];
    let free = run(&runner, tokenizer, &request(1), &greedy, (1, 1)).0[0][0].token_ids.clone();
    // The last token that comes up for the first time: nothing ends before it.
    let at = (0..free.len()).rev().find(|i| !free[..*i].contains(&free[*i])).unwrap();
    assert!(at > 3, "the text is one loop: {free:?}");
    let eos = Sampling { eos: vec![free[at]], ..greedy.clone() };
    let text = policy.tokenizer().text(&free).unwrap();
    let stop = text.chars().filter(char::is_ascii_graphic).max_by_key(|c| text.find(*c)).unwrap().to_string();
    assert!(text.find(&stop).unwrap() > 3, "the text is one loop: {text}");
    let stop = Sampling { stop: vec![stop], ..greedy.clone() };
    for (sampling, reason) in [(eos, StopReason::Eos), (stop, StopReason::StopString), (greedy, StopReason::MaxTokens)]
    {
        let expected = run(&runner, tokenizer, &request(4), &sampling, (1, 1)).0;
        assert_eq!(expected[0][0].stop_reason, reason);
        let guessing = Sampling { speculate: 100, ..sampling };
        let (samples, progress) = run(&runner, tokenizer, &request(4), &guessing, (1, 1));
        assert_eq!(samples, expected);
        assert!(progress.guessed_right >= expected[0][0].token_ids.len(), "{reason:?}: {progress:?}");
    }
}

#[test]
fn nothing_is_guessed_on_a_device() {
    let bench = small();
    let transformer = bench.policy.transformer(DType::F32, &Device::Cpu).unwrap();
    let device = crate::model::runner::device::DeviceRunner::from_transformer(&transformer).unwrap();
    let sampling = Sampling { speculate: 8, temperature: 0.0, ..Sampling::plain(30, &[]) };
    let (_, progress) = run(&Runner::Device(device), None, &requests(3, 2), &sampling, (4, 1));
    assert_eq!((progress.done, progress.guessed), (6, 0));
}

fn draws(token_ids: &[u32]) -> Vec<Draw> {
    let draw = |token_id: &u32| Draw { token_id: *token_id, logprob_behavior: 0.0, logprob_policy: 0.0 };
    token_ids.iter().map(draw).collect()
}

#[test]
fn the_longest_and_latest_repetition_is_guessed() {
    let mut followers = Followers::of(&[1, 2, 3, 4, 9, 2, 3, 5, 8, 3, 6]);
    let guess = |followers: &Followers, tail: &[u32]| followers.guess(&Tail::of(tail)).map(|g| (g.order, g.token));
    assert_eq!(guess(&followers, &[1, 2, 3]), Some((3, 4)));
    assert_eq!(guess(&followers, &[7, 2, 3]), Some((2, 5)));
    assert_eq!(guess(&followers, &[2, 7, 3]), Some((1, 6)));
    assert_eq!(guess(&followers, &[6]), None, "nothing came after it");
    assert_eq!(guess(&followers, &[]), None);
    let mut tail = Tail::of(&[1, 2, 3]);
    followers.note(&mut tail, 7);
    assert_eq!(tail, Tail::of(&[2, 3, 7]));
    assert_eq!(guess(&followers, &[1, 2, 3]), Some((3, 7)));
    assert_eq!(guess(&followers, &[4, 2, 3]), Some((2, 7)));
}

/// Goal: guesses get longer the likelier they are, fewer the more samples share a step, and none where none come out, until they
/// would.
#[test]
fn guesses_follow_their_chance() {
    let mut speculation = Speculation::new(8, 16);
    let circle = [1, 2, 3, 4, 5, 1, 2, 3, 4, 5];
    let mut tail = speculation.start(0, &circle);
    let length =
        |speculation: &Speculation, tail, samples, room| speculation.draft(0, tail, 5, samples, room).guesses().len();
    // 0.6^5 is more than 1 / (16 + 1), 0.6^6 is less; a guess of 0.6 pays until there are 24 samples.
    assert_eq!(speculation.draft(0, tail, 5, 1, 100).token_ids, [5, 1, 2, 3, 4, 5]);
    assert_eq!([4, 16, 23, 25].map(|samples| length(&speculation, tail, samples, 100)), [3, 1, 1, 0]);
    assert_eq!([0, 1, 3].map(|room| length(&speculation, tail, 1, room)), [0, 1, 3]);
    // All wrong: no guess is fed, but the first is still compared.
    for i in 0..1000 {
        let draft = speculation.draft(0, tail, 5, 1, 100);
        let wrong = 100 + i;
        speculation.learn(0, &mut Tail::of(&circle), &draft, &draws(&[wrong]));
        speculation.followers.insert(0, Followers::of(&circle));
    }
    assert_eq!(length(&speculation, tail, 1, 100), 0);
    for token in circle.iter().cycle().take(300) {
        let draft = speculation.draft(0, tail, 5, 1, 100);
        speculation.learn(0, &mut tail, &draft, &draws(&[*token]));
    }
    assert_eq!(length(&speculation, tail, 1, 100), 8);
    speculation.keep(|request| request != 0);
    assert_eq!(length(&speculation, tail, 1, 100), 0);
    for mut off in [Speculation::new(0, 16), Speculation::new(8, 0)] {
        let tail = off.start(0, &circle);
        assert_eq!(length(&off, tail, 1, 100), 0);
    }
}
