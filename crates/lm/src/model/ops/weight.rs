//! Weights for inference, packed once, in the type they are held in: the forward product `y = x w^T + b` and rows of the weight.
//!
//! A weight `[out, in]` is cut into panels of [`PANEL`] outputs. A product runs over some of its columns at a time, so that threads
//! can share it; an output row has the same bits whatever the number of rows and however the columns are shared.

pub(super) mod bf16;
mod int8;
#[cfg(target_arch = "x86_64")]
mod tiles;

use super::gemm::{Left, PANEL, STRIP, Size, Start, product_at};
use super::isa::Isa;
use super::linear::Packed;
use super::lines::Lines;
use super::team::{Output, Team};
use bf16::Bf16Strips;
use candle_core::{Result, Tensor};
use int8::Int8Strips;
use std::ops::Range;

/// What weights are held in while sampling and scoring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WeightType {
    F32,
    /// As a checkpoint in bf16 has them: widened to f32, to the same bits on every processor.
    StoredBf16,
    /// Rounded to bf16, summed in f32; where the processor has dot products of bf16, activations are rounded too.
    Bf16,
    /// Whole numbers of 8 bits, a scale for every 128 of one output.
    Int8,
}

impl WeightType {
    /// Those that people name.
    pub const ALL: [WeightType; 3] = [WeightType::F32, WeightType::Bf16, WeightType::Int8];

    pub fn name(self) -> &'static str {
        match self {
            WeightType::F32 => "f32",
            WeightType::StoredBf16 | WeightType::Bf16 => "bf16",
            WeightType::Int8 => "int8",
        }
    }

    pub fn named(name: &str) -> Option<WeightType> {
        WeightType::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Bytes that a weight takes.
    pub fn bytes(self) -> f64 {
        match self {
            WeightType::F32 => 4.0,
            WeightType::StoredBf16 | WeightType::Bf16 => 2.0,
            WeightType::Int8 => 1.0 + 4.0 / int8::GROUP as f64,
        }
    }
}

/// About what it costs to lay out one number.
const PACKING: usize = 8;

/// A weight `[out, in]`.
pub struct Weight {
    panels: Panels,
    outputs: usize,
    inputs: usize,
}

enum Panels {
    F32(Packed),
    Bf16(Bf16Strips),
    Int8(Int8Strips),
}

/// Room for what a product makes of its input before it begins; reused from product to product.
#[derive(Default)]
pub struct Scratch {
    pairs: Lines<u32>,
    quants: int8::Quants,
}

impl Weight {
    /// From a weight tensor `[out, in]`, f32 on the CPU.
    pub fn new(w: &Tensor, kind: WeightType) -> Result<Weight> {
        Weight::packed_for(Isa::current(), w, kind)
    }

    /// For an instruction set that is here.
    fn packed_for(isa: Isa, w: &Tensor, kind: WeightType) -> Result<Weight> {
        let (outputs, inputs) = w.dims2()?;
        let w = w.contiguous()?;
        let read = super::cpu::Read::new(&w);
        let panels = match kind {
            WeightType::F32 => Panels::F32(Packed::from_slice(read.slice()?, outputs, inputs)),
            WeightType::StoredBf16 => {
                Panels::Bf16(Bf16Strips::new(isa.min(Isa::Avx512), read.matrix()?, outputs, inputs))
            }
            WeightType::Bf16 => Panels::Bf16(Bf16Strips::new(isa, read.matrix()?, outputs, inputs)),
            WeightType::Int8 => Panels::Int8(Int8Strips::new(isa, read.slice()?, outputs, inputs)),
        };
        Ok(Weight { panels, outputs, inputs })
    }

    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Row `output` of the weight as products see it: `[in]` numbers into `row`.
    pub fn unpack(&self, output: usize, row: &mut [f32]) {
        assert!(output < self.outputs && row.len() == self.inputs, "row {output} of {} outputs", self.outputs);
        match &self.panels {
            Panels::F32(panels) => panels.unpack(output, row),
            Panels::Bf16(panels) => panels.unpack(output, row),
            Panels::Int8(panels) => panels.unpack(output, row),
        }
    }

