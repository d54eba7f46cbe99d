//! A projection with a low-rank adapter as one operator. Of its parts only the result stays for the way back, where the narrow product
//! is made again.

use super::cpu::{self, Read};
use super::factor::{Factor, Matrix, Side};
use super::gemm::Start;
use super::linear::{self, Slopes};
use super::tape::{self, Backward};
use candle_core::{DType, Result, Tensor, bail};

/// A low-rank addition to a projection: `scale * (x @ a^T) @ b^T`, a `[rank, in]`, b `[out, rank]`.
#[derive(Clone)]
pub struct Adapter {
    pub a: Tensor,
    pub b: Tensor,
    pub scale: f32,
}

/// Sizes of a projection and its adapter.
#[derive(Clone, Copy)]
struct Sizes {
    rows: usize,
    inputs: usize,
    outputs: usize,
    rank: usize,
}

impl Sizes {
    fn of(x: &Tensor, w: &Tensor, a: &Tensor, b: &Tensor) -> Result<Sizes> {
        let ((rows, inputs), (outputs, rank)) = (x.dims2()?, b.dims2()?);
        if w.dims2()? != (outputs, inputs) || a.dims2()? != (rank, inputs) {
            bail!("adapted: x {:?}, w {:?}, a {:?} and b {:?} do not fit", x.shape(), w.shape(), a.shape(), b.shape());
        }
        Ok(Sizes { rows, inputs, outputs, rank })
    }
}

/// The kernel; see [`super::adapted`]. Gradients flow on the tape only.
pub fn adapted(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, adapter: &Adapter, products: DType) -> Result<Tensor> {
    let (x, w) = (x.contiguous()?, w.contiguous()?);
    let (a, b) = (adapter.a.contiguous()?, adapter.b.contiguous()?);
    let sizes = Sizes::of(&x, &w, &a, &b)?;
    let op = Adapted { scale: adapter.scale, products };
    let x_read = Read::new(&x);
    let x_data = x_read.slice()?;
    let z = op.narrow(x_data, &a, sizes)?;
    let mut y = {
        let w_read = Read::new(&w);
        let factor = Factor::transposed(w_read.matrix()?, sizes.outputs, sizes.inputs, products);
        match bias {
            Some(bias) => factor.applied(Side::Rows(x_data), sizes.rows, Some(Read::new(bias).slice()?)),
            None => factor.applied(Side::Rows(x_data), sizes.rows, None),
        }
    };
    let b_read = Read::new(&b);
    let factor = Factor::transposed(b_read.matrix()?, sizes.outputs, sizes.rank, products);
    factor.apply(Side::Rows(&z), sizes.rows, Start::Add, &mut y);
    let output = Tensor::from_vec(y, (sizes.rows, sizes.outputs), x.device())?;
    let inputs: Vec<&Tensor> = [&x, &w, &a, &b].into_iter().chain(bias).collect();
    tape::note_other(&inputs, Box::new(op), &output);
    Ok(output)
}

struct Adapted {
    scale: f32,
    products: DType,
}

impl Adapted {
    /// `scale * x a^T`.
    fn narrow(&self, x: &[f32], a: &Tensor, sizes: Sizes) -> Result<Vec<f32>> {
        let read = Read::new(a);
        let factor = Factor::transposed(read.matrix()?, sizes.rank, sizes.inputs, self.products);
        Ok(self.scaled(factor.applied(Side::Rows(x), sizes.rows, None)))
    }

    fn scaled(&self, mut values: Vec<f32>) -> Vec<f32> {
        values.iter_mut().for_each(|value| *value *= self.scale);
        values
    }
}

impl Backward for Adapted {
    /// With `z = scale x a^T` and `dz = scale dy b`: `da = dz^T x`, `db = dy^T z`, and dx takes in `dz a`.
    fn backward(&self, inputs: &[Tensor], wanted: &[bool], gradient: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let [x, w, a, b] = &inputs[..4] else { bail!("adapted: {} inputs", inputs.len()) };
        let (sizes, gradient) = (Sizes::of(x, w, a, b)?, gradient.contiguous()?);
        let Sizes { rows, inputs: width, outputs, rank } = sizes;
        let (dy_read, x_read, a_read, b_read) = (Read::new(&gradient), Read::new(x), Read::new(a), Read::new(b));
        let (dy, x_data) = (dy_read.slice()?, x_read.slice()?);
        let dz = Factor::of_rows(b_read.matrix()?, outputs, rank, self.products).applied(Side::Rows(dy), rows, None);
        let dz = self.scaled(dz);
        let Slopes { x: mut dx, w: dw } = linear::slopes(x, w, &gradient, self.products)?;
        if let Some(dx) = &mut dx {
            let factor = Factor::of_rows(a_read.matrix()?, rank, width, self.products);
            factor.apply(Side::Rows(&dz), rows, Start::Add, dx);
        }
        let da = wanted[2].then(|| {
            let factor = Factor::of_rows(Matrix::F32(x_data), rows, width, self.products);
            factor.applied(Side::Columns(&dz), rank, None)
        });
        let db = match wanted[3] {
            true => {
                let z = self.narrow(x_data, a, sizes)?;
                let factor = Factor::of_rows(Matrix::F32(&z), rows, rank, self.products);
                Some(factor.applied(Side::Columns(dy), outputs, None))
            }
            false => None,
        };
        let found = [dx, dw, da, db].into_iter().zip(inputs);
        let mut gradients: Vec<Option<Tensor>> =
            found.map(|(own, input)| own.map(|own| cpu::tensor(own, input)).transpose()).collect::<Result<_>>()?;
        if let Some(bias) = inputs.get(4) {
            gradients.push(if wanted[4] { Some(linear::sum_rows(&gradient, bias)?) } else { None });
        }
        Ok(gradients)
    }
}
