//! imports: where completions that were not sampled here came from.

use super::row::row;
use super::words::words;
use std::collections::BTreeMap;

words! {
    /// By what a row of a file was matched to its problem.
    MatchedBy {
        /// Our own id of the problem
        ProblemId = "problem_id",
        /// The id that the problem's source gives it
        Id = "id",
        /// The question, white space aside
        Question = "question",
    }
}

words! {
    /// Where token ids come from.
    TokensFrom {
        /// Given with the text
        Given = "given",
        /// Encoded, as none were given
        Encoded = "encoded",
        /// Encoded, as those given are not the text in this tokenizer
        Misfit = "misfit",
    }
}

words! {
    /// What became of reasoning that stood beside a text.
    Reasoning {
        /// It is no part of the completion
        LeftOut = "left_out",
        /// It stands in front of the text, between the tags of thoughts
        InTags = "in_tags",
    }
}

row! {
    /// One row per imported completion: where it came from.
    Import in "imports" v 1 key [problem_id, sample_index] {
        /// The problem
        problem_id: String,
        /// Of the row in `rollouts`
        sample_index: u32,
        /// Name of the input file
        file: String,
        /// 1-based line of a text file, 1-based row of a Parquet file
        line: u64,
        /// 0-based place among the completions of its row
        item_index: u32,
        /// By what its row was matched to the problem
        matched_by: MatchedBy,
        /// Where its token ids come from
        tokens_from: TokensFrom,
        /// What became of reasoning that stood beside the text; null where there was none
        reasoning: Option<Reasoning>,
    }
    counts(rows) {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        let mut count = |name: String| *counts.entry(name).or_default() += 1;
        for row in rows {
            count(format!("by_{}", row.matched_by));
            count(format!("tokens_{}", row.tokens_from));
            row.reasoning.into_iter().for_each(|what| count(format!("reasoning_{what}")));
        }
        counts
    }
}
