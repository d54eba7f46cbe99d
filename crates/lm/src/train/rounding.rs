//! Stochastic rounding to bf16: a number becomes one of the two numbers of bf16 on either side of it, the nearer one the more
//! often, so that it is right in the mean and steps far smaller than a last digit add up (Gupta et al., arXiv 1502.02551).
//!
//! Chances are a function of where they are used: seed, update, tensor, element. A kernel and a composition, to the same bits.

use crate::model::ops::{self, wide};
use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Result, Tensor};
use half::bf16;
use mindgap_base::rng::Stream;
use std::ops::Range;

/// How one update of one tensor is rounded.
pub struct StochasticRounding(Stream);

/// Chances out of one call of the generator: two in each of its words.
const CHANCES: usize = 8;
/// Leads from a number of bf16 past the middle to the next one, and not past the middle behind that: its last digit is between
/// 1/256 and 1/128 of it.
const STEP: f32 = 0.7 / 128.0;
/// About what an element costs.
const OPERATIONS: usize = 32;
/// Elements that are rounded at once by composition: they take some 40 bytes each meanwhile.
const PIECE: usize = 1 << 24;

impl StochasticRounding {
    pub fn new(seed: u64, update: u32, tensor: &str) -> StochasticRounding {
        StochasticRounding(Stream::at(seed, &[b"rounding", &update.to_le_bytes(), tensor.as_bytes()]))
    }

    /// Rounds a tensor (f32) in its place, or makes another one in bf16.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        if ops::has_kernels(&[x]) {
            x.inplace_op1(self)?;
            return Ok(x.clone());
        }
        let (flat, count) = (x.flatten_all()?, x.elem_count());
        let piece = |first: usize| {
            let piece = first..count.min(first + PIECE);
            self.composed(&flat.narrow(0, first, piece.len())?, piece)
        };
        let pieces = (0..count).step_by(PIECE).map(piece).collect::<Result<Vec<_>>>()?;
        Tensor::cat(&pieces, 0)?.reshape(x.shape())
    }

    fn composed(&self, x: &Tensor, elements: Range<usize>) -> Result<Tensor> {
        let rounded = |x: &Tensor| x.to_dtype(DType::BF16)?.to_dtype(DType::F32);
        let near = rounded(x)?;
        let gap = (x - &near)?;
        let far = rounded(&(&near + ((near.abs()? * f64::from(STEP))? * gap.sign()?)?)?)?;
        let chances = self.chances(elements, x.device())?;
        let is_far = (chances * (&far - &near)?.abs()?)?.lt(&gap.abs()?)?;
        is_far.where_cond(&far, &near)?.to_dtype(DType::BF16)
    }

    fn chances(&self, elements: Range<usize>, device: &Device) -> Result<Tensor> {
        let (count, start) = (elements.len(), elements.start);
        let mut chances = vec![0.0f32; count];
        wide::share_rows(&mut chances, 1, OPERATIONS, |first, chances| {
            self.each(start + first, chances, |value, chance| *value = chance);
        });
        Tensor::from_vec(chances, count, device)
    }

    /// Does something with each value and its chance, a multiple of 2^-16 in [0, 1); they are the elements from `first` on.
    fn each(&self, first: usize, values: &mut [f32], work: impl Fn(&mut f32, f32)) {
        let mut words = self.0.words((first / CHANCES) as u64);
        for (element, value) in (first..).zip(values) {
            if element.is_multiple_of(CHANCES) {
                words = self.0.words((element / CHANCES) as u64);
            }
            let word = words[element % CHANCES / 2];
            let bits = if element.is_multiple_of(2) { word & 0xffff } else { word >> 16 };
            work(value, bits as f32 / 65536.0);
        }
    }
}

fn round(x: f32, chance: f32) -> f32 {
    let rounded = |x: f32| bf16::from_f32(x).to_f32();
    let near = rounded(x);
    let gap = x - near;
    let far = rounded(near + near.abs() * STEP.copysign(gap));
    if chance * (far - near).abs() < gap.abs() { far } else { near }
}

impl InplaceOp1 for StochasticRounding {
    fn name(&self) -> &'static str {
        "stochastic rounding"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(data), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
            candle_core::bail!("weights of shape {:?} are strided or not f32", layout.shape());
        };
        wide::share_rows(&mut data[start..end], 1, OPERATIONS, |first, values| {
            self.each(first, values, |value, chance| *value = round(*value, chance));
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ops::without_kernels;

    fn neighbours(x: f32) -> [f32; 2] {
        // Towards zero, and a last digit further.
        let below = x.to_bits() & 0xffff_0000;
        [below, below + 0x1_0000].map(f32::from_bits)
    }

    /// Numbers of every size and sign, and those around powers of two, where digits change their size.
    fn numbers() -> Vec<f32> {
        let mut cursor = Stream::at(3, &[b"numbers"]).cursor();
        let mut numbers: Vec<f32> =
            (0..2000).map(|_| (cursor.normal() * 10f64.powf(cursor.uniform() * 8.0 - 6.0)) as f32).collect();
        for power in [-20, -1, 0, 7] {
            let power = 2f32.powi(power);
            numbers.extend([power, -power, power * (1.0 - 1e-3), power * (1.0 - 1e-6), power * (1.0 + 1e-3)]);
        }
        numbers.extend([0.0, -0.0]);
        numbers
    }

    /// Over all chances that there are, the mean is the number itself, and nothing comes out but its neighbours.
    #[test]
    fn the_mean_over_all_chances_is_the_number() {
        for x in numbers().into_iter().step_by(7).chain([1.0 - 1e-6, 0.0, 2.5]) {
            let chances = (0..1u32 << 16).map(|chance| round(x, chance as f32 / 65536.0));
            let (mut sum, neighbours) = (0.0, neighbours(x));
            for rounded in chances {
                assert!(neighbours.contains(&rounded), "{x} became {rounded}");
                sum += f64::from(rounded);
            }
            assert_eq!(sum / 65536.0, f64::from(x));
        }
    }

    #[test]
    fn a_composition_rounds_to_the_same_bits() {
        let numbers = numbers();
        let rounding = StochasticRounding::new(1, 2, "w");
        let rounded = || {
            let x = Tensor::new(&numbers[..], &Device::Cpu).unwrap();
            rounding.apply(&x).unwrap().to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap()
        };
        let (own, composed) = (rounded(), without_kernels(rounded));
        assert_eq!(own, composed);
        assert_ne!(own, numbers.iter().map(|x| bf16::from_f32(*x).to_f32()).collect::<Vec<_>>());
    }

    /// An element's chance depends on its coordinates alone, and they spread evenly.
    #[test]
    fn chances_belong_to_their_coordinates() {
        let chances = |rounding: StochasticRounding, elements| {
            rounding.chances(elements, &Device::Cpu).unwrap().to_vec1::<f32>().unwrap()
        };
        let of = |elements| chances(StochasticRounding::new(5, 9, "w"), elements);
        let all = of(0..4096);
        for elements in [1..2, 7..9, 13..4000] {
            assert_eq!(of(elements.clone()), all[elements]);
        }
        for other in [(6, 9, "w"), (5, 8, "w"), (5, 9, "v")]
            .map(|(seed, update, name)| StochasticRounding::new(seed, update, name))
        {
            let other = chances(other, 0..4096);
            assert!(other.iter().zip(&all).filter(|(a, b)| a == b).count() < 5);
        }
        let mean = all.iter().sum::<f32>() / all.len() as f32;
        assert!((mean - 0.5).abs() < 0.02 && all.iter().all(|chance| (0.0..1.0).contains(chance)), "{mean}");
    }
}
