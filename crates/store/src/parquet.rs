//! The only Parquet writer, every option explicit so that equal rows give equal bytes; and the readers.

mod foreign;

pub use self::foreign::{Foreign, encode_foreign};

use super::{PartRef, Store};
use crate::table::{Row, from_batches, misfit, to_batch};
use arrow::array::{Array, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow::datatypes::{DataType, FieldRef};
use bytes::Bytes;
use mindgap_base::address::Address;
use mindgap_base::error::{Error, Result};
use mindgap_base::guard::{caught, guarded};
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::file::reader::{ChunkReader, Length};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::Read;

/// What a stray file says about itself, in its footer.
#[derive(Clone, Debug)]
pub struct Footer<'a> {
    pub stage: &'a str,
    pub fingerprint: &'a str,
}

impl Footer<'_> {
    fn pairs<R: Row>(&self) -> Vec<KeyValue> {
        let pair = |key: &str, value: String| KeyValue::new(key.to_string(), value);
        vec![
            pair("mindgap.table", R::TABLE.to_string()),
            pair("mindgap.schema_version", R::VERSION.to_string()),
            pair("mindgap.stage", self.stage.to_string()),
            pair("mindgap.fingerprint", self.fingerprint.to_string()),
        ]
    }
}

fn properties(footer: Vec<KeyValue>) -> Result<WriterProperties> {
    let level = ZstdLevel::try_new(3).map_err(|e| Error::internal("zstd level").source(e))?;
    Ok(WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_created_by("mindgap".to_string())
        .set_compression(Compression::ZSTD(level))
        .set_encoding(Encoding::PLAIN)
        .set_dictionary_enabled(true)
        .set_dictionary_page_size_limit(1 << 20)
        .set_data_page_size_limit(1 << 20)
        .set_data_page_row_count_limit(20_000)
        .set_write_batch_size(1024)
        .set_max_row_group_row_count(Some(65_536))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_key_value_metadata(Some(footer))
        .build())
}

fn encode<R: Row>(batch: &RecordBatch, footer: &Footer) -> Result<Vec<u8>> {
    let failed = |e| Error::internal(format!("cannot encode table `{}`", R::TABLE)).source(e);
    let properties = properties(footer.pairs::<R>())?;
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).map_err(failed)?;
    writer.write(batch).map_err(failed)?;
    writer.into_inner().map_err(failed)
}

/// Opens Parquet bytes or a Parquet file, anyone's. Damaged ones are an error, `damaged`, and those whose columns are nested deeper
/// than the readers recurse.
pub fn open<R: ChunkReader + Send + 'static>(
    file: R,
    damaged: &str,
) -> Result<ParquetRecordBatchReaderBuilder<Ending<R>>> {
    guarded(THE_FILE, || {
        let failed = |e| Error::input(damaged).source(e);
        let builder = ParquetRecordBatchReaderBuilder::try_new(Ending(file)).map_err(failed)?;
        // The reader takes for granted that no column lies before the file.
        let mut columns = builder.metadata().row_groups().iter().flat_map(|group| group.columns());
        let lies_before = |place: i64| place < 0;
        if columns.any(|column| {
            let starts =
                [Some(column.data_page_offset()), column.dictionary_page_offset(), Some(column.compressed_size())];
            starts.into_iter().flatten().any(lies_before)
        }) {
            return Err(Error::input(damaged));
        }
        // Dropped here where it is too deep: that recurses, too.
        match builder.schema().fields().iter().map(|field| depth(field.data_type())).max() {
            Some(depth) if depth > MOST_DEPTH => {
                Err(Error::input(format!("the Parquet file nests its columns {depth} deep, more than {MOST_DEPTH}")))
            }
            _ => Ok(builder),
        }
    })
}

/// The next batch of such a reader; none at its end. Damage that the library panics at is an error too, behind which there is no
/// other batch.
pub fn next_batch(reader: &mut ParquetRecordBatchReader, damaged: &str) -> Result<Option<RecordBatch>> {
    caught(THE_FILE, || reader.next().transpose().map_err(|e| Error::input(damaged).source(e)))
}

/// A file behind whose end nothing can be read: that is an error, and not no bytes. Of a damaged length the library would go on
/// skipping what is not there.
pub struct Ending<R>(R);

impl<R: Length> Length for Ending<R> {
    fn len(&self) -> u64 {
        self.0.len()
    }
}

impl<R: ChunkReader> ChunkReader for Ending<R> {
    type T = Ending<R::T>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        self.0.get_read(start).map(Ending)
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        self.0.get_bytes(start, length)
    }
}

