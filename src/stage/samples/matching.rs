//! Which problem a row is about: by our id, by its question, or by the id its source gives it.

use crate::stage::reader::{Answered, CompletionFields};
use crate::stage::template::{PLAIN, Template};
use mindgap_base::error::{Error, Result};
use mindgap_lm::model::policy::Policy;
use mindgap_store::Table;
use mindgap_store::table::imports::MatchedBy;
use mindgap_store::table::problems::Problem;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// What rows may name a problem by. Of a problem two hashes are held, and no text.
pub struct Known {
    /// Sorted by key.
    entries: Vec<Entry>,
    /// Ids of all problems, sorted.
    ids: Vec<u64>,
    /// Names of sources, in the order met.
    sources: BTreeMap<String, u32>,
    frames: Vec<Frame>,
}

/// A question or an id of a source's, and whose it is.
#[derive(Clone, Copy)]
struct Entry {
    key: [u8; 16],
    problem: u64,
    source: u32,
}

/// What stands around a question where it is shown: white space made single.
pub struct Frame {
    before: String,
    behind: String,
}

/// What was found of a row.
#[derive(Debug, PartialEq)]
pub struct Matched {
    pub problem: u64,
    pub by: MatchedBy,
    /// What the row says was asked, where no problem asks just this: the problem's question must be part of it.
    pub doubt: Option<String>,
}

/// What a key is one of.
#[derive(Debug, PartialEq)]
enum Hits {
    None,
    One(u64),
    Several(Vec<u64>),
}

impl Known {
    pub fn read(problems: &Table<Problem>, frames: Vec<Frame>) -> Result<Known> {
        #[derive(Deserialize)]
        struct Columns {
            problem_id: String,
            source: String,
            question: String,
            meta: Option<String>,
        }
        let mut known = Known { entries: Vec::new(), ids: Vec::new(), sources: BTreeMap::new(), frames };
        for part in problems.parts() {
            let rows: Vec<Columns> = problems.part(part).select(&["problem_id", "source", "question", "meta"])?;
            for row in rows {
                known.add(number(&row.problem_id)?, row.source, &row.question, row.meta.as_deref());
            }
        }
        Ok(known.sorted())
    }

    fn add(&mut self, problem: u64, source: String, question: &str, meta: Option<&str>) {
        #[derive(Deserialize)]
        struct Meta {
            id: Option<Value>,
        }
        let count = self.sources.len() as u32;
        let source = *self.sources.entry(source).or_insert(count);
        let id = meta.and_then(|meta| serde_json::from_str::<Meta>(meta).ok()).and_then(|meta| meta.id);
        let id = id.and_then(|id| match id {
            Value::String(text) => Some(text.trim().to_string()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        });
        self.ids.push(problem);
        self.entries.push(Entry { key: hash(QUESTION, &normal(question)), problem, source });
        self.entries.extend(id.map(|id| Entry { key: hash(ID, &id), problem, source }));
    }

    fn sorted(mut self) -> Known {
        self.entries.sort_unstable_by_key(|entry| (entry.key, entry.problem));
        self.ids.sort_unstable();
        self
    }

    /// The problem a row is about, or why there is none. With a source, only its problems are looked at.
    ///
    /// Our own id decides where it is that of a problem. Else the question does: an id may be a row's number. What `named` names, and
    /// nothing else, is believed without the other.
    pub fn find(&self, row: &Answered, source: Option<&str>, named: &CompletionFields) -> Result<Matched, String> {
        let source = source.map(|source| self.sources.get(source).copied().unwrap_or(u32::MAX));
        let key = row.key.as_ref().filter(|_| named.id.is_some() || named.question.is_none());
        let asked = row.question.as_ref().filter(|_| named.question.is_some() || named.id.is_none());
        if let Some(problem) = key.and_then(|key| self.own(key)) {
            return Ok(Matched { problem, by: MatchedBy::ProblemId, doubt: None });
        }
        let asked = asked.map(|text| normal(text));
        let by_key = key.map_or(Hits::None, |key| self.hits(hash(ID, key), source));
        let by_question = asked.as_ref().map_or(Hits::None, |asked| self.asked(asked, source));
        match (by_question, by_key) {
            (Hits::One(a), Hits::One(b)) if a != b && named.id.is_some() => {
                Err("its id is that of one problem, its question that of another".to_string())
            }
            (Hits::One(problem), _) => Ok(Matched { problem, by: MatchedBy::Question, doubt: None }),
            (Hits::Several(several), Hits::One(problem)) if several.contains(&problem) => {
                Ok(Matched { problem, by: MatchedBy::Id, doubt: None })
            }
            (Hits::Several(several), _) => Err(format!("ambiguous: {} problems ask this question", several.len())),
            (Hits::None, Hits::One(problem)) => Ok(Matched { problem, by: MatchedBy::Id, doubt: asked }),
            (Hits::None, Hits::Several(several)) => {
                Err(format!("ambiguous: its id is that of {} problems", several.len()))
            }
            (Hits::None, Hits::None) => Err(match (asked.is_some(), key.is_some()) {
                (true, true) => "no problem asks this question or has this id".to_string(),
                (true, false) => "no problem asks this question".to_string(),
                (false, true) => "no problem has this id".to_string(),
                (false, false) => "it has neither of the named `question` and `id`".to_string(),
            }),
        }
    }

    /// The problem with this id of ours.
    fn own(&self, key: &str) -> Option<u64> {
        let id = number(key).ok()?;
        self.ids.binary_search(&id).ok().map(|_| id)
    }

    /// The problems that ask this, in what frame it may stand.
    fn asked(&self, asked: &str, source: Option<u32>) -> Hits {
        let inside = self.frames.iter().filter_map(|frame| frame.inside(asked));
        let hits = std::iter::once(asked).chain(inside).map(|asked| self.hits(hash(QUESTION, asked), source));
        hits.into_iter().find(|hits| *hits != Hits::None).unwrap_or(Hits::None)
    }

    fn hits(&self, key: [u8; 16], source: Option<u32>) -> Hits {
        let from = self.entries.partition_point(|entry| entry.key < key);
        let equal = self.entries[from..].iter().take_while(|entry| entry.key == key);
        let mut problems = equal.filter(|entry| source.is_none_or(|source| entry.source == source)).map(|e| e.problem);
        match (problems.next(), problems.next()) {
            (None, _) => Hits::None,
            (Some(one), None) => Hits::One(one),
            (Some(one), Some(two)) => Hits::Several([one, two].into_iter().chain(problems).collect()),
        }
    }
}

impl Frame {
    fn inside<'t>(&self, text: &'t str) -> Option<&'t str> {
        Some(text.strip_prefix(self.before.as_str())?.strip_suffix(self.behind.as_str())?.trim())
    }
}

