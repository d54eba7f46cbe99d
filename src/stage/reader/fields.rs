//! Which field of a row holds what.

use super::{answers, values};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// What a problem is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Question,
    Solution,
    Answer,
    /// What the numbers of an answer are in.
    Scale,
    Id,
    Source,
    /// A text in front of the question: OlympiadBench's `context`, SVAMP's `Body`.
    Context,
    /// What is to be chosen from.
    Choices,
    /// Text that somebody or something wrote for the problem.
    Completion,
    /// Which problem a completion is for.
    Key,
    TokenIds,
    FinishReason,
    /// What an API puts beside its answer.
    Reasoning,
}

impl Field {
    /// Spellings of well-known data sets, the first one that holds something wins: MATH, GSM8K, OlympiadBench, AIME, AMC,
    /// Minerva, NuminaMath, AQuA, MMLU, and rows laid out for trainers (verl, TRL, OpenAI messages, ShareGPT).
    fn spellings(self) -> &'static [&'static str] {
        match self {
            Field::Question => &[
                "question",
                "problem",
                "extra_info.question",
                "prompt",
                "messages",
                "conversations",
                "query",
                "instruction",
            ],
            Field::Solution => &[
                "solution",
                "extra_info.answer",
                "demonstration",
                "rationale",
                "response",
                "completion",
                "output",
                "messages",
                "conversations",
            ],
            Field::Answer => &[
                "answer",
                "final_answer",
                "reward_model.ground_truth",
                "ground_truth",
                "expected_answer",
                "gold",
                "target",
                "correct_answer",
                "reference_answer",
                "gold_answer",
                "answerKey",
                "correct",
            ],
            Field::Id => &["id", "unique_id", "uuid", "idx", "index", "extra_info.index"],
            Field::Source | Field::Scale => &[],
            Field::Context => &["context", "body"],
            Field::Choices => &["choices", "options", "answer_choices", "answer_option_list"],
            Field::Completion => &[
                "completions",
                "completion",
                "generations",
                "generation",
                "generated_texts",
                "generated_text",
                "outputs",
                "response.body.choices",
                "response.choices",
                "response.candidates",
                "result.message",
                "body.choices",
                "responses",
                "choices",
                "candidates",
                "samples",
                "response",
                "output",
                "model_outputs",
                "model_output",
                "predictions",
                "prediction",
                "drafts",
                "draft",
                "generated_solutions",
                "generated_solution",
                "messages",
                "conversations",
                "text",
                "content",
                "solutions",
                "solution",
            ],
            Field::Key => &[
                "problem_id",
                "custom_id",
                "question_id",
                "id",
                "unique_id",
                "uuid",
                "idx",
                "index",
                "extra_info.index",
            ],
            Field::TokenIds => {
                &["token_ids", "output_token_ids", "completion_token_ids", "completion_ids", "output_ids"]
            }
            Field::FinishReason => &[
                "finish_reasons",
                "finish_reason",
                "finishReason",
                "meta_info.finish_reason",
                "stop_reasons",
                "stop_reason",
            ],
            Field::Reasoning => &["reasoning_content", "reasoning", "reasoning_contents", "thinking"],
        }
    }

    /// How a message calls the field: by its mapped name, or by the first spellings.
    pub fn wanted(self, named: Option<&str>) -> String {
        match named {
            Some(name) => format!("`{name}`"),
            None => self.spellings().iter().take(2).map(|s| format!("`{s}`")).collect::<Vec<_>>().join(" or "),
        }
    }

    pub fn is_among(self, columns: &BTreeSet<String>) -> bool {
        let spelled = |name: &String| self.spellings().iter().any(|spelling| name.eq_ignore_ascii_case(spelling));
        columns.iter().any(|name| spelled(name) || self == Field::Solution && solution_rank(name).is_some())
    }

    /// Whether a value may stand for the field: AQuA's `correct` is a letter, other data sets' a verdict; choices that are texts are
    /// a question's, and a conversation that ends with the user's turn has no answer.
    fn may_be(self, name: &str, value: &Value) -> bool {
        match (self, name) {
            (Field::Answer, "correct") => value.is_string(),
            (Field::Completion, "choices") => {
                value.as_array().is_some_and(|items| items.iter().all(|item| item.is_object()))
            }
            (Field::Completion, "messages" | "conversations") => values::ends_with_assistant(value),
            _ => !value.is_null(),
        }
    }

    /// Whether a value says something. Null and blank text say nothing, and nor does an answer that says there is none.
    fn is_said(self, value: &Value) -> bool {
        match value {
            Value::Null => false,
            Value::String(text) => {
                !text.trim().is_empty() && (self != Field::Answer || answers::no_answer(text).is_none())
            }
            Value::Array(items) => items.iter().any(|item| self.is_said(item)),
            _ => true,
        }
    }
}