impl<R: Read> Read for Ending<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(buffer)? {
            0 if !buffer.is_empty() => Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => Ok(count),
        }
    }
}

const THE_FILE: &str = "the Parquet file";
const MOST_DEPTH: usize = 100;
const UNREADABLE: &str = "not a readable Parquet file";

/// How many types lie within each other.
fn depth(data_type: &DataType) -> usize {
    let of = |field: &FieldRef| depth(field.data_type());
    let inside = match data_type {
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => of(field),
        DataType::Struct(fields) => fields.iter().map(of).max().unwrap_or(0),
        DataType::Dictionary(_, value) => depth(value),
        _ => 0,
    };
    1 + inside
}

/// Record batches of Parquet bytes. Damaged bytes are an error.
pub fn decode_batches(bytes: Vec<u8>) -> Result<Vec<RecordBatch>> {
    batches(bytes, None)?.collect()
}

/// The same one by one, with some columns alone where they are named. A name that the file lacks is left out.
pub fn batches(bytes: Vec<u8>, columns: Option<&[&str]>) -> Result<impl Iterator<Item = Result<RecordBatch>>> {
    let failed = |e: Box<dyn std::error::Error + Send + Sync>| Error::input(UNREADABLE).source(e);
    let reader = open(Bytes::from(bytes), UNREADABLE)?;
    let wanted = match columns {
        Some(columns) => ProjectionMask::columns(reader.parquet_schema(), columns.iter().copied()),
        None => ProjectionMask::all(),
    };
    let mut reader = reader.with_projection(wanted).with_batch_size(8192).build().map_err(|e| failed(e.into()))?;
    let mut is_over = false;
    Ok(std::iter::from_fn(move || {
        let batch = if is_over { None } else { next_batch(&mut reader, UNREADABLE).transpose() };
        is_over = !matches!(batch, Some(Ok(_)));
        batch
    }))
}

/// What a Parquet file says of itself.
pub struct FileFacts {
    /// Names and Arrow types.
    pub columns: Vec<(String, String)>,
    pub rows: u64,
    /// Key-value metadata.
    pub footer: BTreeMap<String, String>,
    /// Content address of the rows.
    pub content: Address,
}

/// Facts of Parquet bytes; `None` for any other file.
pub fn facts(bytes: Bytes) -> Option<FileFacts> {
    if !(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1") && bytes.len() > 12) {
        return None;
    }
    let reader = open(bytes.clone(), UNREADABLE).ok()?;
    let file = reader.metadata().file_metadata();
    let rows = file.num_rows().max(0) as u64;
    let pairs = file.key_value_metadata().into_iter().flatten();
    let footer: BTreeMap<String, String> =
        pairs.filter_map(|pair| Some((pair.key.clone(), pair.value.clone()?))).collect();
    let columns = reader.schema().fields().iter().map(|f| (f.name().clone(), f.data_type().to_string())).collect();
    let named = |key: &str| footer.get(key).map_or("", String::as_str);
    let content = content(named("mindgap.table"), named("mindgap.schema_version"), rows, &bytes);
    Some(FileFacts { columns, rows, content, footer })
}

/// The hash of a part's rows alone, whatever recipe its footer names.
fn content(table: &str, version: &str, rows: u64, bytes: &[u8]) -> Address {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{table} v{version} {rows} rows\n").as_bytes());
    hasher.update(without_footer(bytes));
    hasher.finalize().into()
}

/// First and last value of the key's first column.
fn key_range<R: Row>(batch: &RecordBatch) -> (String, String) {
    let n = batch.num_rows();
    let column = batch.column_by_name(R::KEY[0]).expect("a table has its key column");
    let any = column.as_any();
    let text = |row: usize| {
        if let Some(c) = any.downcast_ref::<StringArray>() {
            c.value(row).to_string()
        } else if let Some(c) = any.downcast_ref::<UInt32Array>() {
            c.value(row).to_string()
        } else if let Some(c) = any.downcast_ref::<UInt64Array>() {
            c.value(row).to_string()
        } else {
            String::new()
        }
    };
    if n == 0 { (String::new(), String::new()) } else { (text(0), text(n - 1)) }
}

/// Everything before the footer: the data pages. Parquet ends with the footer, its length (u32 LE) and `PAR1`.
fn without_footer(bytes: &[u8]) -> &[u8] {
    let tail = bytes.len() - 8;
    let footer = u32::from_le_bytes(bytes[tail..tail + 4].try_into().expect("4 bytes")) as usize;
    &bytes[..tail - footer]
}

/// A part of a table as bytes, ready to be stored.
pub struct Encoded {
    pub table: &'static str,
    pub bytes: Vec<u8>,
    content: Address,
    rows: u64,
    first: String,
    last: String,
    counts: BTreeMap<String, u64>,
}