/// How questions are shown: by the template, and by the policy's chat template around that or around the question alone. A prompt
/// that depends on more of a problem than its question is left out.
pub fn frames(policy: &Policy, template: &Template) -> Vec<Frame> {
    const MARK: &str = "\u{fdd2}question\u{fdd2}";
    let asked = Problem {
        problem_id: String::new(),
        source: String::new(),
        question: MARK.to_string(),
        solution: None,
        answer: String::new(),
        meta: None,
    };
    let plain = Template::new(PLAIN).ok();
    let mut texts = Vec::new();
    for shown in [Some(template), plain.as_ref()].into_iter().flatten().filter_map(|shown| shown.render(&asked).ok()) {
        texts.push(shown.question().to_string());
        texts.extend(policy.prompt(&shown).ok().map(|prompt| prompt.text()));
    }
    let frame = |text: &String| {
        let (before, behind) = text.split_once(MARK)?;
        let frame = Frame { before: normal(before), behind: normal(behind) };
        (!behind.contains(MARK) && (frame.before.len() + frame.behind.len()) > 0).then_some(frame)
    };
    texts.iter().filter_map(frame).collect()
}

const QUESTION: u8 = b'q';
const ID: u8 = b'i';

fn hash(kind: u8, text: &str) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[kind]);
    hasher.update(text.as_bytes());
    hasher.finalize().as_bytes()[..16].try_into().expect("a hash has 32 bytes")
}

/// A text with single spaces between its words.
pub fn normal(text: &str) -> String {
    let mut normal = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !normal.is_empty() {
            normal.push(' ');
        }
        normal.push_str(word);
    }
    normal
}

