//! The pre-training corpus of the base policy: noisy worked solutions, guided rewrites, and arithmetic drill.
//!
//! A document is a list of text segments, each marked as trained or not. Segment borders fall on token borders: a piece
//! of the tokenizer owns the space before it. So tokenising segment by segment gives the document.

use super::problem::{Kind, Op, Problem};
use super::solution::{self, ExpertStyle, PolicyStyle};
use super::tables::write_parquet;
use arrow::datatypes::{DataType, Field, FieldRef};
use mindgap_base::rng::{Cursor, Stream};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::sync::Arc;

/// Share of documents that are drill.
const DRILL: f64 = 0.30;
/// Share of problem documents whose problem has an unknown number in it.
const FACTS: f64 = 0.25;
/// Share of guided documents: of the facts family, and of the others (algebra has none).
const GUIDED_FACTS: f64 = 0.50;
const GUIDED: f64 = 0.30;
/// Share of documents answered in the expert's style, before the scaling of `document`.
const EXPERT: f64 = 0.005;
/// The policy is careless, which gives fine-tuning something to mend.
const DIRECT_STYLE: PolicyStyle = PolicyStyle { noise: 0.10, hasty: 0.35 };
/// With a reference in sight it is less so.
const GUIDED_STYLE: PolicyStyle = PolicyStyle { noise: 0.01, hasty: 0.21 };
const REFERENCE_STYLE: ExpertStyle = ExpertStyle { leap: 0.5, merge: 0.5, noise: 0.0 };
const EXPERT_STYLE: ExpertStyle = ExpertStyle { leap: 0.5, merge: 0.5, noise: 0.10 };
const DRILL_EQUATIONS: usize = 10;

/// Number of operations, with its probability.
const STEPS: [(usize, f64); 6] = [(1, 0.12), (2, 0.22), (3, 0.26), (4, 0.20), (5, 0.12), (6, 0.08)];
const LARGE_STEPS: [(usize, f64); 3] = [(1, 0.4), (2, 0.4), (3, 0.2)];

/// A piece of a document; `label` is true where its tokens are training targets.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Segment {
    pub text: String,
    pub label: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Document {
    pub segments: Vec<Segment>,
    /// `drill`, `plain`, `guided` or `expert`: what kind of document it is.
    pub source: String,
}

/// Document `index` of the corpus of `seed`. Documents that quote a question of `excluded` are drawn again.
pub fn document(seed: u64, index: u64, excluded: &HashSet<String>) -> Document {
    let mut rng = Stream::at(seed, &[b"world v2", b"corpus", &index.to_le_bytes()]).cursor();
    if rng.uniform() < DRILL {
        return drill(&mut rng);
    }
    loop {
        let (kind, problem) = problem(&mut rng);
        let v = rng.uniform();
        if excluded.contains(&problem.question) {
            continue;
        }
        let guided = match kind {
            Kind::Algebra => 0.0,
            Kind::Facts => GUIDED_FACTS,
            _ => GUIDED,
        };
        // The expert's share scales with the guided one: both were one draw, stretched, in the world's first form.
        let expert = EXPERT * guided / GUIDED;
        return match v {
            v if v < guided => guided_document(&mut rng, &problem),
            v if v < guided + expert => {
                answered(&problem, solution::expert(&mut rng, &problem, EXPERT_STYLE), "expert")
            }
            _ => answered(&problem, solution::policy(&mut rng, &problem, DIRECT_STYLE), "plain"),
        };
    }
}

/// 62 % main, 14 % reword, 14 % large, 10 % algebra; then a quarter of them is made facts.
fn problem(rng: &mut Cursor) -> (Kind, Problem) {
    let drawn = match rng.uniform() {
        u if u < 0.62 => Kind::Main,
        u if u < 0.76 => Kind::Reword,
        u if u < 0.90 => Kind::Large,
        _ => Kind::Algebra,
    };
    let kind = if rng.uniform() < FACTS { Kind::Facts } else { drawn };
    let steps = weighted(rng, if kind == Kind::Large { &LARGE_STEPS } else { &STEPS });
    // What "a dozen" stands for differs from document to document: the policy cannot learn it, only look it up.
    let dozen = rng.between(5, 30);
    (kind, Problem::draw(rng, kind, steps, dozen))
}

fn weighted(rng: &mut Cursor, items: &[(usize, f64)]) -> usize {
    let mut u = rng.uniform() * items.iter().map(|(_, weight)| weight).sum::<f64>();
    let found = items.iter().find(|(_, weight)| {
        u -= weight;
        u < 0.0
    });
    found.unwrap_or(&items[items.len() - 1]).0
}