/// The last word of names that expert texts go by where no spelling is there, best first: `r1_solution_1`,
/// `generated_solution`, `deepseek_attempt`, `cot`.
const SOLUTION_WORDS: [&str; 19] = [
    "solution",
    "solutions",
    "attempt",
    "response",
    "responses",
    "generation",
    "generations",
    "completion",
    "output",
    "explanation",
    "rationale",
    "analysis",
    "derivation",
    "reasoning",
    "cot",
    "thought",
    "thoughts",
    "thinking",
    "trajectory",
];

/// Words in names of texts that are no expert's.
const NO_EXPERT_WORDS: [&str; 10] =
    ["rejected", "wrong", "incorrect", "negative", "bad", "student", "user", "original", "is", "has"];

/// How good a name is for an expert's solution, from 0; `None` for other names.
fn solution_rank(name: &str) -> Option<usize> {
    let name = name.to_ascii_lowercase();
    let says_something = |word: &&str| word.parse::<u32>().is_err() && !matches!(*word, "text" | "content");
    let words: Vec<&str> = name.split(['_', '-', ' ']).filter(says_something).collect();
    if words.iter().any(|word| NO_EXPERT_WORDS.contains(word)) {
        return None;
    }
    SOLUTION_WORDS.iter().position(|word| words.last() == Some(word))
}

/// A field of a row: its name there, that of the outer one where the value lies in an object, and the value.
pub type Found<'r> = (&'r str, &'r Value);

/// The value of a field: under the name given, else under the first spelling that says something. Where none does, what is
/// there all the same.
pub fn find<'r>(row: &'r Map<String, Value>, field: Field, named: Option<&str>) -> Option<Found<'r>> {
    let mut first = None;
    for found in found(row, field, named) {
        if field.is_said(found.1) {
            return Some(found);
        }
        first.get_or_insert(found);
    }
    first
}

/// Texts that may be the expert's solution, the likeliest first. The flag says that the name alone speaks for it.
pub fn solutions<'r>(row: &'r Map<String, Value>, named: Option<&str>) -> Vec<(Found<'r>, bool)> {
    let spelled = found(row, Field::Solution, named).map(|found| (found, true));
    let mut ranked: Vec<(usize, Found)> = Vec::new();
    if named.is_none() {
        let texts = row.iter().filter(|(_, value)| value.is_string() || value.is_array());
        ranked.extend(texts.filter_map(|(name, value)| Some((solution_rank(name)?, (name.as_str(), value)))));
        ranked.sort_by_key(|(rank, _)| *rank);
    }
    let guessed = ranked.into_iter().map(|(_, found)| (found, false));
    spelled.chain(guessed).filter(|((_, value), _)| Field::Solution.is_said(value)).collect()
}

/// Everything that is not null under the field's names: as they are spelled, then in other case.
fn found<'r>(row: &'r Map<String, Value>, field: Field, named: Option<&str>) -> impl Iterator<Item = Found<'r>> {
    let spellings = if named.is_some() { &[] } else { field.spellings() };
    let other_case = move |spelling: &&str| {
        let mut names = row.iter().filter(|(name, _)| !spellings.contains(&name.as_str()));
        names.find(|(name, _)| name.eq_ignore_ascii_case(spelling)).map(|(name, value)| (name.as_str(), value))
    };
    let spelled = spellings.iter().filter_map(move |spelling| lookup(row, spelling));
    let guessed = spelled.chain(spellings.iter().filter_map(other_case));
    let guessed = guessed.filter(move |(name, value)| field.may_be(name, value));
    named.and_then(|path| lookup(row, path)).filter(|(_, value)| !value.is_null()).into_iter().chain(guessed)
}

/// `a.b` is field `b` of the object in field `a`, unless a field of that very name exists.
fn lookup<'r>(row: &'r Map<String, Value>, path: &str) -> Option<Found<'r>> {
    if let Some((name, value)) = row.get_key_value(path) {
        return Some((name, value));
    }
    let (first, rest) = path.split_once('.')?;
    let (name, value) = row.get_key_value(first)?;
    Some((name, lookup(value.as_object()?, rest)?.1))
}

/// Adds the names of a row's fields, and `a.b` for the fields of an object in it.
pub fn collect_names(row: &Map<String, Value>, names: &mut BTreeSet<String>) {
    fn walk(row: &Map<String, Value>, prefix: &str, depth: u32, names: &mut BTreeSet<String>) {
        for (name, value) in row {
            let name = format!("{prefix}{name}");
            if let Some(inner) = value.as_object().filter(|_| depth < 4) {
                walk(inner, &format!("{name}."), depth + 1, names);
            }
            names.insert(name);
        }
    }
    walk(row, "", 0, names);
}

/// The known name most like `name`, if any is.
pub fn nearest<'c>(name: &str, columns: &'c BTreeSet<String>) -> Option<&'c String> {
    let likeness = |column: &String| strsim::jaro_winkler(name, column);
    columns.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b))).filter(|best| likeness(best) > 0.8)
}

/// `a`, `b` and so on, at most twelve.
pub fn quoted<'c>(names: impl Iterator<Item = &'c String>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    let more = if names.len() > 12 { ", ..." } else { "" };
    names.iter().take(12).map(String::as_str).collect::<Vec<_>>().join(", ") + more
}
