//! A backward pass of our own.
//!
//! candle's starts every gradient as a tensor of zeros and adds to it; its elementwise ops on large tensors go through one
//! global pool of spinning threads, which costs micro-batches that run side by side more than the arithmetic. While a
//! thread records, the operators of this module run outside candle's graph and leave a note here; [`Tape::backward`]
//! calls the same `bwd` functions in reverse, hands gradients on without copying, and frees activations on its way.

use super::{composed, cpu, wide};
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, InplaceOp2, Layout, Result, Shape, Tensor, TensorId, bail,
};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

enum Op {
    One(Tensor, Box<dyn CustomOp1>),
    Two([Tensor; 2], Box<dyn CustomOp2>),
    Three([Tensor; 3], Box<dyn CustomOp3>),
    Sum([Tensor; 2]),
    Other(Vec<Tensor>, Box<dyn Backward>),
}

/// The derivatives of an operator that is not a kernel.
pub(super) trait Backward {
    /// Gradients of the inputs that are wanted, given that of the output.
    fn backward(&self, inputs: &[Tensor], wanted: &[bool], gradient: &Tensor) -> Result<Vec<Option<Tensor>>>;
}

impl Op {
    fn inputs(&self) -> &[Tensor] {
        match self {
            Op::One(x, _) => std::slice::from_ref(x),
            Op::Two(inputs, _) | Op::Sum(inputs) => inputs,
            Op::Three(inputs, _) => inputs,
            Op::Other(inputs, _) => inputs,
        }
    }
}

struct Node {
    op: Op,
    output: Tensor,
}

/// The operators a thread ran while it recorded, in order.
#[derive(Default)]
pub struct Tape {
    nodes: Vec<Node>,
    outputs: HashSet<TensorId>,
    /// Made elsewhere, and its gradient is wanted.
    input: Option<TensorId>,
}

thread_local! {
    static RECORDING: RefCell<Option<Tape>> = const { RefCell::new(None) };
}

/// Runs `f` and returns what it made together with the tape of its operators on this thread. Only operators of this module
/// are seen: a tensor made by others is a constant. Recording inside a recording is an error.
pub fn record<R, E: From<candle_core::Error>>(
    f: impl FnOnce() -> std::result::Result<R, E>,
) -> std::result::Result<(R, Tape), E> {
    record_onto(Tape::default(), f)
}

/// The same; the gradient of `input`, made elsewhere, is wanted too: [`Tape::backward`] returns it.
pub fn record_from<R, E: From<candle_core::Error>>(
    input: &Tensor,
    f: impl FnOnce() -> std::result::Result<R, E>,
) -> std::result::Result<(R, Tape), E> {
    record_onto(Tape { nodes: Vec::new(), outputs: HashSet::from([input.id()]), input: Some(input.id()) }, f)
}

fn record_onto<R, E: From<candle_core::Error>>(
    tape: Tape,
    f: impl FnOnce() -> std::result::Result<R, E>,
) -> std::result::Result<(R, Tape), E> {
    if is_recording() {
        return Err(candle_core::Error::Msg("a tape inside a tape".to_string()).into());
    }
    RECORDING.set(Some(tape));
    let result = f();
    let tape = RECORDING.take().unwrap_or_default();
    Ok((result?, tape))
}

fn recording(inputs: &[&Tensor]) -> bool {
    RECORDING.with_borrow(|recording| {
        recording.as_ref().is_some_and(|tape| inputs.iter().any(|t| t.is_variable() || tape.outputs.contains(&t.id())))
    })
}

/// This thread records.
pub(super) fn is_recording() -> bool {
    RECORDING.with_borrow(Option::is_some)
}

fn note(op: Op, output: &Tensor) {
    RECORDING.with_borrow_mut(|recording| {
        if let Some(tape) = recording {
            tape.outputs.insert(output.id());
            tape.nodes.push(Node { op, output: output.clone() });
        }
    });
}

/// Applies an operator of one input, on the tape or in candle's graph.
pub(super) fn apply1(x: &Tensor, op: impl CustomOp1 + Send + Sync + 'static) -> Result<Tensor> {
    if !is_recording() {
        return x.apply_op1(op);
    }
    let output = x.apply_op1_no_bwd(&op)?;
    if recording(&[x]) {
        note(Op::One(x.clone(), Box::new(op)), &output);
    }
    Ok(output)
}

