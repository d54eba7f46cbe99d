//! The Python module `mindgap._mindgap`: verdicts of the crate `mindgap-math`, one at a time and in batches.
//!
//! No signal handlers, no clock, no process and no thread that outlives a call, so that it may be used in any thread and
//! behind a fork.

mod batch;
mod text;

use mindgap_math::{Judge, Options, Verdict};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use text::{Text, word};

/// A verdict with its evidence.
#[pyclass(frozen, eq, hash, module = "mindgap")]
#[derive(PartialEq, Eq, Hash)]
struct Judgement(mindgap_math::Judgement);

#[pymethods]
impl Judgement {
    #[new]
    #[pyo3(signature = (verdict, extracted, method))]
    fn new(verdict: &str, extracted: Option<String>, method: String) -> PyResult<Judgement> {
        let verdict = Verdict::named(verdict).ok_or_else(|| {
            let known = Verdict::ALL.map(Verdict::as_str).join(", ");
            PyValueError::new_err(format!("there is no verdict `{verdict}`; there are {known}"))
        })?;
        Ok(Judgement(mindgap_math::Judgement { verdict, extracted, method }))
    }

    #[classattr]
    fn __match_args__() -> (&'static str, &'static str, &'static str) {
        ("verdict", "extracted", "method")
    }

    #[getter]
    fn correct(&self) -> bool {
        self.0.verdict == Verdict::Correct
    }

    #[getter]
    fn verdict(&self) -> &'static str {
        self.0.verdict.as_str()
    }

    #[getter]
    fn extracted(&self) -> Option<&str> {
        self.0.extracted.as_deref()
    }

    #[getter]
    fn method(&self) -> &str {
        &self.0.method
    }

    /// What makes it again, for `pickle`.
    fn __getnewargs__(&self) -> (&'static str, Option<&str>, &str) {
        (self.verdict(), self.extracted(), self.method())
    }

    fn __repr__<'py>(&self, py: Python<'py>) -> PyResult<String> {
        let parts = self.__getnewargs__().into_pyobject(py)?;
        Ok(format!("Judgement{}", parts.repr()?))
    }
}

/// The judge of a kind, with its settings.
fn judge_of(kind: &str, options: Option<&Bound<PyDict>>) -> PyResult<Judge> {
    let mut settings = Vec::new();
    for (name, value) in options.into_iter().flatten() {
        settings.push((name.cast::<PyString>()?.to_string(), word(&value)?));
    }
    let settings = settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    Judge::of(kind, settings).map_err(PyValueError::new_err)
}

/// The options of the judge `math` with their defaults.
fn defaults(py: Python) -> PyResult<Bound<PyDict>> {
    let options = PyDict::new(py);
    for (name, value) in Options::default().settings() {
        match (value.parse::<bool>(), value.parse::<u64>()) {
            (Ok(flag), _) => options.set_item(name, flag)?,
            (_, Ok(number)) => options.set_item(name, number)?,
            _ => options.set_item(name, value)?,
        }
    }
    Ok(options)
}

/// True when the final answer of a response is the reference answer.
#[pyfunction]
#[pyo3(signature = (gold, answer, *, kind = "math", **options))]
fn verify(gold: Text, answer: Text, kind: &str, options: Option<&Bound<PyDict>>) -> PyResult<bool> {
    Ok(judge_of(kind, options)?.judge(&gold, &answer).verdict == Verdict::Correct)
}

/// The verdict on one response.
#[pyfunction]
#[pyo3(signature = (gold, response, *, kind = "math", **options))]
fn judge(gold: Text, response: Text, kind: &str, options: Option<&Bound<PyDict>>) -> PyResult<Judgement> {
    Ok(Judgement(judge_of(kind, options)?.judge(&gold, &response)))
}

/// The final answer in a response.
#[pyfunction]
fn extract(response: Text) -> Option<String> {
    mindgap_math::extract(&response).map(|found| found.text)
}

/// An answer in the judge's own notation.
#[pyfunction]
fn parse(answer: Text) -> Option<String> {
    mindgap_math::parse(&answer).ok().map(|answer| answer.to_string())
}

/// True when two answers are the same.
#[pyfunction]
#[pyo3(signature = (gold, answer, **options))]
fn equal(gold: Text, answer: Text, options: Option<&Bound<PyDict>>) -> PyResult<bool> {
    let Judge::Math(options) = judge_of("math", options)? else { unreachable!("the judge of this kind") };
    Ok(mindgap_math::equal(&gold, &answer, &options))
}

/// The answer that a worked solution states.
#[pyfunction]
fn stated_answer(solution: Text) -> Option<String> {
    mindgap_math::stated_answer(&solution)
}

/// True when a reference is read as mathematics, a choice or words, and not only compared as a string.
#[pyfunction]
fn is_readable(gold: Text) -> bool {
    mindgap_math::is_readable(&gold)
}

#[pymodule(gil_used = false)]
mod _mindgap {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::{Judgement, batch::judge_batch, equal, extract, is_readable, judge, parse, stated_answer, verify};

    #[pymodule_init]
    fn init(module: &Bound<PyModule>) -> PyResult<()> {
        module.add("JUDGE_VERSION", mindgap_math::JUDGE_VERSION)?;
        module.add("OPTIONS", super::defaults(module.py())?)?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
