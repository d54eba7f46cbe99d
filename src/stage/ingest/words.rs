//! A question as words: what is left of it when spelling, punctuation and markup make no difference.

/// Shows the words of a text, one after the other: runs of letters and digits in lower case, and single signs that mean
/// something (`+`, `=`, `<`, `%`). Punctuation, brackets, quotes and marks of LaTeX and Markdown only part words, and so does a
/// hyphen between two letters. Characters of scripts that put no spaces between words are words.
pub fn each(text: &str, take: &mut dyn FnMut(&str)) {
    let (mut word, mut sign, mut before) = (String::new(), [0; 4], ' ');
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        let joins = c == '-' && before.is_alphabetic() && characters.peek().is_some_and(|next| next.is_alphabetic());
        before = c;
        let stands_alone = has_no_spaces(c) || !(c.is_alphanumeric() || is_empty(c) || joins);
        if c.is_alphanumeric() && !stands_alone {
            word.extend(c.to_lowercase());
            continue;
        }
        if !word.is_empty() {
            take(&word);
            word.clear();
        }
        if stands_alone {
            take(if c == '\u{2212}' { "-" } else { c.encode_utf8(&mut sign) });
        }
    }
    if !word.is_empty() {
        take(&word);
    }
}

/// The words of a text.
pub fn of(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    each(text, &mut |word| words.push(word.to_string()));
    words
}

/// Spreads a number over 64 bits: the finaliser of SplitMix64 (Steele, Lea and Flood 2014).
pub fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Parts words and means nothing itself.
fn is_empty(c: char) -> bool {
    c.is_whitespace()
        || c.is_control()
        || ".,:;?!\"'`()[]{}$\\_~*&#@".contains(c)
        || "‘’“”„«»‹›–—…¿¡·•".contains(c)
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{feff}' | '\u{3000}'..='\u{3004}' | '\u{3006}'..='\u{303f}')
        || "！，．：；？（）［］｛｝＂＇".contains(c)
}

/// Chinese, Japanese, and Thai with its neighbours.
fn has_no_spaces(c: char) -> bool {
    matches!(c,
        '\u{0e00}'..='\u{0eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{3005}'
        | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

#[cfg(test)]
mod tests {
    use super::of;

    #[test]
    fn what_makes_no_difference_is_gone() {
        let plain = of("What is 12 + 3.5 of the well known set");
        assert_eq!(plain, ["what", "is", "12", "+", "3", "5", "of", "the", "well", "known", "set"]);
        assert_eq!(of("  **What** is $12+3.5$ of the `well-known` \"set\"?\n"), plain);
        assert_eq!(of("What’s \\(x\\)… “so”?"), of("what s x so"));
        assert_eq!(of(" .?! "), Vec::<String>::new());
    }

    #[test]
    fn what_makes_a_difference_stays() {
        for (a, b) in [
            ("2 + 3", "2 - 3"),
            ("x = -5", "x = 5"),
            ("3.5", "35"),
            ("a < b", "a > b"),
            ("5%", "5"),
            ("2^3", "2 3"),
            ("x-y", "x+y"),
        ] {
            assert_ne!(of(a), of(b));
        }
        assert_eq!(of("5 \u{2212} 2"), of("5 - 2"));
        assert_eq!(of("non-zero"), ["non", "zero"]);
        assert_eq!(of("3-x"), ["3", "-", "x"]);
    }

    #[test]
    fn scripts_without_spaces() {
        assert_eq!(of("求x的值。"), ["求", "x", "的", "值"]);
        assert_eq!(of("3人のこども"), ["3", "人", "の", "こ", "ど", "も"]);
        assert_eq!(of("Größe ΔX"), ["größe", "δx"]);
    }
}
