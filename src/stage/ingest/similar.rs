//! Which questions are nearly one that was met before: MinHash signatures (Broder 1997) find candidates, and of those the
//! Jaccard index of their shingles decides.
//!
//! Held are the shingles and signature of every question that was kept: some 0.5 kB for one of 60 words.

use super::words;
use mindgap_store::table::problems::DETAIL;
use std::collections::HashMap;

/// Bumped whenever the same questions would be kept apart otherwise.
pub const VERSION: u32 = 1;

/// Words in a shingle. A question with fewer is one shingle.
const SHINGLE: usize = 5;
/// Parts of a signature: two questions that agree in one are candidates.
const BANDS: usize = 10;
/// Least share of pairs at the threshold itself that become candidates.
const FOUND: f64 = 0.998;
/// Least threshold that [`BANDS`] parts of one number each find.
pub const LEAST: f64 = 0.5;

/// The questions kept so far.
pub struct Kept {
    threshold: f64,
    /// Numbers in a band.
    depth: usize,
    ids: Vec<String>,
    /// Shingles of all questions, sorted within each, and where each question's end.
    shingles: Vec<u32>,
    ends: Vec<usize>,
    /// By band and what the signature says there: the latest question.
    latest: Vec<HashMap<u32, u32>>,
    /// By question and band: the one before it in the same place.
    before: Vec<[u32; BANDS]>,
}

const NONE: u32 = u32::MAX;

impl Kept {
    /// `threshold` is the least Jaccard index of two questions that are nearly one.
    pub fn new(threshold: f64) -> Kept {
        let found = |depth: i32| 1.0 - (1.0 - threshold.powi(depth)).powi(BANDS as i32) >= FOUND;
        let depth = (2..=16).take_while(|depth| found(*depth)).last().unwrap_or(1) as usize;
        Kept {
            threshold,
            depth,
            ids: Vec::new(),
            shingles: Vec::new(),
            ends: Vec::new(),
            latest: vec![HashMap::new(); BANDS],
            before: Vec::new(),
        }
    }

    /// Keeps a question, or says why not: the first kept one that it is nearly.
    pub fn reason(&mut self, problem_id: &str, question: &str) -> Option<String> {
        let own = shingles(question);
        if own.is_empty() {
            return None;
        }
        let places = self.places(&own);
        let mut candidates: Vec<u32> = Vec::new();
        for (band, place) in places.iter().enumerate() {
            let mut next = self.latest[band].get(place).copied().unwrap_or(NONE);
            while next != NONE {
                candidates.push(next);
                next = self.before[next as usize][band];
            }
        }
        candidates.sort_unstable();
        candidates.dedup();
        let near = candidates.into_iter().find_map(|other| {
            let alike = jaccard(&own, self.shingles_of(other as usize), self.threshold)?;
            Some((alike, &self.ids[other as usize]))
        });
        if let Some((alike, other)) = near {
            return Some(format!("near-duplicate{DETAIL}`{other}`, {:.0} % of the shingles alike", 100.0 * alike));
        }
        let number = self.ids.len() as u32;
        self.ids.push(problem_id.to_string());
        self.shingles.extend(own);
        self.ends.push(self.shingles.len());
        let mut before = [NONE; BANDS];
        for ((band, place), before) in places.into_iter().enumerate().zip(&mut before) {
            *before = self.latest[band].insert(place, number).unwrap_or(NONE);
        }
        self.before.push(before);
        None
    }

    fn shingles_of(&self, question: usize) -> &[u32] {
        let begin = question.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.shingles[begin..self.ends[question]]
    }

    /// What the signature says in every band: a hash of the least values that as many functions take over the shingles.
    fn places(&self, shingles: &[u32]) -> [u32; BANDS] {
        std::array::from_fn(|band| {
            let least = |row: usize| {
                let seed = words::mix((band * self.depth + row) as u64 + 1);
                let value = |shingle: &u32| words::mix(u64::from(*shingle) ^ seed);
                shingles.iter().map(value).min().unwrap_or_default()
            };
            (0..self.depth).fold(0, |hash, row| words::mix(hash ^ least(row))) as u32
        })
    }
}

/// Hashes of every run of [`SHINGLE`] words, sorted, none twice.
fn shingles(question: &str) -> Vec<u32> {
    let mut hashes = Vec::new();
    words::each(question, &mut |word| {
        let hash = word
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        hashes.push(words::mix(hash));
    });
    let of_run = |run: &[u64]| run.iter().fold(0, |hash: u64, word| words::mix(hash.rotate_left(1) ^ word)) as u32;
    let mut shingles: Vec<u32> = match hashes.len() {
        0 => Vec::new(),
        count => hashes.windows(SHINGLE.min(count)).map(of_run).collect(),
    };
    shingles.sort_unstable();
    shingles.dedup();
    shingles
}

