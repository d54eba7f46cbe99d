//! text: what Python passes as text and as the value of an option.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyBool, PyFloat, PyInt, PyString};
use std::ops::Deref;

/// A Python string, read where it lies; one with lone surrogates, which UTF-8 has not, as a copy with replacement characters.
pub enum Text {
    Lent(PyBackedStr),
    Mended(String),
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Text::Lent(text) => text,
            Text::Mended(text) => text,
        }
    }
}

impl<'a, 'py> FromPyObject<'a, 'py> for Text {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Text> {
        let text = object.cast::<PyString>()?;
        Ok(match PyBackedStr::try_from(text.to_owned()) {
            Ok(text) => Text::Lent(text),
            Err(_) => Text::Mended(text.to_string_lossy().into_owned()),
        })
    }
}

/// The value of an option as it is written in a pipeline: `true`, `60000`, `from_gold`.
pub fn word(value: &Bound<PyAny>) -> PyResult<String> {
    if let Ok(flag) = value.cast::<PyBool>() {
        return Ok(flag.is_true().to_string());
    }
    if value.is_instance_of::<PyString>() || value.is_instance_of::<PyInt>() || value.is_instance_of::<PyFloat>() {
        return Ok(value.str()?.to_string());
    }
    let kind = value.get_type().name()?;
    Err(PyTypeError::new_err(format!("the value of an option is a bool, a number or a string, not `{kind}`")))
}
