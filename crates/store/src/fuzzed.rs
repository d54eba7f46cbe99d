//! What fuzz targets call.

use super::memo::{format_record, parse_line};
use super::seal::seal;

/// A record as it is written again, if the bytes are one.
pub fn record(bytes: &[u8]) -> Option<Vec<u8>> {
    parse_line(bytes).ok().map(|record| format_record(&record))
}

/// The same of the bytes as what a seal is around.
pub fn sealed_record(bytes: &[u8]) -> Option<Vec<u8>> {
    let json = std::str::from_utf8(bytes).ok().filter(|json| json.starts_with('{'))?;
    record(seal(json).as_bytes())
}
