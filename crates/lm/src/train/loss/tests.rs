//! The weights of every loss, by hand.

use super::*;
use serde_json::json;

fn token(example: usize, logprob: f32) -> Token {
    Token { example, logprob, entropy: 1.0, ..Token::default() }
}

fn weights(loss: serde_json::Value, tokens: &[Token]) -> Vec<f32> {
    Loss::from_value(&loss).unwrap().weights(tokens, &StepFacts::default())
}

fn near(got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() < 1e-5, "{got} instead of {want}");
    }
}

#[test]
fn probability_weights() {
    let tokens = [token(0, -1.0), token(0, -3.0)];
    near(&weights(json!("sft"), &tokens), &[1.0, 1.0]);
    near(&weights(json!("dft"), &tokens), &[0.367_879, 0.049_787]);
    near(&weights(json!({"name": "dft", "floor": 0.1}), &tokens), &[0.367_879, 0.1]);
    near(&weights(json!("chord-phi"), &tokens), &[0.232_544, 0.047_308]);
    let ending = [tokens[0], Token { eos: true, ..tokens[1] }];
    near(&weights(json!({"name": "dft", "eos_weight": 1.0}), &ending), &[0.367_879, 1.0]);
    // phi = log p + 1 = 0 and -2: exponents 1 and clip(e^2) = 2.
    near(&weights(json!("idft"), &tokens), &[0.367_879, 0.002_479]);
}

#[test]
fn ratio_weights() {
    let with = |t: Token, b: f32| Token { behavior: Some(b), reference: Some(b), old: Some(b), ..t };
    let tokens = [with(token(0, -1.0), -2.0), with(token(0, -1.0), -0.5), with(token(1, -2.0), -2.5)];
    near(&weights(json!("importance"), &tokens), &[2.0, 0.606_531, 1.648_721]);
    near(&weights(json!({"name": "importance", "level": "sequence"}), &tokens), &[1.648_721, 1.648_721, 1.648_721]);
    near(&weights(json!("importance"), &[token(0, -1.0)]), &[0.367_879]);
    near(&weights(json!("iw-sft"), &tokens), &[1.648_721, 1.648_721, std::f32::consts::E]);
    let by_token = json!({"name": "iw-sft", "level": "token", "clip_low": 0.2, "clip_high": 1.8});
    near(&weights(by_token, &tokens), &[1.8, 0.606_531, 1.648_721]);
    near(&weights(json!("psft"), &tokens), &[0.0, 0.606_531, 0.0]);
}

#[test]
fn statistics_of_the_step() {
    let tokens = [token(0, -1.0), token(0, -3.0), token(1, -4.0), token(2, -1.0)];
    let talr = Talr::of(&tokens);
    assert_eq!(talr.temperature, 2.0);
    let facts = StepFacts { step: 0, talr: Some(talr) };
    let weights = Loss::Talr {}.weights(&tokens, &facts);
    assert!((weights.iter().sum::<f32>() - 4.0).abs() < 1e-5);
    assert!((weights[1] / weights[0] - (-1f32).exp()).abs() < 1e-6);
    assert_eq!(Talr::of(&[]).temperature, 1.0);
}

#[test]
fn idft_warms_up() {
    let loss = Loss::from_value(&json!({"name": "idft", "warmup_steps": 4})).unwrap();
    let at = |step| loss.weights(&[token(0, -3.0)], &StepFacts { step, talr: None })[0].ln();
    assert!((at(0) + 3.0).abs() < 1e-5);
    assert!((at(2) + 4.5).abs() < 1e-5);
    assert!((at(9) + 6.0).abs() < 1e-5);
}

