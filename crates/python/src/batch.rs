//! batch: many verdicts by several threads, without the interpreter's lock.

use crate::text::Text;
use crate::{Judgement, judge_of};
use mindgap_math::Judge;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use std::num::NonZeroUsize;
use std::sync::Mutex;

/// Rows that a thread takes at a time.
const CHUNK: usize = 32;
/// Rows between two looks at whether the user has interrupted.
const STRETCH: usize = 16_384;
/// The deepest answers need an eighth of this.
const STACK_BYTES: usize = 8 << 20;

type Pair = (Text, Text);

/// Judges every response against the reference in its place. Threads are started and joined inside the call: none is left for
/// a fork to lose.
#[pyfunction]
#[pyo3(signature = (golds, responses, *, threads = None, kind = "math", **options))]
pub fn judge_batch(
    py: Python,
    golds: &Bound<PyAny>,
    responses: &Bound<PyAny>,
    threads: Option<NonZeroUsize>,
    kind: &str,
    options: Option<&Bound<PyDict>>,
) -> PyResult<Vec<Judgement>> {
    let judge = judge_of(kind, options)?;
    let (golds, responses) = (texts("golds", golds)?, texts("responses", responses)?);
    if golds.len() != responses.len() {
        let (golds, responses) = (golds.len(), responses.len());
        return Err(PyValueError::new_err(format!(
            "{golds} golds and {responses} responses: every response has one gold"
        )));
    }
    let threads = threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    let pairs: Vec<Pair> = golds.into_iter().zip(responses).collect();
    let mut judged = Vec::with_capacity(pairs.len());
    for stretch in pairs.chunks(STRETCH) {
        judged.extend(py.detach(|| all(&judge, stretch, threads))?);
        py.check_signals()?;
    }
    Ok(judged)
}

/// The strings of a list or any other iterable.
fn texts(name: &str, given: &Bound<PyAny>) -> PyResult<Vec<Text>> {
    if given.is_instance_of::<PyString>() {
        return Err(PyTypeError::new_err(format!("`{name}` is one string; pass a list of strings")));
    }
    let mut texts = Vec::with_capacity(given.len().unwrap_or(0));
    for (at, item) in given.try_iter()?.enumerate() {
        let item = item?;
        texts.push(item.extract().map_err(|_| {
            let kind = item.get_type().name().map_or_else(|_| "?".to_string(), |kind| kind.to_string());
            PyTypeError::new_err(format!("`{name}[{at}]` is a `{kind}`; it must be a string"))
        })?);
    }
    Ok(texts)
}

/// Judges pairs in chunks that threads take one after the other.
fn all(judge: &Judge, pairs: &[Pair], threads: usize) -> PyResult<Vec<Judgement>> {
    let threads = threads.min(pairs.len().div_ceil(CHUNK));
    let mut judged: Vec<Option<Judgement>> = Vec::new();
    judged.resize_with(pairs.len(), || None);
    let work = Mutex::new(pairs.chunks(CHUNK).zip(judged.chunks_mut(CHUNK)));
    let next = || work.lock().expect("no thread panics while it takes a chunk").next();
    let run = || {
        while let Some((pairs, places)) = next() {
            for ((gold, response), place) in pairs.iter().zip(places) {
                *place = Some(Judgement(judge.judge(gold, response)));
            }
        }
    };
    std::thread::scope(|scope| -> std::io::Result<()> {
        for at in 0..threads {
            let thread = std::thread::Builder::new().name("mindgap".into()).stack_size(STACK_BYTES);
            match thread.spawn_scoped(scope, run) {
                // the threads that there are do all the work
                Err(_) if at > 0 => break,
                other => drop(other?),
            }
        }
        Ok(())
    })?;
    Ok(judged.into_iter().map(|judgement| judgement.expect("every chunk was taken")).collect())
}
