//! problems: what is to be solved, with the expert's solution where there is one. And what was refused on the way in.

use super::by_reason;
use super::row::row;
use mindgap_base::error::Error;
use serde_json::Value;
use std::collections::BTreeMap;

row! {
    /// One row per distinct problem.
    Problem in "problems" v 1 key [problem_id] {
        /// First 16 hexadecimal digits of blake3 over question and answer, so it survives reordering and growth of a file
        problem_id: String,
        /// Where it came from: the name given to the source, a benchmark's name for benchmarks
        source: String,
        /// The problem as shown to the policy
        question: String,
        /// The expert's worked solution
        solution: Option<String>,
        /// The gold final answer
        answer: String,
        /// The source's own id and other fields, and what was done to the row, as JSON
        meta: Option<String>,
    }
    check(self) {
        match () {
            _ if self.question.trim().is_empty() => Err(Error::input("empty question")),
            _ if self.answer.trim().is_empty() => Err(Error::input("empty answer")),
            _ => Ok(()),
        }
    }
    counts(rows) {
        let with_solution = rows.iter().filter(|row| row.solution.is_some()).count() as u64;
        let mut counts = BTreeMap::from([("with_solution".to_string(), with_solution)]);
        for row in rows {
            row.notes().into_iter().for_each(|note| *counts.entry(note).or_default() += 1);
        }
        counts
    }
}

impl Problem {
    /// What ingest says in `meta` that it did with the row: rules that changed the solution, a solution that was none, a system
    /// turn that is no part of the question.
    fn notes(&self) -> Vec<String> {
        let keys = [r#""bare_solution""#, r#""cleaned""#, r#""system""#];
        let is_noted = |meta: &&String| keys.iter().any(|key| meta.contains(key));
        let meta = self.meta.as_ref().filter(is_noted).and_then(|meta| serde_json::from_str::<Value>(meta).ok());
        let Some(meta) = meta else { return Vec::new() };
        let rules = meta["cleaned"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let keys = ["bare_solution", "system"].into_iter().filter(|key| meta[key].is_string());
        rules.chain(keys).map(str::to_string).collect()
    }

    /// The id of a problem: derived from its content alone.
    pub fn id(question: &str, answer: &str) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("mindgap 2026 problem id v1");
        for text in [question, answer] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        hasher.finalize().to_hex()[..16].to_string()
    }
}

row! {
    /// One row per input row that could not become a problem, or completion that could not become a sample.
    Reject in "rejects" v 1 key [file, line] {
        /// Name of the input file
        file: String,
        /// 1-based line of a text file, 1-based row of a Parquet file
        line: u64,
        /// Why it was refused
        reason: String,
        /// The start of the row, to recognise it by
        excerpt: String,
    }
    counts(rows) { by_reason(rows.iter().map(|row| row.reason.split(DETAIL).next().unwrap_or_default())) }
}

/// Stands in a reason before what differs from row to row: which problem it is about, which words are shared.
pub const DETAIL: &str = ": problem ";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Row;

    #[test]
    fn rejects_are_counted_whatever_problem_they_are_about() {
        let reject = |line: u64, reason: &str| Reject {
            file: "a.jsonl".to_string(),
            line,
            reason: reason.to_string(),
            excerpt: String::new(),
        };
        let rows = [
            reject(1, "shares 13 words with benchmark `b`: problem `0f`, `some words`"),
            reject(2, "shares 13 words with benchmark `b`: problem `1e`, `other words`"),
            reject(3, "no gold answer: it says `N/A`"),
        ];
        let counts = Reject::counts(&rows);
        assert_eq!(counts["shares N words with benchmark `b`"], 2);
        assert_eq!(counts["no gold answer: it says `N/A`"], 1);
    }
}
