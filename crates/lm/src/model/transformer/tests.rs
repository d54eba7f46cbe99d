//! The packed transformer: packing, causality, gradients, adapters.

use super::*;
use crate::model::testing::{every_shape, tiny_config, tiny_tensors};
use candle_core::Var;

fn build(config: &Config) -> Transformer {
    Transformer::from_tensors(config, tiny_tensors(config, 3), DType::F32, &Device::Cpu).unwrap()
}

fn rows(tensor: &Tensor) -> Vec<Vec<f32>> {
    tensor.to_vec2::<f32>().unwrap()
}

#[test]
fn packing_changes_nothing() {
    for config in every_shape() {
        let model = build(&config);
        let (a, b) = ([5, 9, 1, 60, 3], [7, 7, 8]);
        let packed = model.hidden(&[&a[..], &b[..]].concat(), &Segments::new(&[5, 3])).unwrap();
        let alone = [model.hidden(&a, &Segments::new(&[5])).unwrap(), model.hidden(&b, &Segments::new(&[3])).unwrap()];
        let expected: Vec<Vec<f32>> = alone.iter().flat_map(rows).collect();
        for (found, expected) in rows(&packed).iter().zip(&expected) {
            let gap = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(gap < 1e-5, "{:?}: {gap}", config.architecture);
        }
    }
}

#[test]
fn later_tokens_do_not_reach_back() {
    let model = build(&tiny_config());
    let segments = Segments::new(&[4]);
    let a = rows(&model.hidden(&[5, 9, 1, 60], &segments).unwrap());
    let b = rows(&model.hidden(&[5, 9, 1, 4], &segments).unwrap());
    assert_eq!(a[..3], b[..3]);
    assert_ne!(a[3], b[3]);
}

#[test]
fn every_variable_receives_a_gradient() {
    for config in every_shape() {
        let vars: HashMap<String, Var> =
            tiny_tensors(&config, 3).into_iter().map(|(n, t)| (n, Var::from_tensor(&t).unwrap())).collect();
        let tensors = vars.iter().map(|(n, v)| (n.clone(), v.as_tensor().clone())).collect();
        let model = Transformer::from_tensors(&config, tensors, DType::F32, &Device::Cpu).unwrap();
        let hidden = model.hidden(&[5, 9, 1, 60], &Segments::new(&[4])).unwrap();
        let (log_probs, _) = ops::token_logprobs(&hidden, model.head(), &[9, 1, 60, 2]).unwrap();
        let gradients = log_probs.sum_all().unwrap().backward().unwrap();
        for (name, var) in &vars {
            // Without rotation a key bias would shift every score of a row alike and have no gradient at all.
            let gradient = gradients.get(var.as_tensor()).unwrap_or_else(|| panic!("{name} has no gradient"));
            let size = gradient.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(size > 1e-6, "{name}: {size}");
        }
    }
}

#[test]
fn bad_input_is_an_error() {
    let config = tiny_config();
    let model = build(&config);
    assert!(model.hidden(&[61], &Segments::new(&[1])).unwrap_err().what().contains("token id 61"));
    assert!(model.hidden(&[1; 97], &Segments::new(&[97])).unwrap_err().what().contains("97 tokens"));
    let mut tensors = tiny_tensors(&config, 3);
    tensors.remove("model.norm.weight");
    let error = Transformer::from_tensors(&config, tensors, DType::F32, &Device::Cpu).err().unwrap();
    assert!(error.what().contains("`model.norm.weight` is missing"));
}