/// A problem's id as a number.
pub fn number(problem_id: &str) -> Result<u64> {
    let number = (problem_id.len() == 16).then(|| u64::from_str_radix(problem_id, 16).ok()).flatten();
    number.ok_or_else(|| Error::input(format!("`{problem_id}` is no id of a problem")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{PolicyHandle, load_speaker};
    use mindgap_lm::model::policy::PolicyFiles;
    use std::path::Path;

    fn known() -> Known {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/base-policy");
        let policy = load_speaker(&PolicyHandle::of_folder("base", &folder, PolicyFiles::wants).unwrap()).unwrap();
        let template = Template::new("Solve it.\n{{ question }}\nBox it.").unwrap();
        let mut known = Known {
            entries: Vec::new(),
            ids: Vec::new(),
            sources: BTreeMap::new(),
            frames: frames(&policy, &template),
        };
        let problems = [
            (1, "a", "How  many\neggs?", Some(r#"{"id":7,"level":1}"#)),
            (2, "a", "How many hens?", Some(r#"{"id":"x"}"#)),
            (3, "b", "How many hens?", Some(r#"{"id":8}"#)),
            (4, "b", "How many cows?", Some(r#"{"id":7}"#)),
            (5, "b", "How many pigs?", None),
        ];
        for (problem, source, question, meta) in problems {
            known.add(problem, source.to_string(), question, meta);
        }
        known.sorted()
    }

    fn find_with(
        key: &str,
        question: &str,
        source: Option<&str>,
        named: [bool; 2],
    ) -> Result<(u64, MatchedBy), String> {
        let some = |text: &str| Some(text.to_string()).filter(|text| !text.is_empty());
        let row = Answered { key: some(key), question: some(question), completions: Vec::new() };
        let name = |named: bool| named.then(|| "field".to_string());
        let named = CompletionFields { id: name(named[0]), question: name(named[1]), ..CompletionFields::default() };
        known().find(&row, source, &named).map(|found| (found.problem, found.by))
    }

    fn find(key: &str, question: &str) -> Result<(u64, MatchedBy), String> {
        find_with(key, question, None, [false, false])
    }

    #[test]
    fn by_question_however_it_is_shown() {
        use MatchedBy::Question;
        for asked in [
            "How many eggs?",
            " How many eggs? \n",
            "Solve it.\n\nHow many eggs? Box it.",
            "<|user|>How many eggs?<|assistant|>",
            "<|user|>Solve it.\nHow many eggs?\nBox it.<|assistant|>",
        ] {
            assert_eq!(find("", asked), Ok((1, Question)), "{asked}");
        }
        assert_eq!(find("", "how many eggs?"), Err("no problem asks this question".into()));
        assert_eq!(find("", "How many hens?"), Err("ambiguous: 2 problems ask this question".into()));
    }

    #[test]
    fn by_id() {
        use MatchedBy::{Id, ProblemId};
        assert_eq!(find("x", ""), Ok((2, Id)));
        assert_eq!(find("0000000000000005", ""), Ok((5, ProblemId)));
        assert_eq!(find("5", ""), Err("no problem has this id".into()), "ours has 16 digits");
        assert_eq!(find("7", ""), Err("ambiguous: its id is that of 2 problems".into()));
        assert_eq!(find_with("7", "", Some("b"), [false, false]), Ok((4, Id)));
        assert_eq!(find_with("7", "", Some("c"), [false, false]), Err("no problem has this id".into()));
    }

    #[test]
    fn the_question_wins_over_a_guessed_id() {
        use MatchedBy::{Id, ProblemId, Question};
        assert_eq!(find("8", "How many eggs?"), Ok((1, Question)));
        assert_eq!(find("8", "How many hens?"), Ok((3, Id)), "one of two that ask it");
        assert_eq!(find("7", "How many hens?"), Err("ambiguous: 2 problems ask this question".into()));
        assert_eq!(find("0000000000000005", "How many eggs?"), Ok((5, ProblemId)));
        let conflict = "its id is that of one problem, its question that of another";
        assert_eq!(find_with("8", "How many eggs?", None, [true, true]), Err(conflict.into()));
        assert_eq!(find_with("8", "How many eggs?", None, [true, false]), Ok((3, Id)), "only the id is named");
        assert_eq!(find_with("8", "How many eggs?", None, [false, true]), Ok((1, Question)));
    }

    #[test]
    fn an_id_alone_is_doubted_where_the_row_asks_something() {
        let row = |question: &str| Answered {
            key: Some("x".into()),
            question: Some(question.into()),
            completions: Vec::new(),
        };
        let found =
            known().find(&row("Be brief. How many\nhens? Thanks."), None, &CompletionFields::default()).unwrap();
        let doubt = Some("Be brief. How many hens? Thanks.".to_string());
        assert_eq!(found, Matched { problem: 2, by: MatchedBy::Id, doubt });
        let named = CompletionFields { id: Some("id".into()), ..CompletionFields::default() };
        assert_eq!(known().find(&row("anything"), None, &named).unwrap().doubt, None);
    }
}