    /// `out[r] = x[r] w^T + bias` for all rows of x, `[rows, in]` densely, of the outputs `columns` alone: `[rows, columns.len()]`. The
    /// first column must be a multiple of [`PANEL`].
    #[expect(unsafe_code, reason = "threads write columns of one output")]
    pub fn apply(
        &self,
        team: &mut Team,
        x: &[f32],
        columns: Range<usize>,
        bias: Option<&[f32]>,
        out: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let (rows, width) = (x.len() / self.inputs.max(1), columns.len());
        assert!(columns.start.is_multiple_of(PANEL) && columns.end <= self.outputs, "{columns:?} of {}", self.outputs);
        assert!(out.len() >= rows * width, "output too short for {rows} rows of {width}");
        assert!(bias.is_none_or(|bias| bias.len() == self.outputs), "a bias for every output");
        match &self.panels {
            Panels::F32(_) => {}
            Panels::Bf16(panels) => {
                scratch.pairs.resize(panels.pairs_len(rows));
                panels.round(x, &mut scratch.pairs);
            }
            Panels::Int8(panels) => panels.quantise(x, &mut scratch.quants),
        }
        let activations = bf16::Activations { x, pairs: &scratch.pairs };
        let quants = &scratch.quants;
        let out = Output(out.as_mut_ptr());
        team.share(width.div_ceil(PANEL), |panels| {
            let part = columns.start + panels.start * PANEL..columns.end.min(columns.start + panels.end * PANEL);
            let start = bias.map_or(Start::Zero, |bias| Start::Bias(&bias[part.start..]));
            // SAFETY: of each row this thread alone writes the columns of its panels; they lie inside `out`.
            unsafe {
                let to = out.at(part.start - columns.start);
                match &self.panels {
                    Panels::F32(panels) => f32_product(panels, x, rows, part, start, to, width),
                    Panels::Bf16(panels) => panels.product(activations, rows, part, start, to, width),
                    Panels::Int8(panels) => panels.product(quants, rows, part, start, to, width),
                }
            }
        });
    }
}

/// The product over f32 panels.
///
/// # Safety
/// `out` points to `rows` rows of as many elements as there are columns, `width` apart, that nobody else reads or writes meanwhile.
#[expect(unsafe_code, reason = "writes through a pointer")]
unsafe fn f32_product(
    panels: &Packed,
    x: &[f32],
    rows: usize,
    columns: Range<usize>,
    start: Start,
    out: *mut f32,
    width: usize,
) {
    let left = Left { data: x, row: panels.inputs(), step: 1 };
    for (first, columns, start) in panels_of(columns, start) {
        let size = Size { m: rows, n: columns.len(), k: panels.inputs() };
        // SAFETY: the panel's columns lie inside those that the caller vouches for.
        unsafe { product_at(size, left, panels.right(columns.start), out.add(first), width, start) };
    }
}

/// Writes what sums start from.
///
/// # Safety
/// `out` points to rows of so many columns, `width` apart, that may be written.
#[expect(unsafe_code, reason = "writes through a pointer")]
unsafe fn fill(rows: usize, columns: usize, out: *mut f32, width: usize, start: Start) {
    for row in 0..rows {
        let to = out.wrapping_add(row * width);
        // SAFETY: the caller's promise; a bias has a value for every column.
        unsafe {
            match start {
                Start::Zero => to.write_bytes(0, columns),
                Start::Bias(bias) => to.copy_from_nonoverlapping(bias[..columns].as_ptr(), columns),
                Start::Add => {}
            }
        }
    }
}

/// The panels of a range of columns: offset in the range, columns, start.
fn panels_of(columns: Range<usize>, start: Start) -> impl Iterator<Item = (usize, Range<usize>, Start)> {
    columns.clone().step_by(PANEL).map(move |first| {
        let offset = first - columns.start;
        let start = match start {
            Start::Bias(bias) => Start::Bias(&bias[offset..]),
            other => other,
        };
        (offset, first..columns.end.min(first + PANEL), start)
    })
}

#[cfg(test)]
mod tests;
