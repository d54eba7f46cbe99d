use super::*;
use candle_core::{Device, Tensor};
use half::bf16;

fn values(count: usize, seed: f32) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * seed).sin() * (1.0 + (i % 7) as f32)).collect()
}

fn weight(w: &[f32], outputs: usize, inputs: usize, kind: WeightType) -> Weight {
    Weight::new(&Tensor::from_slice(w, (outputs, inputs), &Device::Cpu).unwrap(), kind).unwrap()
}

fn applied(weight: &Weight, threads: usize, x: &[f32], columns: Range<usize>, bias: Option<&[f32]>) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.len() / weight.inputs * columns.len()];
    weight.apply(&mut Team::new(threads), x, columns, bias, &mut out, &mut Scratch::default());
    out
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

const SHAPES: [(usize, usize, usize); 9] = [
    (1, 1, 1),
    (1, 48, 896),
    (2, 100, 131),
    (3, 17, 64),
    (4, 96, 257),
    (11, 50, 128),
    (12, 49, 129),
    (13, 150, 300),
    (30, 48, 2),
];

/// Weights in bf16 give the bits of the f32 product with rounded weights.
#[test]
fn bf16_equals_f32_of_rounded_weights() {
    for (rows, outputs, inputs) in SHAPES {
        let (w, x, bias) = (values(outputs * inputs, 0.37), values(rows * inputs, 0.11), values(outputs, 0.7));
        let rounded: Vec<f32> = w.iter().map(|w| bf16::from_f32(*w).to_f32()).collect();
        let own = weight(&w, outputs, inputs, WeightType::Bf16);
        let full = weight(&rounded, outputs, inputs, WeightType::F32);
        for bias in [None, Some(&bias[..])] {
            let (got, want) = (applied(&own, 1, &x, 0..outputs, bias), applied(&full, 1, &x, 0..outputs, bias));
            assert_eq!(bits(&got), bits(&want), "{rows} x {outputs} x {inputs}");
        }
        let mut row = vec![0.0; inputs];
        own.unpack(outputs - 1, &mut row);
        assert_eq!(row, rounded[(outputs - 1) * inputs..]);
    }
}

/// Whole numbers: the sums are exact, so the portable code says what every path must give, to the bit.
#[test]
fn int8_is_near_f32() {
    for (rows, outputs, inputs) in SHAPES {
        let (w, x, bias) = (values(outputs * inputs, 0.37), values(rows * inputs, 0.11), values(outputs, 0.7));
        let own = weight(&w, outputs, inputs, WeightType::Int8);
        let rounded: Vec<f32> = (0..outputs)
            .flat_map(|output| {
                let mut row = vec![0.0; inputs];
                own.unpack(output, &mut row);
                row
            })
            .collect();
        let largest = w.iter().fold(0.0f32, |most, w| most.max(w.abs()));
        assert!(w.iter().zip(&rounded).all(|(w, r)| (w - r).abs() <= largest / 253.0), "{outputs} x {inputs}");
        let got = applied(&own, 1, &x, 0..outputs, Some(&bias));
        let want = applied(&weight(&rounded, outputs, inputs, WeightType::F32), 1, &x, 0..outputs, Some(&bias));
        let size = want.iter().fold(0.0f32, |most, y| most.max(y.abs()));
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() < 2e-4 * (1.0 + size), "{rows} x {outputs} x {inputs}: {got} instead of {want}");
        }
    }
}

/// A row is the same alone, in any batch, on any number of threads, and whichever columns are asked for.
#[test]
fn a_row_has_the_same_bits_in_any_company() {
    for kind in WeightType::ALL {
        for (rows, outputs, inputs) in SHAPES {
            let own = weight(&values(outputs * inputs, 0.37), outputs, inputs, kind);
            let x = values(rows * inputs, 0.11);
            let whole = applied(&own, 1, &x, 0..outputs, None);
            assert_eq!(bits(&applied(&own, 3, &x, 0..outputs, None)), bits(&whole), "{kind:?} on three threads");
            for (row, want) in x.chunks(inputs).zip(whole.chunks(outputs)) {
                assert_eq!(bits(&applied(&own, 1, row, 0..outputs, None)), bits(want), "{kind:?} alone");
                if outputs > PANEL {
                    let some = applied(&own, 1, row, PANEL..outputs, None);
                    assert_eq!(bits(&some), bits(&want[PANEL..]), "{kind:?}, some columns");
                }
            }
        }
    }
}

/// Activations that are not finite are not rounded away.
#[test]
fn what_is_not_finite_stays_so() {
    for kind in WeightType::ALL {
        let own = weight(&values(48 * 300, 0.37), 48, 300, kind);
        for wrong in [f32::NAN, f32::INFINITY] {
            let mut x = values(300, 0.11);
            x[200] = wrong;
            assert!(applied(&own, 1, &x, 0..48, None).iter().any(|y| !y.is_finite()), "{kind:?} {wrong}");
        }
    }
}
