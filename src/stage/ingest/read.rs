//! Source bytes -> rows as JSON objects, one at a time.

use super::{Format, Input};
use crate::base::error::{Error, Result};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, UInt64Type};
use arrow::util::display::array_value_to_string;
use flate2::read::MultiGzDecoder;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Number, Value};
use std::borrow::Cow;
use std::io::Read;

/// A gzip file may unpack to this much, so that a small file cannot fill the memory.
const UNPACKED_BYTES_MAX: u64 = 16 << 30;
/// Characters of a rejected row that are kept to recognise it by.
const EXCERPT_CHARS: usize = 120;
const PARQUET_BATCH_ROWS: usize = 1024;

/// A row, or why it could not be read.
pub enum Row {
    Object(Map<String, Value>),
    Refused(String),
}

/// What a visitor is shown.
pub struct Visit<'a> {
    /// 1-based line or row.
    pub line: u64,
    pub content: &'a Row,
    /// The line as it stands in a text file.
    text: Option<&'a [u8]>,
}

impl Visit<'_> {
    /// The start of the row.
    pub fn excerpt(&self) -> String {
        let text = match (self.text, self.content) {
            (Some(bytes), _) => String::from_utf8_lossy(&bytes[..bytes.len().min(4 * EXCERPT_CHARS)]).into_owned(),
            (None, Row::Object(object)) => Value::Object(object.clone()).to_string(),
            (None, Row::Refused(_)) => String::new(),
        };
        text.chars().take(EXCERPT_CHARS).collect()
    }
}

/// Shows every row of the input, in order. Blank lines are no rows.
pub fn rows(input: &Input, visit: &mut dyn FnMut(Visit)) -> Result<()> {
    let bytes = unpacked(input)?;
    let is_parquet = bytes.starts_with(b"PAR1");
    match input.format {
        Format::Jsonl if is_parquet => {
            Err(Error::input("a Parquet file, not JSON lines").at(input.file).hint("say `format = \"parquet\"`"))
        }
        Format::Parquet if !is_parquet => Err(Error::input("not a Parquet file: the magic bytes `PAR1` are missing")
            .at(input.file)
            .hint("for one JSON object per line say `format = \"jsonl\"`")),
        Format::Jsonl => jsonl(input, &bytes, visit),
        Format::Parquet => parquet(input, bytes.into_owned(), visit),
    }
}

fn unpacked<'a>(input: &Input<'a>) -> Result<Cow<'a, [u8]>> {
    if !input.bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(Cow::Borrowed(input.bytes));
    }
    let mut bytes = Vec::new();
    let read = MultiGzDecoder::new(input.bytes).take(UNPACKED_BYTES_MAX + 1).read_to_end(&mut bytes);
    match read {
        Err(e) => Err(Error::input("the gzip data is damaged or ends too early").at(input.file).source(e)),
        Ok(n) if n as u64 > UNPACKED_BYTES_MAX => {
            Err(Error::input("the gzip data unpacks to more than 16 GiB").at(input.file).hint("split the file"))
        }
        Ok(_) => Ok(Cow::Owned(bytes)),
    }
}

fn jsonl(input: &Input, bytes: &[u8], visit: &mut dyn FnMut(Visit)) -> Result<()> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let first_line = bytes.split(|b| *b == b'\n').find(|line| !line.trim_ascii().is_empty()).unwrap_or_default();
    if first_line.trim_ascii().starts_with(b"[") {
        return Err(Error::input("a JSON array, not JSON lines")
            .at(input.file)
            .hint("write one object per line, with `jq -c '.[]'` for example"));
    }
    for (index, line) in bytes.split(|b| *b == b'\n').enumerate() {
        let line = line.trim_ascii();
        if !line.is_empty() {
            let content = parse(line).map_or_else(Row::Refused, Row::Object);
            visit(Visit { line: index as u64 + 1, content: &content, text: Some(line) });
        }
    }
    Ok(())
}

fn parse(line: &[u8]) -> Result<Map<String, Value>, String> {
    let text =
        std::str::from_utf8(line).map_err(|e| format!("invalid UTF-8 at byte {} of the line", e.valid_up_to()))?;
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("not a JSON object".to_string()),
        Err(e) if e.is_eof() => Err("the JSON ends too early: a truncated line".to_string()),
        Err(e) => {
            let column = e.column();
            let rest = text.get(column.saturating_sub(1)..).unwrap_or_default().trim_start_matches('-');
            match ["NaN", "Infinity"].into_iter().find(|word| rest.starts_with(word)) {
                Some(word) => Err(format!("`{word}` at column {column} is not JSON")),
                None => Err(format!("invalid JSON at column {column}")),
            }
        }
    }
}

fn parquet(input: &Input, bytes: Vec<u8>, visit: &mut dyn FnMut(Visit)) -> Result<()> {
    let damaged = |e: Box<dyn std::error::Error + Send + Sync>| {
        Error::input("the Parquet file is damaged or of an unknown kind").at(input.file).source(e)
    };
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).map_err(|e| damaged(e.into()))?;
    let reader = builder.with_batch_size(PARQUET_BATCH_ROWS).build().map_err(|e| damaged(e.into()))?;
    let mut line = 0;
    for batch in reader {
        let batch = batch.map_err(|e| damaged(e.into()))?;
        let schema = batch.schema();
        for index in 0..batch.num_rows() {
            line += 1;
            let cells = schema.fields().iter().zip(batch.columns());
            let object = cells.map(|(field, column)| (field.name().clone(), cell(column, index))).collect();
            visit(Visit { line, content: &Row::Object(object), text: None });
        }
    }
    Ok(())
}

/// One cell as JSON. What JSON has no word for (NaN, dates, decimals) becomes text.
fn cell(array: &ArrayRef, index: usize) -> Value {
    if array.is_null(index) {
        return Value::Null;
    }
    let shown = || array_value_to_string(array, index).map_or(Value::Null, Value::String);
    let casted = |to: &DataType| cast(&array.slice(index, 1), to).ok().filter(|one| one.is_valid(0));
    let list = |items: ArrayRef| Value::Array((0..items.len()).map(|i| cell(&items, i)).collect());
    match array.data_type() {
        DataType::Boolean => Value::Bool(array.as_boolean().value(index)),
        DataType::Utf8 => Value::String(array.as_string::<i32>().value(index).to_string()),
        DataType::LargeUtf8 => Value::String(array.as_string::<i64>().value(index).to_string()),
        DataType::Utf8View => Value::String(array.as_string_view().value(index).to_string()),
        DataType::List(_) => list(array.as_list::<i32>().value(index)),
        DataType::LargeList(_) => list(array.as_list::<i64>().value(index)),
        DataType::FixedSizeList(_, _) => list(array.as_fixed_size_list().value(index)),
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            Value::Object(fields.iter().zip(columns).map(|(f, c)| (f.name().clone(), cell(c, index))).collect())
        }
        DataType::Dictionary(_, values) => casted(values).map_or_else(shown, |one| cell(&one, 0)),
        DataType::UInt64 => Value::from(array.as_primitive::<UInt64Type>().value(index)),
        kind if kind.is_integer() => {
            casted(&DataType::Int64).map_or_else(shown, |one| Value::from(one.as_primitive::<Int64Type>().value(0)))
        }
        // By way of text, as 0.1 in 32 bits should read 0.1.
        kind if kind.is_floating() => {
            let number = array_value_to_string(array, index).ok().and_then(|text| text.parse().ok());
            number.and_then(Number::from_f64).map_or_else(shown, Value::Number)
        }
        _ => shown(),
    }
}
