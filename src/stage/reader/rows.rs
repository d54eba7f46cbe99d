//! Source bytes -> rows, one at a time, and what JSON object each is.

use super::values::BINARY;
use super::{Content, Format};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, UInt64Type};
use arrow::util::display::array_value_to_string;
use flate2::read::MultiGzDecoder;
use mindgap_base::error::{Error, Result};
use mindgap_base::memory::within;
use mindgap_store::{
    Store,
    fs::{self, File},
    parquet::{next_batch, open as open_parquet},
};
use parquet::basic::Compression;
use serde_json::{Map, Number, Value};
use std::borrow::Cow;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::Path;

/// A gzip file may unpack to this much, so that a small file cannot fill the disk.
const UNPACKED_BYTES_MAX: u64 = 16 << 30;
/// Longest line of a text file.
const LINE_BYTES_MAX: usize = 64 << 20;
/// Characters of a rejected row that are kept to recognise it by.
const EXCERPT_CHARS: usize = 120;
const DAMAGED: &str = "the Parquet file is damaged or of an unknown kind";
const PARQUET_BATCH_ROWS: usize = 1024;
/// Largest cell of a Parquet file.
const CELL_BYTES_MAX: usize = 64 << 20;
/// Memory that reading so many rows may take, and one row as what it is read into.
const BATCH_BYTES_MAX: usize = 1 << 30;
const READ_BYTES: usize = 1 << 17;

/// A row as it stands in its file. To make an object of it is most of the work, and can be done on any thread.
pub enum Row {
    /// A line of a text file.
    Line(Vec<u8>),
    /// The start of a line that is too long.
    LongLine(Vec<u8>),
    /// A row of a Parquet file.
    Cells(Map<String, Value>),
    /// The first column of a row whose cell is too large.
    LargeCell(String),
}

impl Row {
    /// What it says, or why that could not be read.
    pub fn object(&self) -> Result<Cow<'_, Map<String, Value>>, String> {
        match self {
            Row::Line(text) => parse(text).map(Cow::Owned),
            Row::LongLine(_) => Err("the line is longer than 64 MiB".to_string()),
            Row::LargeCell(column) => Err(format!("column `{column}` is larger than 64 MiB")),
            Row::Cells(cells) => Ok(Cow::Borrowed(cells)),
        }
    }

    /// Bytes of its text, about.
    pub fn size(&self) -> usize {
        match self {
            Row::Line(text) | Row::LongLine(text) => text.len(),
            Row::Cells(cells) => cells.values().filter_map(Value::as_str).map(str::len).sum(),
            Row::LargeCell(column) => column.len(),
        }
    }

    /// The start of the row.
    pub fn excerpt(&self) -> String {
        let text = match self {
            Row::Line(text) | Row::LongLine(text) => String::from_utf8_lossy(start(text)).into_owned(),
            Row::Cells(cells) => serde_json::to_string(cells).expect("a row is plain data"),
            Row::LargeCell(column) => column.clone(),
        };
        text.chars().take(EXCERPT_CHARS).collect()
    }
}

/// As much of a line as an excerpt may take.
fn start(line: &[u8]) -> &[u8] {
    &line[..line.len().min(4 * EXCERPT_CHARS)]
}

/// Takes a row and its number from 1: of a line in a text file, of a row in a Parquet file.
type Visitor<'a> = dyn FnMut(u64, Row) -> Result<()> + 'a;

