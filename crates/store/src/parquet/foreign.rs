//! Parquet files for other programs: no tables of the store, written with the same options.

use super::{Footer, properties};
use crate::fs;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use mindgap_base::error::{Error, Result};
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;
use std::io::Write;
use std::path::{Path, PathBuf};

fn pairs(footer: &Footer) -> Vec<KeyValue> {
    let pair = |key: &str, value: &str| KeyValue::new(key.to_string(), value.to_string());
    vec![pair("mindgap.stage", footer.stage), pair("mindgap.fingerprint", footer.fingerprint)]
}

/// A batch that is no table of the store as Parquet, with the same options as one: data for other programs.
pub fn encode_foreign(batch: &RecordBatch, footer: &Footer) -> Result<Vec<u8>> {
    let failed = |e| Error::internal("cannot encode rows as Parquet").source(e);
    let properties = properties(pairs(footer))?;
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).map_err(failed)?;
    writer.write(batch).map_err(failed)?;
    writer.into_inner().map_err(failed)
}

/// The same, a file that grows by one batch after the other and holds none of them.
pub struct Foreign<W: Write + Send> {
    writer: ArrowWriter<W>,
    path: PathBuf,
}

impl<W: Write + Send> Foreign<W> {
    fn new(sink: W, path: &Path, schema: SchemaRef, footer: Vec<KeyValue>) -> Result<Foreign<W>> {
        let failed = |e| Error::internal("cannot begin a Parquet file").source(e);
        let writer = ArrowWriter::try_new(sink, schema, Some(properties(footer)?)).map_err(failed)?;
        Ok(Foreign { writer, path: path.to_path_buf() })
    }

    /// Adds a row group.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let written = self.writer.write(batch).and_then(|()| self.writer.flush());
        written.map_err(|e| fs::error("write", &self.path, std::io::Error::other(e)))
    }

    fn finish(self) -> Result<(W, PathBuf)> {
        let Foreign { writer, path } = self;
        let sink = writer.into_inner().map_err(|e| fs::error("write", &path, std::io::Error::other(e)))?;
        Ok((sink, path))
    }
}

impl Foreign<fs::Draft> {
    /// The file has its name once it is published.
    pub fn beside(path: &Path, schema: SchemaRef) -> Result<Foreign<fs::Draft>> {
        Foreign::new(fs::Draft::beside(path)?, path, schema, Vec::new())
    }

    /// `name` is the fault point's prefix.
    pub fn publish(self, name: &str) -> Result<()> {
        let (draft, path) = self.finish()?;
        draft.publish(&path, name)
    }
}

impl Foreign<fs::File> {
    /// A file in `folder` that never has a name.
    pub fn nameless(folder: &Path, schema: SchemaRef, footer: &Footer) -> Result<Foreign<fs::File>> {
        Foreign::new(fs::nameless(folder)?, folder, schema, pairs(footer))
    }

    /// All of it; the system reads its pages when they are asked for, and drops them where memory is short.
    pub fn bytes(self) -> Result<Bytes> {
        let (file, folder) = self.finish()?;
        Ok(Bytes::from_owner(fs::map_own(&file, &folder)?))
    }
}
