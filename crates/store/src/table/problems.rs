//! problems: what is to be solved, with the expert's solution where there is one. And what was refused on the way in.

use super::row::row;
use mindgap_base::error::Error;

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
        /// The source's own id and other fields, as JSON
        meta: Option<String>,
    }
    check(self) {
        match () {
            _ if self.question.trim().is_empty() => Err(Error::input("empty question")),
            _ if self.answer.trim().is_empty() => Err(Error::input("empty answer")),
            _ => Ok(()),
        }
    }
    count "with_solution"(rows) {
        rows.iter().filter(|row| row.solution.is_some()).count()
    }
}

impl Problem {
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
    /// One row per input row that could not become a problem.
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
}