#[test]
fn powers_of_the_probability() {
    let tokens = [token(0, -1.0), token(0, -3.0), token(0, 0.0), token(0, 1e-7)];
    let of = |parameters: serde_json::Value| {
        let mut loss = json!({"name": "power"});
        loss.as_object_mut().unwrap().extend(parameters.as_object().unwrap().clone());
        weights(loss, &tokens)
    };
    assert_eq!(of(json!({})), weights(json!("dft"), &tokens));
    assert_eq!(of(json!({"q": 0.0})), weights(json!("sft"), &tokens));
    near(&of(json!({"q": 0.5})), &[0.606_531, 0.223_130, 1.0, 1.0]);
    // p = 0.368, 0.050 and twice 1; both bounds are kept.
    near(&of(json!({"q": 0.5, "min_p": 0.1})), &[0.606_531, 0.0, 1.0, 1.0]);
    near(&of(json!({"q": 0.5, "max_p": 0.9})), &[0.606_531, 0.223_130, 0.0, 0.0]);
    near(&of(json!({"min_p": 1.0 - 1e-7})), &[0.0, 0.0, 1.0, 1.0]);
    near(&of(json!({"max_p": (-1f32).exp()})), &[0.367_879, 0.049_787, 0.0, 0.0]);
}

/// The target distribution's own probability is the weight and the reference's part of the rest: by the formula, written out.
#[test]
fn gift_mixes_target_and_reference() {
    let tokens = [-0.1f32, -2.0, -9.0].map(|r| Token { reference: Some(r), ..token(0, -1.0) });
    for beta in [0.5f32, 3.0, 20.0] {
        let loss = Loss::from_value(&json!({"name": "gift", "beta": beta})).unwrap();
        let weights = loss.weights(&tokens, &StepFacts::default());
        let shares = loss.reference_kl(&tokens).unwrap();
        for ((token, weight), share) in tokens.iter().zip(&weights).zip(&shares) {
            let q = f64::from(token.reference.unwrap()).exp();
            let normaliser = 1.0 - q + q * f64::from(beta).exp();
            // q' = [target] (1 - 1/z) + q / z, z the normaliser: what is no target keeps q / z.
            assert!((f64::from(*share) - 1.0 / normaliser).abs() < 1e-6, "{share}");
            assert!((weight + share - 1.0).abs() < 1e-6, "{weight} and {share}");
        }
    }
    assert_eq!(Loss::from_value(&json!("gift")).unwrap(), Loss::Gift { beta: 20.0 });
    let far = Loss::Gift { beta: 500.0 };
    assert_eq!(far.weights(&tokens, &StepFacts::default()), [1.0; 3]);
    assert_eq!(far.reference_kl(&tokens).unwrap(), [0.0; 3]);
}

#[test]
fn bad_losses_are_errors() {
    let message = |value| Loss::from_value(&value).unwrap_err().to_string();
    assert!(message(json!("dtf")).contains("did you mean `dft`"));
    assert!(message(json!({"name": "dft", "flor": 0.1})).contains("flor"));
    assert!(message(json!({"name": "sft", "floor": 0.1})).contains("floor"));
    assert!(message(json!({"name": "dft", "floor": 2.0})).contains("outside 0 to 1"));
    assert!(message(json!({"name": "dft", "eos_weight": -1.0})).contains("`eos_weight` of loss `dft` is `-1`"));
    assert!(message(json!({"name": "importance", "clip_low": 3.0})).contains("clips to"));
    assert!(message(json!({"name": "psft", "refresh_steps": 0})).contains("refresh_steps"));
    assert!(message(json!({"name": "power", "q": -1.0})).contains("`q` of loss `power` is `-1`"));
    for (low, high) in [(-0.1, 0.5), (0.5, 0.5), (0.0, 1.5)] {
        assert!(message(json!({"name": "power", "min_p": low, "max_p": high})).contains("keeps tokens with p from"));
    }
    assert!(message(json!({"name": "gift", "beta": 0.0})).contains("`beta` of loss `gift` is `0`"));
    assert!(message(json!(3)).contains("unknown loss"));
}

#[test]
fn names_round_trip() {
    for name in Loss::NAMES {
        let loss = Loss::from_value(&json!(name)).unwrap();
        assert_eq!(loss.name(), name);
        assert_eq!(Loss::from_value(&serde_json::to_value(&loss).unwrap()).unwrap(), loss);
    }
}
