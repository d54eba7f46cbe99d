use super::*;
use candle_core::{Device, Tensor};
use half::bf16;

fn values(count: usize, seed: f32) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * seed).sin() * (1.0 + (i % 7) as f32)).collect()
}

/// Instruction sets that are here.
fn here() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_here())
}

fn weight(isa: Isa, w: &[f32], outputs: usize, inputs: usize, kind: WeightType) -> Weight {
    Weight::packed_for(isa, &Tensor::from_slice(w, (outputs, inputs), &Device::Cpu).unwrap(), kind).unwrap()
}

/// The weight as products see it, `[out, in]`.
fn unpacked(weight: &Weight) -> Vec<f32> {
    let mut w = vec![0.0; weight.outputs * weight.inputs];
    w.chunks_mut(weight.inputs).enumerate().for_each(|(output, row)| weight.unpack(output, row));
    w
}

fn rounded(x: &[f32]) -> Vec<f32> {
    x.iter().map(|x| bf16::from_f32(*x).to_f32()).collect()
}

fn applied(weight: &Weight, threads: usize, x: &[f32], columns: Range<usize>, bias: Option<&[f32]>) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.len() / weight.inputs * columns.len()];
    weight.apply(&mut Team::new(threads), x, columns, bias, &mut out, &mut Scratch::default());
    out
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

const SHAPES: [(usize, usize, usize); 11] = [
    (1, 1, 1),
    (1, 48, 896),
    (2, 100, 131),
    (3, 17, 64),
    (4, 96, 257),
    (11, 50, 128),
    (12, 49, 129),
    (13, 150, 300),
    (19, 70, 1100),
    (35, 96, 600),
    (30, 48, 2),
];

/// Every path against sums in f64 of the weights it holds. The error of an output is at most the largest activation times the sum of
/// the output's weights' sizes, times what f32 sums and the rounding of activations make relatively.
#[test]
fn every_path_is_near_the_definition() {
    for (rows, outputs, inputs) in SHAPES {
        let (w, x, bias) = (values(outputs * inputs, 0.37), values(rows * inputs, 0.11), values(outputs, 0.7));
        for (isa, kind) in here().flat_map(|isa| WeightType::ALL.map(|kind| (isa, kind))) {
            let own = weight(isa, &w, outputs, inputs, kind);
            let got = applied(&own, 1, &x, 0..outputs, Some(&bias));
            let near = |x: &[f32], tolerance: f64| {
                for (got, x) in got.chunks(outputs).zip(x.chunks(inputs)) {
                    let largest = x.iter().fold(0.0, |most: f64, x| most.max(f64::from(x.abs())));
                    for ((got, w), bias) in got.iter().zip(unpacked(&own).chunks(inputs)).zip(&bias) {
                        let sum: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                        let (want, size) = (sum + f64::from(*bias), w.iter().map(|w| f64::from(w.abs())).sum::<f64>());
                        let bound = tolerance * (largest * size + f64::from(bias.abs()));
                        let what = format!("{kind:?} with {}, {rows} x {outputs} x {inputs}", isa.name());
                        assert!((f64::from(*got) - want).abs() <= bound, "{what}: {got} instead of {want}");
                    }
                }
            };
            match kind {
                WeightType::Bf16 if isa >= Isa::Bf16 => {
                    near(&rounded(&x), 1e-5);
                    near(&x, 1.0 / 256.0 + 1e-5);
                }
                WeightType::F32 | WeightType::StoredBf16 | WeightType::Bf16 => near(&x, 1e-5),
                WeightType::Int8 if isa >= Isa::Bf16 => near(&x, 0.5 / 127.0 + 1e-5),
                WeightType::Int8 => near(&x, 0.5 / 32767.0 + 1e-5),
            }
        }
    }
}

/// Weights as a checkpoint in bf16 has them give the bits of the f32 product with rounded weights.
#[test]
fn bf16_equals_f32_of_rounded_weights() {
    for (rows, outputs, inputs) in SHAPES {
        let (w, x, bias) = (values(outputs * inputs, 0.37), values(rows * inputs, 0.11), values(outputs, 0.7));
        let rounded = rounded(&w);
        for isa in here() {
            let own = weight(isa, &w, outputs, inputs, WeightType::StoredBf16);
            assert_eq!(unpacked(&own), rounded);
            let full = weight(isa, &rounded, outputs, inputs, WeightType::F32);
            for bias in [None, Some(&bias[..])] {
                let (got, want) = (applied(&own, 1, &x, 0..outputs, bias), applied(&full, 1, &x, 0..outputs, bias));
                assert_eq!(bits(&got), bits(&want), "{}: {rows} x {outputs} x {inputs}", isa.name());
            }
        }
    }
}

/// Whole numbers: the sums are exact, so the portable code says what every path that rounds as it does must give, to the bit.
#[test]
fn int8_is_exact() {
    for (rows, outputs, inputs) in SHAPES {
        let (w, x, bias) = (values(outputs * inputs, 0.37), values(rows * inputs, 0.11), values(outputs, 0.7));
        let own = weight(Isa::Portable, &w, outputs, inputs, WeightType::Int8);
        let rounded = unpacked(&own);
        let largest = w.iter().fold(0.0f32, |most, w| most.max(w.abs()));
        assert!(w.iter().zip(&rounded).all(|(w, r)| (w - r).abs() <= largest / 253.0), "{outputs} x {inputs}");
        let want = applied(&own, 1, &x, 0..outputs, Some(&bias));
        for isa in here().filter(|isa| *isa < Isa::Bf16) {
            let got = applied(&weight(isa, &w, outputs, inputs, WeightType::Int8), 1, &x, 0..outputs, Some(&bias));
            assert_eq!(bits(&got), bits(&want), "{}: {rows} x {outputs} x {inputs}", isa.name());
        }
    }
}

/// A row is the same alone, in any batch, on any number of threads, and whichever columns are asked for.
#[test]
fn a_row_has_the_same_bits_in_any_company() {
    for (isa, kind) in here().flat_map(|isa| WeightType::ALL.map(|kind| (isa, kind))) {
        for (rows, outputs, inputs) in SHAPES {
            let own = weight(isa, &values(outputs * inputs, 0.37), outputs, inputs, kind);
            let x = values(rows * inputs, 0.11);
            let whole = applied(&own, 1, &x, 0..outputs, None);
            assert_eq!(
                bits(&applied(&own, 3, &x, 0..outputs, None)),
                bits(&whole),
                "{isa:?}, {kind:?} on three threads"
            );
            for (row, want) in x.chunks(inputs).zip(whole.chunks(outputs)) {
                assert_eq!(bits(&applied(&own, 1, row, 0..outputs, None)), bits(want), "{isa:?}, {kind:?} alone");
                if outputs > PANEL {
                    let some = applied(&own, 1, row, PANEL..outputs, None);
                    assert_eq!(bits(&some), bits(&want[PANEL..]), "{isa:?}, {kind:?}, some columns");
                }
            }
        }
    }
}

/// Activations that are not finite are not rounded away.
#[test]
fn what_is_not_finite_stays_so() {
    for (isa, kind) in here().flat_map(|isa| WeightType::ALL.map(|kind| (isa, kind))) {
        let own = weight(isa, &values(48 * 300, 0.37), 48, 300, kind);
        for wrong in [f32::NAN, f32::INFINITY] {
            let mut x = values(300, 0.11);
            x[200] = wrong;
            assert!(applied(&own, 1, &x, 0..48, None).iter().any(|y| !y.is_finite()), "{isa:?}, {kind:?}, {wrong}");
        }
    }
}