/// Applies an operator of two inputs, on the tape or in candle's graph.
pub(super) fn apply2(x: &Tensor, y: &Tensor, op: impl CustomOp2 + Send + Sync + 'static) -> Result<Tensor> {
    if !is_recording() {
        return x.apply_op2(y, op);
    }
    let output = x.apply_op2_no_bwd(y, &op)?;
    if recording(&[x, y]) {
        note(Op::Two([x.clone(), y.clone()], Box::new(op)), &output);
    }
    Ok(output)
}

/// Applies an operator of three inputs, on the tape or in candle's graph.
pub(super) fn apply3(x: &Tensor, y: &Tensor, z: &Tensor, op: impl CustomOp3 + Send + Sync + 'static) -> Result<Tensor> {
    if !is_recording() {
        return x.apply_op3(y, z, op);
    }
    let output = x.apply_op3_no_bwd(y, z, &op)?;
    if recording(&[x, y, z]) {
        note(Op::Three([x.clone(), y.clone(), z.clone()], Box::new(op)), &output);
    }
    Ok(output)
}

/// Leaves a note of an operator that ran outside candle's graph and is no kernel. Without a recording nothing happens.
pub(super) fn note_other(inputs: &[&Tensor], op: Box<dyn Backward>, output: &Tensor) {
    if recording(inputs) {
        note(Op::Other(inputs.iter().map(|t| (*t).clone()).collect(), op), output);
    }
}

/// The sum of two tensors of one shape; see [`super::add`].
pub(super) fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    if !cpu::ready(&[x, y]) {
        let constants = composed::constants(&[x, y]);
        let output = (&constants[0] + &constants[1])?;
        if recording(&[x, y]) {
            note(Op::Sum([x.clone(), y.clone()]), &output);
        }
        return Ok(output);
    }
    let (x, y) = (x.contiguous()?, y.contiguous()?);
    if !is_recording() {
        return x.apply_op2(&y, Sum);
    }
    let output = x.apply_op2_no_bwd(&y, &Sum)?;
    if recording(&[&x, &y]) {
        note(Op::Sum([x, y]), &output);
    }
    Ok(output)
}

/// About what an element costs: little, but it comes from memory.
const OPERATIONS: usize = 64;

struct Sum;

impl CustomOp2 for Sum {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, y: &CpuStorage, yl: &Layout) -> Result<(CpuStorage, Shape)> {
        if xl.shape() != yl.shape() {
            bail!("sum: {:?} and {:?} differ in shape", xl.shape(), yl.shape());
        }
        let (x, y) = (cpu::slice(x, xl)?, cpu::slice(y, yl)?);
        let mut sum = vec![0.0; x.len()];
        wide::share_rows(&mut sum, 1, OPERATIONS, |first, sum| {
            let terms = x[first..].iter().zip(&y[first..]);
            sum.iter_mut().zip(terms).for_each(|(sum, (x, y))| *sum = x + y);
        });
        Ok((CpuStorage::F32(sum), xl.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(grad.clone()), Some(grad.clone())))
    }
}

/// `factor * x`; see [`super::scale`].
pub(super) fn scale(x: &Tensor, factor: f32) -> Result<Tensor> {
    apply1(&x.contiguous()?, Scale(factor))
}

struct Scale(f32);

impl CustomOp1 for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = cpu::slice(x, layout)?;
        let mut scaled = vec![0.0; x.len()];
        wide::share_rows(&mut scaled, 1, OPERATIONS, |first, scaled| {
            scaled.iter_mut().zip(&x[first..]).for_each(|(scaled, x)| *scaled = x * self.0);
        });
        Ok((CpuStorage::F32(scaled), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(&Scale(self.0))?))
    }
}

/// A gradient so far; `owned` if nothing else shares its memory.
struct Gradient {
    tensor: Tensor,
    owned: bool,
}

/// Gradients so far.
#[derive(Default)]
struct Gradients(HashMap<TensorId, Gradient>);

