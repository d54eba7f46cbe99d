//! Which questions are also a benchmark's: by the whole question, or by a run of words that both have.
//!
//! Held are the benchmarks' words: some 50 bytes for each, whatever is compared with them.

use super::words;
use mindgap_store::table::problems::DETAIL;
use std::collections::HashMap;
use std::ops::Range;

/// Bumped whenever the same questions would be refused otherwise.
pub const VERSION: u32 = 1;

/// Runs of words that stand in more of the benchmarks' questions than this are stock phrases and say nothing.
const COMMON: u32 = 10;
/// A word that no benchmark has.
const UNKNOWN: u32 = u32::MAX;

/// The questions of benchmarks.
pub struct Benchmarks {
    /// Words in a run.
    ngram: usize,
    /// Numbers of the words.
    numbers: HashMap<String, u32>,
    /// The questions as numbers, one after the other.
    words: Vec<u32>,
    questions: Vec<Question>,
    /// Whole questions.
    wholes: HashMap<Box<[u32]>, u32>,
    /// Runs by their hash; one whose place is taken by another run of the same hash stands at the next free one.
    runs: HashMap<u64, Run>,
}

struct Question {
    benchmark: String,
    problem_id: String,
}

/// A run of words.
struct Run {
    /// Where it begins among all words.
    at: u32,
    /// The first question that has it, and the last one met.
    question: u32,
    latest: u32,
    /// Questions that have it.
    count: u32,
}

impl Benchmarks {
    pub fn new(ngram: u32) -> Benchmarks {
        Benchmarks {
            ngram: ngram as usize,
            numbers: HashMap::new(),
            words: Vec::new(),
            questions: Vec::new(),
            wholes: HashMap::new(),
            runs: HashMap::new(),
        }
    }

    /// Takes in a question. One that is there already adds nothing.
    pub fn add(&mut self, benchmark: &str, problem_id: &str, question: &str) {
        let begin = self.words.len();
        let Benchmarks { numbers, words, .. } = self;
        words::each(question, &mut |word| {
            let next = numbers.len() as u32;
            let number = numbers.get(word).copied();
            words.push(number.unwrap_or_else(|| *numbers.entry(word.to_string()).or_insert(next)));
        });
        let own = begin..self.words.len();
        if own.is_empty() || self.wholes.contains_key(&self.words[own.clone()]) {
            self.words.truncate(begin);
            return;
        }
        let number = self.questions.len() as u32;
        self.wholes.insert(self.words[own.clone()].into(), number);
        self.questions.push(Question { benchmark: benchmark.to_string(), problem_id: problem_id.to_string() });
        let runs: Vec<(usize, u64)> = runs(&self.words[own], self.ngram).collect();
        for (place, hash) in runs {
            self.add_run(begin + place, hash, number);
        }
    }

    fn add_run(&mut self, at: usize, hash: u64, question: u32) {
        let mut place = hash;
        while let Some(known) = self.runs.get(&place) {
            if self.run_at(known) == &self.words[at..at + self.ngram] {
                break;
            }
            place = place.wrapping_add(1);
        }
        let new = Run { at: at as u32, question, latest: question, count: 1 };
        let run = self.runs.entry(place).or_insert(new);
        if run.latest != question {
            (run.latest, run.count) = (question, run.count + 1);
        }
    }

    fn run_at(&self, run: &Run) -> &[u32] {
        &self.words[run.at as usize..run.at as usize + self.ngram]
    }

    /// Why a question must not be trained on, if it must not. Of several reasons the whole question comes first, then the first
    /// run of words.
    pub fn reason(&self, question: &str) -> Option<String> {
        let mut own = Vec::new();
        words::each(question, &mut |word| own.push(self.numbers.get(word).copied().unwrap_or(UNKNOWN)));
        if let Some(number) = self.wholes.get(own.as_slice()) {
            let Question { benchmark, problem_id } = &self.questions[*number as usize];
            return Some(format!("is a question of benchmark `{benchmark}`{DETAIL}`{problem_id}`, exact"));
        }
        let (run, shared) = self.shared_run(&own)?;
        let Question { benchmark, problem_id } = &self.questions[run.question as usize];
        let shared = words::of(question)[shared].join(" ");
        let ngram = self.ngram;
        Some(format!("shares {ngram} words with benchmark `{benchmark}`{DETAIL}`{problem_id}`, `{shared}`"))
    }

    /// The first run that a benchmark has too, and where it stands.
    fn shared_run(&self, own: &[u32]) -> Option<(&Run, Range<usize>)> {
        runs(own, self.ngram).find_map(|(start, hash)| {
            let range = start..start + self.ngram;
            let mut place = hash;
            loop {
                let run = self.runs.get(&place)?;
                if self.run_at(run) == &own[range.clone()] {
                    return (run.count <= COMMON).then_some((run, range));
                }
                place = place.wrapping_add(1);
            }
        })
    }
}

