//! A text cut into tokens, with a log-prob for each under some policies, small enough for thousands of them in one page.

use serde::Serialize;

/// 64 characters that need no escape in JSON or HTML; the position of one is its value.
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const TOP: usize = DIGITS.len() - 1;
/// Steps per unit of the square root of -log p: fine near p = 1, coarse where p is tiny anyway. The last step is p < 2e-7.
const STEPS: f32 = 16.0;

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Tokens {
    /// The text.
    pub t: String,
    /// Length of each token in UTF-16 units, one digit each; 63 says that another digit follows. Empty if not known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub n: String,
    /// Quantised log-probs under each policy, one digit per token; empty where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub p: Vec<String>,
}

impl Tokens {
    /// A text whose tokens are not known.
    pub fn text(text: &str) -> Tokens {
        Tokens { t: text.to_string(), ..Tokens::default() }
    }

    pub fn new(pieces: &[String], logprobs: Vec<String>) -> Tokens {
        let mut lengths = String::new();
        for piece in pieces {
            let mut left = piece.encode_utf16().count();
            while left >= TOP {
                lengths.push(char::from(DIGITS[TOP]));
                left -= TOP;
            }
            lengths.push(char::from(DIGITS[left]));
        }
        Tokens { t: pieces.concat(), n: lengths, p: logprobs }
    }

    /// Bytes it takes in the page, roughly.
    pub fn size(&self) -> usize {
        self.t.len() + self.n.len() + self.p.iter().map(String::len).sum::<usize>() + 24
    }
}

/// One digit per log-prob.
pub fn quantise(logprobs: &[f32]) -> String {
    let digit = |lp: &f32| DIGITS[(((-lp).max(0.0).sqrt() * STEPS).round() as usize).min(TOP)];
    logprobs.iter().map(|lp| char::from(digit(lp))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_count_utf16_units_and_may_be_long() {
        let pieces = ["ab".to_string(), "😀".to_string(), "x".repeat(130), String::new()];
        let tokens = Tokens::new(&pieces, Vec::new());
        assert_eq!(tokens.n, "CC__EA");
        assert_eq!(tokens.t, pieces.concat());
    }

    #[test]
    fn logprobs_keep_two_digits_of_probability() {
        assert_eq!(quantise(&[0.0, -0.0001, -1.0, -4.0, -100.0]), "AAQg_");
        for lp in [-0.01f32, -0.1, -0.5, -2.3, -6.0] {
            let digit = quantise(&[lp]).as_bytes()[0];
            let value = DIGITS.iter().position(|d| *d == digit).unwrap() as f32 / STEPS;
            assert!((-(value * value) - lp).abs() < 0.03 + 0.07 * lp.abs(), "{lp} becomes {}", -(value * value));
        }
    }
}