/// Takes the gradient of a variable once nothing more is added to it; whoever takes it may change it in place.
pub type Take<'a> = dyn FnMut(&Tensor, Tensor) -> Result<()> + 'a;

impl Gradients {
    fn add(&mut self, to: &Tensor, term: Option<Tensor>, owned: bool, reached: &HashSet<TensorId>) -> Result<()> {
        match term.filter(|_| to.is_variable() || reached.contains(&to.id())) {
            Some(term) => self.sum(to.id(), term, owned),
            None => Ok(()),
        }
    }

    fn sum(&mut self, id: TensorId, term: Tensor, owned: bool) -> Result<()> {
        let gradient = match self.0.remove(&id) {
            None => Gradient { tensor: term, owned },
            Some(sum) if !cpu::ready(&[&sum.tensor, &term]) => Gradient { tensor: (sum.tensor + term)?, owned },
            Some(sum) if sum.owned => {
                sum.tensor.inplace_op2(&term, &AddTo)?;
                sum
            }
            Some(sum) if owned => {
                term.inplace_op2(&sum.tensor, &AddTo)?;
                Gradient { tensor: term, owned }
            }
            Some(sum) => Gradient { tensor: sum.tensor.apply_op2_no_bwd(&term, &Sum)?, owned: true },
        };
        self.0.insert(id, gradient);
        Ok(())
    }
}

thread_local! {
    /// Outputs of the tape whose backward pass this thread runs.
    static REACHED: RefCell<HashSet<TensorId>> = RefCell::default();
}

/// The backward pass under way wants the gradient of this tensor.
pub(super) fn reaches(tensor: &Tensor) -> bool {
    REACHED.with_borrow(|reached| reached.contains(&tensor.id()))
}

impl Tape {
    /// Gradients of all variables, each handed to `take` as soon as it is whole, given those of some outputs of the tape. Returns
    /// that of the input of [`record_from`], if the tape led to it. A panic inside leaves this thread's next tape unharmed: what it
    /// set is set anew.
    pub fn backward(self, seeds: Vec<(Tensor, Tensor)>, take: &mut Take) -> Result<Option<Tensor>> {
        REACHED.set(self.outputs);
        let result = walk(self.nodes, seeds, take);
        REACHED.take();
        let mut left = result?;
        Ok(self.input.and_then(|input| left.0.remove(&input)).map(|gradient| gradient.tensor))
    }
}

fn walk(nodes: Vec<Node>, seeds: Vec<(Tensor, Tensor)>, take: &mut Take) -> Result<Gradients> {
    let reached = REACHED.with_borrow(HashSet::clone);
    let mut gradients = Gradients::default();
    for (output, gradient) in seeds {
        gradients.add(&output, Some(gradient), false, &reached)?;
    }
    // How many operators still to come have a variable as an input.
    let mut uses: HashMap<TensorId, usize> = HashMap::new();
    for input in nodes.iter().flat_map(|node| node.op.inputs()).filter(|input| input.is_variable()) {
        *uses.entry(input.id()).or_default() += 1;
    }
    for Node { op, output } in nodes.into_iter().rev() {
        let variables: Vec<Tensor> = op.inputs().iter().filter(|input| input.is_variable()).cloned().collect();
        if let Some(Gradient { tensor: gradient, .. }) = gradients.0.remove(&output.id()) {
            gradients.step(op, &output, gradient, &reached)?;
        }
        for variable in variables {
            let uses = uses.entry(variable.id()).or_default();
            *uses -= 1;
            if *uses == 0
                && let Some(gradient) = gradients.0.remove(&variable.id())
            {
                take(&variable, if gradient.owned { gradient.tensor } else { gradient.tensor.copy()? })?;
            }
        }
    }
    Ok(gradients)
}