/// Every run of `length` known words: where it begins, and its hash, from the one of the run before it.
fn runs(words: &[u32], length: usize) -> impl Iterator<Item = (usize, u64)> {
    const BASE: u64 = 0x9e37_79b9_7f4a_7c15;
    let leaving = (1..length).fold(1u64, |power, _| power.wrapping_mul(BASE));
    let (mut hash, mut known) = (0u64, 0);
    words.iter().enumerate().filter_map(move |(end, word)| {
        if *word == UNKNOWN {
            (hash, known) = (0, 0);
            return None;
        }
        if known == length {
            hash = hash.wrapping_sub(mixed(words[end - length]).wrapping_mul(leaving));
        } else {
            known += 1;
        }
        hash = hash.wrapping_mul(BASE).wrapping_add(mixed(*word));
        (known == length).then(|| (end + 1 - length, hash))
    })
}

fn mixed(word: u32) -> u64 {
    words::mix(u64::from(word) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mindgap_base::rng::Stream;

    fn benchmarks(ngram: u32, questions: &[&str]) -> Benchmarks {
        let mut benchmarks = Benchmarks::new(ngram);
        questions.iter().enumerate().for_each(|(i, question)| benchmarks.add("b", &format!("{i}"), question));
        benchmarks
    }

    #[test]
    fn whole_questions_and_runs_of_words() {
        let known = benchmarks(4, &["Ann has two red apples, and Bob has none.", "What is 2 + 3?"]);
        let reason = |question: &str| known.reason(question);
        assert_eq!(reason("what is $2+3$").unwrap(), "is a question of benchmark `b`: problem `1`, exact");
        assert_eq!(reason("what is 2 - 3"), None, "no run of four, and another sign");
        assert_eq!(
            reason("If ann HAS two, red ones and more").unwrap(),
            "shares 4 words with benchmark `b`: problem `0`, `ann has two red`"
        );
        assert_eq!(
            reason("ann has two green apples and bob has"),
            Some("shares 4 words with benchmark `b`: problem `0`, `apples and bob has`".to_string())
        );
        assert_eq!(reason("ann has two unknown red apples and"), None, "a word between breaks the run");
        assert_eq!(reason(""), None);
        // Shorter than a run: equal as a whole, or not at all.
        let short = benchmarks(13, &["What is 2 + 3?", "?"]);
        assert!(short.reason("What is 2 + 3").is_some());
        assert_eq!(short.reason("What is 2 + 3 and what is 4 + 5"), None);
        assert_eq!(short.reason("!"), None);
    }

    #[test]
    fn the_first_problem_that_has_it_is_named() {
        let known = benchmarks(3, &["a b c d", "x b c d", "a b c d"]);
        assert!(known.reason("z b c d").unwrap().contains("problem `0`, `b c d`"));
        assert!(known.reason("A, B, C, D").unwrap().contains("problem `0`, exact"));
        assert!(known.reason("x b c d").unwrap().contains("problem `1`, exact"));
    }

    #[test]
    fn stock_phrases_say_nothing() {
        let question = |i: u32| format!("choose the right answer number{i} out of these");
        let with = |count: u32| {
            let mut known = Benchmarks::new(4);
            (0..count).for_each(|i| known.add("b", "p", &question(i)));
            // Alike: told of once.
            (0..count).for_each(|i| known.add("b", "p", &question(i)));
            known.reason("Please choose the right answer.")
        };
        assert!(with(COMMON).is_some());
        assert_eq!(with(COMMON + 1), None);
    }

    /// Against comparing every run with every run, over few words, so that much is shared.
    #[test]
    fn finds_what_comparing_everything_finds() {
        let mut cursor = Stream::at(1, &[b"words"]).cursor();
        let mut text = |length: u64| -> String {
            let words: Vec<String> = (0..length).map(|_| format!("w{}", cursor.below(9))).collect();
            words.join(" ")
        };
        let known: Vec<String> = (0..30).map(|_| text(12)).collect();
        let asked: Vec<String> = (0..120).map(|i| text(1 + i % 15)).collect();
        for ngram in [1, 3, 4, 5, 12] {
            let own = benchmarks(ngram, &known.iter().map(String::as_str).collect::<Vec<_>>());
            let runs_of = |text: &str| -> Vec<Vec<String>> {
                words::of(text).windows(ngram as usize).map(<[String]>::to_vec).collect()
            };
            let has = |run: &Vec<String>| known.iter().filter(|question| runs_of(question).contains(run)).count();
            for question in &asked {
                let wanted = known.iter().any(|known| known == question)
                    || runs_of(question).iter().any(|run| (1..=COMMON as usize).contains(&has(run)));
                assert_eq!(own.reason(question).is_some(), wanted, "{ngram} words of `{question}`");
            }
        }
    }

    /// Two runs of one hash are told apart.
    #[test]
    fn a_taken_place_is_passed_by() {
        let mut known = benchmarks(2, &["a b"]);
        known.add("b", "1", "c d");
        let hash = runs(&known.words[2..], 2).next().unwrap().1;
        // As if the first run had the hash of the second.
        let first = Run { at: 0, question: 0, latest: 0, count: 1 };
        known.runs = HashMap::from([(hash, first)]);
        known.add_run(2, hash, 1);
        assert_eq!(known.runs.len(), 2);
        assert!(known.reason("x c d").unwrap().contains("problem `1`, `c d`"));
    }
}