/// What two sorted sets share of all they hold, if it is `least` or more.
fn jaccard(a: &[u32], b: &[u32], least: f64) -> Option<f64> {
    let (small, large) = if a.len() < b.len() { (a, b) } else { (b, a) };
    if (small.len() as f64) < least * large.len() as f64 {
        return None;
    }
    let (mut i, mut j, mut shared) = (0, 0, 0);
    while i < a.len() && j < b.len() {
        shared += usize::from(a[i] == b[j]);
        let (x, y) = (a[i], b[j]);
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    let alike = shared as f64 / (a.len() + b.len() - shared) as f64;
    (alike >= least).then_some(alike)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mindgap_base::rng::Stream;
    use std::collections::HashSet;

    /// A question of so many words out of a small vocabulary, and copies of it with some words replaced.
    fn questions() -> Vec<String> {
        let mut cursor = Stream::at(3, &[b"questions"]).cursor();
        let mut questions = Vec::new();
        for _ in 0..30 {
            let length = 4 + cursor.below(60) as usize;
            let words: Vec<String> = (0..length).map(|_| format!("w{}", cursor.below(400))).collect();
            for copy in [0, 0, 1, 2, 3, 4] {
                let mut own = words.clone();
                for _ in 0..copy {
                    let at = cursor.below(length as u64) as usize;
                    own[at] = format!("v{}", cursor.below(400));
                }
                questions.push(own.join(" "));
            }
        }
        cursor.shuffle(&mut questions);
        questions
    }

    /// The plain way: every question against every one kept, on the words themselves.
    fn kept_by_hand(questions: &[String], threshold: f64) -> Vec<usize> {
        let sets: Vec<HashSet<Vec<String>>> = questions
            .iter()
            .map(|question| {
                let words = words::of(question);
                words.windows(SHINGLE.min(words.len())).map(<[String]>::to_vec).collect()
            })
            .collect();
        let mut kept: Vec<usize> = Vec::new();
        for (index, own) in sets.iter().enumerate() {
            let is_near = |other: &usize| {
                let shared = own.intersection(&sets[*other]).count() as f64;
                shared / (own.union(&sets[*other]).count() as f64) >= threshold
            };
            if !kept.iter().any(is_near) {
                kept.push(index);
            }
        }
        kept
    }

    #[test]
    fn keeps_what_comparing_everything_keeps() {
        let questions = questions();
        for threshold in [0.5, 0.7, 0.8, 0.9, 1.0] {
            let mut kept = Kept::new(threshold);
            let own: Vec<usize> =
                (0..questions.len()).filter(|i| kept.reason(&format!("{i}"), &questions[*i]).is_none()).collect();
            let by_hand = kept_by_hand(&questions, threshold);
            assert!(by_hand.len() < questions.len() - 20, "there is something to find");
            assert_eq!(own, by_hand, "threshold {threshold}");
        }
    }

    #[test]
    fn names_the_first_that_is_near() {
        let mut kept = Kept::new(0.8);
        let question = "A train leaves at noon and runs at sixty miles an hour; how far is it by six?";
        assert_eq!(kept.reason("a", question), None);
        assert_eq!(kept.reason("b", "How many legs have ten spiders?"), None);
        let reason = kept.reason("c", &question.to_uppercase().replace(';', ",")).unwrap();
        assert_eq!(reason, "near-duplicate: problem `a`, 100 % of the shingles alike");
        // 14 shingles each, 13 of them shared.
        let reason = kept.reason("c", &question.replace("six?", "seven?")).unwrap();
        assert_eq!(reason, "near-duplicate: problem `a`, 87 % of the shingles alike");
        assert_eq!(kept.reason("c", &question.replace("noon", "dawn")), None, "5 shingles have another word");
        assert_eq!(kept.reason("d", "?!"), None);
        assert_eq!(kept.reason("e", "?!"), None);
        assert_eq!(kept.reason("f", "2 + 3"), None);
        assert_eq!(kept.reason("g", "2 + 3").unwrap(), "near-duplicate: problem `f`, 100 % of the shingles alike");
        assert_eq!(kept.reason("h", "2 + 4"), None);
    }

    /// The depth is the largest that still finds nearly all pairs at the threshold.
    #[test]
    fn depth_follows_the_threshold() {
        let depth = |threshold: f64| Kept::new(threshold).depth;
        assert_eq!([LEAST, 0.7, 0.8, 0.9, 1.0].map(depth), [1, 2, 3, 7, 16]);
    }
}
