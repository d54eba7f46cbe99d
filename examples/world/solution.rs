//! Solutions in two styles: the policy's, plain and noisy, and the expert's, right but terse and varied.

use super::problem::{Op, Problem, Task};
use mindgap_base::rng::Cursor;

pub const ADVERBS: [&str; 8] = ["Clearly", "Note", "Hence", "Thus", "Evidently", "Observe", "Indeed", "Plainly"];
pub const VARIABLES: [&str; 6] = ["x", "y", "n", "m", "k", "t"];

/// How the policy writes.
#[derive(Clone, Copy, Debug)]
pub struct PolicyStyle {
    /// Probability that an equation's result is wrong. The error carries on.
    pub noise: f64,
    /// Probability that two operations are done in one equation.
    pub hasty: f64,
}

/// How the expert writes.
#[derive(Clone, Copy, Debug)]
pub struct ExpertStyle {
    /// Probability that the answer is claimed before any work is shown.
    pub leap: f64,
    /// Probability that each further operation joins the equation before it.
    pub merge: f64,
    /// Probability that an equation's result is wrong: 0 in every demonstration.
    pub noise: f64,
}

/// The style of the demonstrations in the problem tables.
pub const DEMONSTRATION: ExpertStyle = ExpertStyle { leap: 0.5, merge: 0.3, noise: 0.0 };

/// One solution as the policy would write it.
pub fn policy(rng: &mut Cursor, problem: &Problem, style: PolicyStyle) -> String {
    match &problem.task {
        Task::Equation { factor, addend, total } => {
            let difference = noisy(rng, total - addend, style.noise);
            let x = noisy(rng, difference.div_euclid(*factor), style.noise);
            format!(
                "We get {factor} * x = {total} - {addend} = {difference}. Then x = {difference} / {factor} = {x}. \
                 The answer is \\boxed{{{x}}}."
            )
        }
        Task::Chain { start, ops, .. } => {
            let mut value = *start;
            let mut text =
                if rng.below(2) == 0 { format!("We start with {value}.") } else { format!("Start at {value}.") };
            let mut i = 0;
            while i < ops.len() {
                let two = rng.uniform() < style.hasty && ops.get(i + 1).is_some_and(|op| !op.is_product());
                let group = &ops[i..i + 1 + usize::from(two)];
                let (equation, result) = equation(value, group);
                value = noisy(rng, result, style.noise).max(0);
                text += &format!(" {} {equation} = {value}.", rng.choose(&["Then", "Next", "So"]));
                i += group.len();
            }
            text + &format!(" The answer is \\boxed{{{value}}}.")
        }
    }
}

/// One solution as the expert would write it.
pub fn expert(rng: &mut Cursor, problem: &Problem, style: ExpertStyle) -> String {
    let claim = if rng.uniform() < style.leap { format!("Claim: we get {}. ", problem.answer) } else { String::new() };
    match &problem.task {
        Task::Equation { factor, addend, total } => {
            let (first, second, answer) = (rng.choose(&ADVERBS), rng.choose(&ADVERBS), problem.answer);
            let product = total - addend;
            format!(
                "{claim}{first}, {factor} * x = {total} - {addend} = {product}; {second}, x = {product} / {factor} \
                 = {answer}; Therefore \\boxed{{{answer}}}."
            )
        }
        Task::Chain { start, ops, dozen } => {
            let variable = rng.choose(&VARIABLES);
            let mut text = format!("{claim}Let {variable} = {start}.");
            if let Some(Op::Add(n) | Op::Sub(n)) = dozen.map(|i| ops[i]) {
                text += &format!(" Recall, a dozen is {n};");
            }
            let mut value = *start;
            let mut i = 0;
            while i < ops.len() {
                let mut count = 1;
                while rng.uniform() < style.merge && ops.get(i + count).is_some_and(|op| !op.is_product()) {
                    count += 1;
                }
                let (equation, result) = equation(value, &ops[i..i + count]);
                value = noisy(rng, result, style.noise).max(0);
                text += &format!(" {}, {variable} = {equation} = {value};", rng.choose(&ADVERBS));
                i += count;
            }
            text + &format!(" Therefore \\boxed{{{value}}}.")
        }
    }
}

/// `14 + 23 - 9` and its value, worked from left to right: a product is only ever the first operation of a group.
fn equation(start: i64, ops: &[Op]) -> (String, i64) {
    let written = ops.iter().fold(start.to_string(), |text, op| text + &op.written());
    (written, ops.iter().fold(start, |value, op| op.apply(value)))
}

/// With probability `noise`, a slip such as a person makes: off by one, by two or by a carry, and never below zero.
fn noisy(rng: &mut Cursor, value: i64, noise: f64) -> i64 {
    if rng.uniform() >= noise {
        return value;
    }
    (0..20)
        .map(|_| value + rng.choose(&[-1, 1, -2, 2, -10, 10, -11, 9, 20, -20]))
        .find(|slip| *slip >= 0)
        .unwrap_or(value + 1)
}