/// Shows every row of a file, in order. Blank lines are no rows.
pub fn rows(input: &Content, store: &Store, visit: &mut Visitor) -> Result<()> {
    let mut file = BufReader::with_capacity(READ_BYTES, input.bytes);
    let unreadable = |error| fs::error("read file", Path::new(input.file), error);
    let is_gzip = file.fill_buf().map_err(unreadable)?.starts_with(&[0x1f, 0x8b]);
    let failed = |error: std::io::Error| match error.kind() {
        _ if !is_gzip => unreadable(error),
        ErrorKind::StorageFull => fs::error("unpack file", Path::new(input.file), error),
        ErrorKind::FileTooLarge => {
            Error::input("the gzip data unpacks to more than 16 GiB").at(input.file).hint("split the file")
        }
        _ => Error::input("the gzip data is damaged or ends too early").at(input.file).source(error),
    };
    let mut bytes: Box<dyn BufRead> = match is_gzip {
        true => Box::new(BufReader::new(Limited { bytes: MultiGzDecoder::new(file), left: UNPACKED_BYTES_MAX })),
        false => Box::new(file),
    };
    let mut start = Vec::new();
    bytes.by_ref().take(4).read_to_end(&mut start).map_err(failed)?;
    let is_parquet = start == b"PAR1";
    let mut bytes = start.as_slice().chain(bytes);
    match input.format {
        // A Parquet file is read from its end.
        _ if is_parquet && is_gzip => {
            let mut whole = store.nameless_file()?;
            std::io::copy(&mut bytes, &mut whole).map_err(failed)?;
            parquet(input, whole, visit)
        }
        _ if is_parquet => parquet(input, input.bytes.try_clone().map_err(failed)?, visit),
        Format::Parquet => Err(Error::input("not a Parquet file: the magic bytes `PAR1` are missing")
            .at(input.file)
            .hint("name a file of JSON lines `.jsonl`")),
        Format::Jsonl => jsonl(input, &mut bytes, &failed, visit),
    }
}

/// Bytes of which there may be so many and no more.
struct Limited<R> {
    bytes: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.bytes.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or(ErrorKind::FileTooLarge)?;
        Ok(count)
    }
}

fn jsonl(
    input: &Content,
    bytes: &mut impl BufRead,
    failed: &dyn Fn(std::io::Error) -> Error,
    visit: &mut Visitor,
) -> Result<()> {
    let (mut line, mut is_first) = (Vec::new(), true);
    for number in 1.. {
        line.clear();
        bytes.by_ref().take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line).map_err(failed)?;
        if line.is_empty() {
            break;
        }
        let is_cut = line.len() > LINE_BYTES_MAX && !line.ends_with(b"\n");
        if is_cut {
            bytes.skip_until(b'\n').map_err(failed)?;
        }
        let text = line.strip_prefix(b"\xEF\xBB\xBF").filter(|_| number == 1).unwrap_or(&line).trim_ascii();
        if text.is_empty() {
            continue;
        }
        if std::mem::take(&mut is_first) && text.starts_with(b"[") {
            return Err(Error::input("a JSON array, not JSON lines")
                .at(input.file)
                .hint("write one object per line, with `jq -c '.[]'` for example"));
        }
        let row = match is_cut {
            true => Row::LongLine(start(text).to_vec()),
            false => Row::Line(text.to_vec()),
        };
        visit(number, row)?;
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

fn parquet(input: &Content, file: File, visit: &mut Visitor) -> Result<()> {
    let damaged = |e: Box<dyn std::error::Error + Send + Sync>| Error::input(DAMAGED).at(input.file).source(e);
    let builder = open_parquet(file, DAMAGED).map_err(|e| e.at(input.file))?;
    let mut columns = builder.metadata().row_groups().iter().flat_map(|group| group.columns());
    if columns.any(|column| column.compression() == Compression::LZO) {
        return Err(Error::input("the Parquet file is compressed with LZO, which is not read")
            .at(input.file)
            .hint("write it again with zstd, snappy, gzip, brotli or lz4"));
    }
    let mut reader = builder.with_batch_size(PARQUET_BATCH_ROWS).build().map_err(|e| damaged(e.into()))?;
    let mut line = 0;
    let what = |rows: &str| format!("{rows} of `{}` take more than 1 GiB of memory", input.file);
    loop {
        let rows = what(&format!("rows {} to {}", line + 1, line + PARQUET_BATCH_ROWS as u64));
        let batch = within(BATCH_BYTES_MAX, &rows, || next_batch(&mut reader, DAMAGED));
        let Some(batch) = batch.map_err(|e| e.at(input.file))? else { return Ok(()) };
        let schema = batch.schema();
        let columns = || schema.fields().iter().map(|field| field.name()).zip(batch.columns());
        // A cell is no larger than its column.
        let large: Vec<(&String, &ArrayRef)> =
            columns().filter(|(_, column)| column.get_array_memory_size() > CELL_BYTES_MAX).collect();
        for index in 0..batch.num_rows() {
            line += 1;
            let row = match large.iter().find(|(_, column)| size(column, index) > CELL_BYTES_MAX) {
                Some((name, _)) => Row::LargeCell(name.to_string()),
                None => within(BATCH_BYTES_MAX, &what(&format!("row {line}")), || {
                    Row::Cells(columns().map(|(name, column)| (name.clone(), cell(column, index))).collect())
                }),
            };
            visit(line, row)?;
        }
    }
}

/// Bytes of one cell, those below it counted in.
fn size(array: &ArrayRef, index: usize) -> usize {
    let of_all = |items: ArrayRef| -> usize { (0..items.len()).map(|i| size(&items, i)).sum() };
    if array.is_null(index) {
        return 0;
    }
    match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().value_length(index) as usize,
        DataType::LargeUtf8 => array.as_string::<i64>().value_length(index) as usize,
        DataType::Utf8View => array.as_string_view().value(index).len(),
        DataType::Binary => array.as_binary::<i32>().value_length(index) as usize,
        DataType::LargeBinary => array.as_binary::<i64>().value_length(index) as usize,
        DataType::BinaryView => array.as_binary_view().value(index).len(),
        DataType::FixedSizeBinary(width) => *width as usize,
        DataType::List(_) => of_all(array.as_list::<i32>().value(index)),
        DataType::LargeList(_) => of_all(array.as_list::<i64>().value(index)),
        DataType::FixedSizeList(_, _) => of_all(array.as_fixed_size_list().value(index)),
        DataType::Struct(_) => array.as_struct().columns().iter().map(|column| size(column, index)).sum(),
        DataType::Map(_, _) => array.as_map().value(index).columns().iter().map(|column| of_all(column.clone())).sum(),
        DataType::Dictionary(_, values) => {
            cast(&array.slice(index, 1), values).map_or(0, |one| if one.is_valid(0) { size(&one, 0) } else { 0 })
        }
        _ => 8,
    }
}

