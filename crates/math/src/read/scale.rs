//! scale: words and suffixes that multiply the number in front of them, and numbers written in words.

use num_bigint::BigInt;
use num_rational::BigRational;

/// Names, and the factor as numerator and denominator. Plurals are found too.
const WORDS: [(&str, i64, i64); 10] = [
    ("dozen", 12, 1),
    ("hundred", 100, 1),
    ("thousand", 1_000, 1),
    ("lakh", 100_000, 1),
    ("lac", 100_000, 1),
    ("million", 1_000_000, 1),
    ("crore", 10_000_000, 1),
    ("billion", 1_000_000_000, 1),
    ("trillion", 1_000_000_000_000, 1),
    ("bp", 1, 10_000),
];

/// Short forms in an upright font or behind an amount of money.
const SUFFIXES: [(&str, i64); 9] = [
    ("k", 1_000),
    ("M", 1_000_000),
    ("mn", 1_000_000),
    ("mln", 1_000_000),
    ("B", 1_000_000_000),
    ("bn", 1_000_000_000),
    ("bln", 1_000_000_000),
    ("tn", 1_000_000_000_000),
    ("trn", 1_000_000_000_000),
];

/// Short forms behind an amount of money only; elsewhere they are units.
const MONEY_SUFFIXES: [(&str, i64); 6] = [
    ("K", 1_000),
    ("m", 1_000_000),
    ("b", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("cr", 10_000_000),
    ("Cr", 10_000_000),
];

/// The factor of a word: `million`, `Billions`, `bps`.
pub fn word(name: &str) -> Option<BigRational> {
    let lower = name.to_ascii_lowercase();
    let singular = lower.strip_suffix('s').unwrap_or(&lower);
    WORDS
        .iter()
        .find(|(known, ..)| *known == singular)
        .map(|(_, over, under)| BigRational::new(BigInt::from(*over), BigInt::from(*under)))
}

/// The factor of a short form: `M`, `bn`; with `money`, also of those that are units elsewhere.
pub fn suffix(name: &str, money: bool) -> Option<BigRational> {
    let more = if money { &MONEY_SUFFIXES[..] } else { &[] };
    let found = SUFFIXES.iter().chain(more).find(|(known, _)| *known == name)?;
    Some(BigRational::from_integer(found.1.into()))
}

/// The word of a factor, for printing.
pub fn named(factor: &BigRational) -> Option<&'static str> {
    WORDS
        .iter()
        .find(|(_, over, under)| *factor.numer() == (*over).into() && *factor.denom() == (*under).into())
        .map(|found| found.0)
}

/// The value of a cardinal number in words: `five hundred`, `twenty-four million`, `two thousand and six`.
pub fn cardinal(text: &str) -> Option<BigInt> {
    const SMALL: [&str; 20] = [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
    ];
    const TENS: [&str; 8] = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
    let place = |names: &[&str], word: &str| names.iter().position(|name| *name == word).map(|at| at as i64);
    let (mut total, mut group) = (0i64, 0i64);
    // what the next word must be worth less than: digits fill up what is in front of them, scales get smaller
    let (mut room, mut largest) = (1_000i64, i64::MAX);
    let mut words = 0;
    for word in text.split([' ', '-']).filter(|word| !word.is_empty()) {
        words += 1;
        if word == "and" && words > 1 {
            continue;
        }
        let (value, rest) = match (place(&SMALL, word), place(&TENS, word), word) {
            (Some(value), ..) => (value, 1),
            (_, Some(tens), _) => ((tens + 2) * 10, 10),
            (.., "a") if words == 1 => (1, 1),
            (.., "hundred") if (1..100).contains(&group) => {
                (group, room) = (group * 100, 100);
                continue;
            }
            _ => {
                let scale = i64::try_from(self::word(word)?.to_integer()).ok().filter(|scale| *scale >= 1_000)?;
                if group == 0 || scale >= largest {
                    return None;
                }
                total = total.checked_add(group.checked_mul(scale)?)?;
                (group, room, largest) = (0, 1_000, scale);
                continue;
            }
        };
        if value >= room || room <= 1 {
            return None;
        }
        (group, room) = (group + value, rest);
    }
    (words > 0 && !text.ends_with("and")).then(|| BigInt::from(total + group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_suffixes() {
        let factor = |value: i64| Some(BigRational::from_integer(value.into()));
        assert_eq!(word("Millions"), factor(1_000_000));
        assert_eq!(word("crore"), factor(10_000_000));
        assert_eq!(word("bps"), Some(BigRational::new(1.into(), 10_000.into())));
        assert_eq!(suffix("bn", false), factor(1_000_000_000));
        assert_eq!((suffix("m", true), suffix("m", false)), (factor(1_000_000), None));
    }

    #[test]
    fn numbers_in_words() {
        let cases = [
            ("zero", Some(0)),
            ("a hundred", Some(100)),
            ("five hundred", Some(500)),
            ("twenty-four million", Some(24_000_000)),
            ("two thousand and six", Some(2_006)),
            ("one million two hundred thousand ninety-nine", Some(1_200_099)),
            ("nineteen hundred", Some(1_900)),
            ("two three", None),
            ("twenty thirty", None),
            ("million", None),
            ("hundred", None),
            ("thousand million", None),
            ("and", None),
            ("five and", None),
            ("five apples", None),
            ("one trillion trillion", None),
            ("", None),
        ];
        for (text, value) in cases {
            assert_eq!(cardinal(text), value.map(BigInt::from), "{text}");
        }
    }
}