impl Gradients {
    /// Adds what an operator hands on to its inputs.
    fn step(&mut self, op: Op, output: &Tensor, gradient: Tensor, reached: &HashSet<TensorId>) -> Result<()> {
        match op {
            Op::One(x, op) => {
                let dx = op.bwd(&x, output, &gradient)?;
                self.add(&x, dx, true, reached)?;
            }
            Op::Two([x, y], op) => {
                let (dx, dy) = op.bwd(&x, &y, output, &gradient)?;
                self.add(&x, dx, true, reached)?;
                self.add(&y, dy, true, reached)?;
            }
            Op::Three([x, y, z], op) => {
                let (dx, dy, dz) = op.bwd(&x, &y, &z, output, &gradient)?;
                self.add(&x, dx, true, reached)?;
                self.add(&y, dy, true, reached)?;
                self.add(&z, dz, true, reached)?;
            }
            Op::Other(inputs, op) => {
                let wanted: Vec<bool> = inputs.iter().map(cpu::wants_gradient).collect();
                for (input, own) in inputs.iter().zip(op.backward(&inputs, &wanted, &gradient)?) {
                    self.add(input, own, false, reached)?;
                }
            }
            Op::Sum([x, y]) => {
                self.add(&x, Some(gradient.clone()), false, reached)?;
                self.add(&y, Some(gradient), false, reached)?;
            }
        }
        Ok(())
    }
}

/// `sum += term` in place.
pub struct AddTo;

impl InplaceOp2 for AddTo {
    fn name(&self) -> &'static str {
        "add to"
    }

    fn cpu_fwd(
        &self,
        sum: &mut CpuStorage,
        sum_layout: &Layout,
        term: &CpuStorage,
        term_layout: &Layout,
    ) -> Result<()> {
        let term = cpu::slice(term, term_layout)?;
        match (sum, sum_layout.contiguous_offsets()) {
            (CpuStorage::F32(sum), Some((start, end))) if end - start == term.len() => {
                wide::share_rows(&mut sum[start..end], 1, OPERATIONS, |first, sum| {
                    sum.iter_mut().zip(&term[first..]).for_each(|(sum, term)| *sum += term);
                });
                Ok(())
            }
            _ => bail!("gradients of different shapes or kinds"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{add, linear, swiglu};
    use super::{HashMap, Result, Tensor, TensorId, record};
    use crate::model::ops::cpu::Read;
    use candle_core::{DType, Device, Var};

    /// Residual sums, a shared weight and an unused branch: the tape's gradients equal candle's.
    #[test]
    fn equals_candles_backward() {
        let var = |seed: f32, shape: (usize, usize)| {
            let data: Vec<f32> = (0..shape.0 * shape.1).map(|i| (i as f32 * seed).sin()).collect();
            Var::from_vec(data, shape, &Device::Cpu).unwrap()
        };
        let (x, w, v) = (var(0.7, (5, 8)), var(0.3, (8, 8)), var(0.9, (8, 8)));
        let constant = var(0.2, (5, 8)).as_detached_tensor();
        let product = |x: &Tensor, w: &Tensor| linear(x, w, None, DType::F32);
        let network = || -> Result<Tensor> {
            let a = product(&x, &w)?;
            product(&a, &v)?;
            let b = add(&a, &swiglu(&product(&a, &w)?, &constant)?)?;
            let c = add(&b, &b)?;
            add(&c, &product(&b, &w)?)
        };
        let seed = var(0.5, (5, 8)).as_detached_tensor();
        let mut want = (network().unwrap() * &seed).unwrap().sum_all().unwrap().backward().unwrap();
        let (output, tape) = record(network).unwrap();
        let mut got: HashMap<TensorId, Tensor> = HashMap::new();
        let mut take = |variable: &Tensor, gradient| {
            assert!(got.insert(variable.id(), gradient).is_none(), "handed on once, whole");
            Ok(())
        };
        assert!(tape.backward(vec![(output.clone(), seed)], &mut take).unwrap().is_none());
        for variable in [&x, &w] {
            let values = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let (got, want) = (values(got.remove(&variable.id()).unwrap()), values(want.remove(variable).unwrap()));
            for (got, want) in got.iter().zip(&want) {
                assert!((got - want).abs() < 1e-5 * (1.0 + want.abs()), "{got} instead of {want}");
            }
        }
        assert!(!got.contains_key(&v.id()));
        assert!(record(|| record(network)).is_err());
        assert!(Read::new(&output).slice().is_ok());
    }
}