impl Encoded {
    pub fn new<R: Row>(rows: &[R], footer: &Footer) -> Result<Encoded> {
        let batch = to_batch(rows)?;
        let bytes = encode::<R>(&batch, footer)?;
        let (first, last) = key_range::<R>(&batch);
        let counts = R::counts(rows);
        let rows = rows.len() as u64;
        let content = content(R::TABLE, &R::VERSION.to_string(), rows, &bytes);
        Ok(Encoded { table: R::TABLE, bytes, content, rows, first, last, counts })
    }
}

impl Store {
    /// Stores an encoded part of a table.
    pub fn put_part(&self, part: Encoded) -> Result<PartRef> {
        let address = self.put(&part.bytes)?;
        let Encoded { bytes, content, rows, first, last, counts, .. } = part;
        Ok(PartRef { address, content, rows, bytes: bytes.len() as u64, first, last, counts })
    }

    /// Reads one part: hash, schema and rows are checked.
    pub fn read_part<R: Row>(&self, part: &PartRef) -> Result<Vec<R>> {
        let at = || format!("table `{}`, object {}", R::TABLE, part.address);
        let batches = decode_batches(self.get(&part.address)?).map_err(|e| e.at(at()))?;
        from_batches(&batches).map_err(|e| e.at(at()))
    }

    /// Reads some columns of one part, its hash checked.
    pub fn read_columns<R: Row, T: DeserializeOwned>(&self, part: &PartRef, columns: &[&str]) -> Result<Vec<T>> {
        let at = || format!("table `{}`, object {}", R::TABLE, part.address);
        let mut rows = Vec::with_capacity(part.rows as usize);
        for batch in batches(self.get(&part.address)?, Some(columns)).map_err(|e| e.at(at()))? {
            let batch = batch.map_err(|e| e.at(at()))?;
            let fitting: Vec<T> =
                serde_arrow::from_record_batch(&batch).map_err(|e| misfit::<R>(&batch, e).at(at()))?;
            rows.extend(fitting);
        }
        Ok(rows)
    }

    /// Some columns of one part of a table that is known by its name alone, as JSON. A column the part lacks is absent.
    pub fn read_json(&self, table: &str, part: &PartRef, columns: &[&str]) -> Result<Vec<Map<String, Value>>> {
        let at = || format!("table `{table}`, object {}", part.address);
        let mut rows = Vec::with_capacity(part.rows as usize);
        for batch in batches(self.get(&part.address)?, Some(columns)).map_err(|e| e.at(at()))? {
            let batch = batch.map_err(|e| e.at(at()))?;
            let read: Vec<Map<String, Value>> = serde_arrow::from_record_batch(&batch)
                .map_err(|e| Error::input("columns that cannot be read as JSON").source(e).at(at()))?;
            rows.extend(read);
        }
        Ok(rows)
    }

    /// Reads parts one after the other.
    pub fn read_rows<R: Row>(&self, parts: &[PartRef]) -> Result<Vec<R>> {
        let mut rows = Vec::new();
        for part in parts {
            rows.extend(self.read_part::<R>(part)?);
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::problems::Problem;

    /// Pinned: other bytes for the same rows mean that every address of every user changes.
    #[test]
    fn equal_rows_give_the_pinned_bytes() {
        let row = |id: &str, solution: Option<&str>| Problem {
            problem_id: id.to_string(),
            source: "golden".to_string(),
            question: "What is 6 times 7?".to_string(),
            solution: solution.map(str::to_string),
            answer: "42".to_string(),
            meta: None,
        };
        let rows = [row("00", Some("6 * 7 = \\boxed{42}")), row("01", None)];
        let encoded = Encoded::new(&rows, &Footer { stage: "problems", fingerprint: "f" }).unwrap();
        assert_eq!((Address::of(&encoded.bytes).short(), encoded.content.short()), (PINNED_FILE, PINNED_CONTENT));
        // Another recipe in the footer: another file, the same content.
        let other = Encoded::new(&rows, &Footer { stage: "problems", fingerprint: "g" }).unwrap();
        assert_ne!(other.bytes, encoded.bytes);
        assert_eq!(other.content, encoded.content);
        let facts = facts(encoded.bytes.into()).unwrap();
        assert_eq!((facts.content, facts.rows), (other.content, 2));
        assert_eq!(facts.footer["mindgap.stage"], "problems");
    }
    const PINNED_FILE: &str = "379a2e3a9bb8";
    const PINNED_CONTENT: &str = "e328a2cce22f";
}
