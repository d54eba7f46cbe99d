//! Values as Python writes them in JSON.

use super::python::{argument, wrong};
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Error, ErrorKind, Value};
use serde_json::Value as Json;

/// transformers' `tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`, which is Python's `json.dumps`
/// and escapes no HTML.
pub fn to_json(value: Value, args: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let argument = |index: usize, name: &str| argument(&args, &named, index, name).filter(|value| !value.is_none());
    let ascii = argument(0, "ensure_ascii").is_some_and(|value| value.is_true());
    let indent = match argument(1, "indent") {
        None => None,
        Some(text) if text.kind() == ValueKind::String => Some(text.to_string()),
        Some(width) => Some(" ".repeat(usize::try_from(width)?)),
    };
    let separators = match argument(2, "separators") {
        None => [if indent.is_some() { "," } else { ", " }, ": "].map(str::to_string),
        Some(pair) => {
            let pair: Vec<String> = pair.try_iter()?.map(|part| part.to_string()).collect();
            pair.try_into().map_err(|_| wrong("`separators` is a pair"))?
        }
    };
    let sorted = argument(3, "sort_keys").is_some_and(|value| value.is_true());
    named.assert_all_used()?;
    let json = serde_json::to_value(&value)
        .map_err(|e| Error::new(ErrorKind::BadSerialization, "cannot be written as JSON").with_source(e))?;
    let dump = Dump { ascii, indent, separators, sorted };
    let mut out = String::new();
    dump.write(&json, 0, &mut out);
    Ok(Value::from_safe_string(out))
}

/// How JSON is written.
struct Dump {
    ascii: bool,
    indent: Option<String>,
    /// Between items, and between a key and its value.
    separators: [String; 2],
    sorted: bool,
}

impl Dump {
    fn write(&self, value: &Json, depth: usize, out: &mut String) {
        match value {
            Json::Array(items) if !items.is_empty() => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    self.between(index, depth + 1, out);
                    self.write(item, depth + 1, out);
                }
                self.newline(depth, out);
                out.push(']');
            }
            Json::Object(fields) if !fields.is_empty() => {
                let mut fields: Vec<(&String, &Json)> = fields.iter().collect();
                if self.sorted {
                    fields.sort_by_key(|(key, _)| *key);
                }
                out.push('{');
                for (index, (key, item)) in fields.into_iter().enumerate() {
                    self.between(index, depth + 1, out);
                    self.text(&Json::from(key.as_str()), out);
                    out.push_str(&self.separators[1]);
                    self.write(item, depth + 1, out);
                }
                self.newline(depth, out);
                out.push('}');
            }
            scalar => self.text(scalar, out),
        }
    }

    fn between(&self, index: usize, depth: usize, out: &mut String) {
        if index > 0 {
            out.push_str(&self.separators[0]);
        }
        self.newline(depth, out);
    }

    fn newline(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    }

    fn text(&self, scalar: &Json, out: &mut String) {
        let mut text = scalar.to_string();
        // Python writes two digits of an exponent at least.
        if let (Json::Number(_), Some(at)) = (scalar, text.find("e-").filter(|at| at + 3 == text.len())) {
            text.insert(at + 2, '0');
        }
        for c in text.chars() {
            match c {
                c if self.ascii && !c.is_ascii() => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
    }
}