/// One cell as JSON. What JSON has no word for (NaN, dates, decimals) becomes text, and so do bytes that are UTF-8.
fn cell(array: &ArrayRef, index: usize) -> Value {
    if array.is_null(index) {
        return Value::Null;
    }
    let shown = || array_value_to_string(array, index).map_or(Value::Null, Value::String);
    let casted = |to: &DataType| cast(&array.slice(index, 1), to).ok().filter(|one| one.is_valid(0));
    let bytes = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => Value::String(text.to_string()),
        Err(_) => Value::Object(Map::from_iter([(BINARY.to_string(), shown())])),
    };
    let list = |items: ArrayRef| Value::Array((0..items.len()).map(|i| cell(&items, i)).collect());
    match array.data_type() {
        DataType::Null => Value::Null,
        DataType::Boolean => Value::Bool(array.as_boolean().value(index)),
        DataType::Utf8 => Value::String(array.as_string::<i32>().value(index).to_string()),
        DataType::LargeUtf8 => Value::String(array.as_string::<i64>().value(index).to_string()),
        DataType::Utf8View => Value::String(array.as_string_view().value(index).to_string()),
        DataType::Binary => bytes(array.as_binary::<i32>().value(index)),
        DataType::LargeBinary => bytes(array.as_binary::<i64>().value(index)),
        DataType::BinaryView => bytes(array.as_binary_view().value(index)),
        // What is shorter than the width is filled up with zeros.
        DataType::FixedSizeBinary(_) => {
            let cell = array.as_fixed_size_binary().value(index);
            bytes(&cell[..cell.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)])
        }
        DataType::List(_) => list(array.as_list::<i32>().value(index)),
        DataType::LargeList(_) => list(array.as_list::<i64>().value(index)),
        DataType::FixedSizeList(_, _) => list(array.as_fixed_size_list().value(index)),
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            Value::Object(fields.iter().zip(columns).map(|(f, c)| (f.name().clone(), cell(c, index))).collect())
        }
        DataType::Map(_, _) => {
            let entries = array.as_map().value(index);
            let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
            let entry = |i: usize| (text(cell(entries.column(0), i)), cell(entries.column(1), i));
            Value::Object((0..entries.len()).map(entry).collect())
        }
        DataType::Dictionary(_, values) => casted(values).map_or(Value::Null, |one| cell(&one, 0)),
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