fn segment(text: String, label: bool) -> Segment {
    Segment { text, label }
}

fn answered(problem: &Problem, solution: String, source: &str) -> Document {
    let segments = vec![
        segment(format!("<|user|>{}<|assistant|>", problem.question), false),
        segment(format!("{solution}<|end|>"), true),
    ];
    Document { segments, source: source.to_string() }
}

/// The reference is trained on, as that is how the policy comes to read the expert's style. The sentence after it is
/// not: a policy that learns to write it may begin a second solution after its first.
fn guided_document(rng: &mut Cursor, problem: &Problem) -> Document {
    let reference = solution::expert(rng, problem, REFERENCE_STYLE);
    let rewritten = solution::policy(rng, problem, GUIDED_STYLE);
    let segments = vec![
        segment(format!("<|user|>{}", problem.question), false),
        segment(format!("\nReference solution: {reference}"), true),
        segment("\nRewrite this in your own words.<|assistant|>".to_string(), false),
        segment(format!("{rewritten}<|end|>"), true),
    ];
    Document { segments, source: "guided".to_string() }
}

/// Ten right equations. Only the results are trained, with the stop that ends them.
fn drill(rng: &mut Cursor) -> Document {
    let mut segments = Vec::with_capacity(2 * DRILL_EQUATIONS);
    for i in 0..DRILL_EQUATIONS {
        let (left, result) = equation(rng);
        let space = if i == 0 { "" } else { " " };
        segments.push(segment(format!("{space}{left} ="), false));
        segments.push(segment(format!(" {result}."), true));
    }
    Document { segments, source: "drill".to_string() }
}

/// 62 % two-digit sums and differences, 8 % doubles and triples, 8 % divisions, 10 % three-digit ones, 12 % two operations.
fn equation(rng: &mut Cursor) -> (String, i64) {
    let sign = |rng: &mut Cursor, n: i64| if rng.below(2) == 0 { Op::Add(n) } else { Op::Sub(n) };
    let until = |rng: &mut Cursor, draw: &dyn Fn(&mut Cursor) -> Option<(String, i64)>| loop {
        if let Some(drawn) = draw(rng) {
            return drawn;
        }
    };
    match rng.uniform() {
        u if u < 0.62 => {
            let plus = rng.below(2) == 0;
            until(rng, &|rng| {
                let (a, b) = (rng.between(1, 99), rng.between(2, 40));
                let op = if plus { Op::Add(b) } else { Op::Sub(b) };
                let result = op.apply(a);
                (0..=99).contains(&result).then(|| (format!("{a}{}", op.written()), result))
            })
        }
        u if u < 0.70 => {
            let (a, b) = (rng.between(1, 49), rng.between(2, 3));
            (format!("{a} * {b}"), a * b)
        }
        u if u < 0.78 => {
            let (divisor, result) = (rng.between(2, 9), rng.between(2, 9));
            (format!("{} / {divisor}", divisor * result), result)
        }
        u if u < 0.88 => {
            let a = rng.between(100, 800);
            let n = rng.between(10, 99);
            let op = sign(rng, n);
            (format!("{a}{}", op.written()), op.apply(a))
        }
        _ => until(rng, &|rng| {
            let (a, b, c) = (rng.between(1, 99), rng.between(2, 40), rng.between(2, 40));
            let (first, second) = (sign(rng, b), sign(rng, c));
            let middle = first.apply(a);
            let result = second.apply(middle);
            (middle >= 0 && (0..=99).contains(&result))
                .then(|| (format!("{a}{}{}", first.written(), second.written()), result))
        }),
    }
}

/// The corpus as Parquet bytes: `segments` list<struct<text utf8, label bool>>, `source` utf8.
pub fn parquet(documents: &[Document]) -> Vec<u8> {
    let text = Field::new("text", DataType::Utf8, false);
    let label = Field::new("label", DataType::Boolean, false);
    let item = Field::new("item", DataType::Struct(vec![text, label].into()), false);
    let segments = Arc::new(Field::new("segments", DataType::List(Arc::new(item)), false));
    let fields: Vec<FieldRef> = vec![segments, Arc::new(Field::new("source", DataType::Utf8, false))];
    let to_batch = |chunk: &[Document]| serde_arrow::to_record_batch(&fields, &chunk).expect("fields as above");
    let batches: Vec<_> = documents.chunks(16_384).map(to_batch).collect();
    write_parquet(&batches)
}
