//! A reward as it is written in a pipeline: an expression over what is known of a sample.

use mindgap_base::error::{Error, Result};
use minijinja::{Environment, Expression, UndefinedBehavior, Value};
use std::collections::BTreeMap;

/// What is known of every sample.
pub const KNOWN: [&str; 5] = ["correct", "eligible", "complete", "tokens", "correct_share"];
/// What is known where log-probs are named.
pub const OF_LOGPROBS: [&str; 2] = ["logprob", "likelihood"];
/// What is known where a policy is named.
pub const OF_POLICY: [&str; 1] = ["diversity"];

/// Characters of a formula.
const LONGEST: usize = 4096;
const FUEL: u64 = 100_000;

/// Evaluates `work` with the formula.
///
/// Errors: it does not parse, or names what is not known.
pub fn with<T>(formula: &str, names: &[String], work: impl FnOnce(&Formula) -> Result<T>) -> Result<T> {
    if formula.len() > LONGEST {
        return Err(Error::usage(format!("`formula` has {} characters, more than {LONGEST}", formula.len())));
    }
    let environment = environment();
    let hint =
        || format!("it is a minijinja expression; known: {}; functions: exp, log, min, max, clip", names.join(", "));
    let expression = environment
        .compile_expression(formula)
        .map_err(|e| Error::usage(format!("`formula` does not parse: {e}")).hint(hint()))?;
    let functions = ["exp", "log", "min", "max", "clip"];
    let known = |name: &String| names.contains(name) || functions.contains(&name.as_str());
    if let Some(name) = expression.undeclared_variables(false).iter().find(|name| !known(name)) {
        return Err(Error::usage(format!("`formula` names `{name}`, which is not known")).hint(hint()));
    }
    work(&Formula(expression))
}

pub struct Formula<'a>(Expression<'a, 'a>);

impl Formula<'_> {
    /// The reward of a sample. Error: it is no finite number.
    pub fn reward(&self, values: &BTreeMap<&str, f64>) -> Result<f64> {
        let found = self.0.eval(values).map_err(|e| Error::usage(format!("`formula` fails: {e}")))?;
        let number = if let Ok(truth) = bool::try_from(found.clone()) {
            Some(f64::from(u8::from(truth)))
        } else {
            f64::try_from(found.clone()).ok()
        };
        number
            .filter(|number| number.is_finite())
            .ok_or_else(|| Error::usage(format!("`formula` makes `{found}` of a sample, which is no finite number")))
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.add_function("exp", |x: f64| Value::from(x.exp()));
    environment.add_function("log", |x: f64| Value::from(x.ln()));
    environment.add_function("min", |a: f64, b: f64| Value::from(a.min(b)));
    environment.add_function("max", |a: f64, b: f64| Value::from(a.max(b)));
    environment.add_function("clip", |x: f64, low: f64, high: f64| Value::from(x.max(low).min(high)));
    environment
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reward(formula: &str) -> Result<f64> {
        let names = ["correct", "tokens", "likelihood"].map(str::to_string);
        let values = BTreeMap::from([("correct", 1.0), ("tokens", 50.0), ("likelihood", 0.25)]);
        with(formula, &names, |formula| formula.reward(&values))
    }

    #[test]
    fn a_formula_is_an_expression_over_a_sample() {
        let cases = [
            ("correct", 1.0),
            ("correct == 1 and tokens < 40", 0.0),
            ("correct * (1 + 0.4 * likelihood)", 1.1),
            ("1 if tokens > 40 else -1", 1.0),
            ("clip(log(exp(2)), 0, 1) - min(tokens, 2) / 4", 0.5),
        ];
        for (formula, expected) in cases {
            assert!((reward(formula).unwrap() - expected).abs() < 1e-12, "{formula}");
        }
    }

    #[test]
    fn what_makes_no_number_is_an_error() {
        for (formula, what) in [
            ("correct *", "does not parse"),
            ("length", "names `length`"),
            ("'many'", "no finite number"),
            ("log(0)", "no finite number"),
            ("tokens / 0", "fails"),
            ("range(3)", "names `range`"),
        ] {
            let error = reward(formula).unwrap_err();
            assert!(error.what().contains(what), "{formula}: {error}");
        }
    }
}
