//! examples: ready-made training rows from text segments, for pre-training.

use super::named;
use super::row::row;
use mindgap_base::error::Error;

row! {
    /// One row per document, its trained tokens marked.
    Example in "examples" v 1 key [example_id] {
        /// First 16 hexadecimal digits of blake3 over the segments, and a number where the document occurs again
        example_id: String,
        /// Name given to the source
        source: String,
        /// Token ids of the whole document
        token_ids: Vec<u32>,
        /// True where the token is a target; the first token never counts, as nothing predicts it
        loss_mask: Vec<bool>,
    }
    check(self) {
        if self.token_ids.len() == self.loss_mask.len() {
            return Ok(());
        }
        let (n, m) = (self.token_ids.len(), self.loss_mask.len());
        Err(Error::internal(format!("{n} tokens but {m} mask entries")).at(format!("example `{}`", self.example_id)))
    }
    counts(rows) { named("tokens", rows.iter().map(|row| row.token_ids.len()).sum::<usize>()) }
}
