//! number: numerals as people write them: thousands separators, decimals, repeating decimals, scientific notation.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Zero};

/// A numeral at the start of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Scan {
    /// Bytes it takes.
    pub length: usize,
    /// Its value.
    pub value: BigRational,
    /// Digits behind the decimal point, when there is one and no exponent removes them.
    pub places: Option<u32>,
    /// The digits as written, for plain integers.
    pub digits: Option<String>,
    /// A comma between digits could be read in another way.
    pub ambiguous: bool,
    /// More digits or a larger exponent than are read; the value is not the numeral's.
    pub too_large: bool,
}

/// The longest numeral that is read, in digits.
const DIGIT_LIMIT: usize = 5_000;

/// The largest exponent of ten that is read.
const EXPONENT_LIMIT: u64 = 4_000;

fn digits_at(bytes: &[u8], at: usize) -> usize {
    bytes[at.min(bytes.len())..].iter().take_while(|byte| byte.is_ascii_digit()).count()
}

/// The length of a plain numeral: digits, and decimals behind a point.
pub fn plain_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let whole = digits_at(bytes, 0);
    let decimals = if bytes.get(whole) == Some(&b'.') { digits_at(bytes, whole + 1) } else { 0 };
    if decimals > 0 { whole + 1 + decimals } else { whole }
}

/// Separators of thousands that cannot be anything else, longest first.
const FIRM: [&str; 10] = ["\\thinspace", "{,}\\!", ", \\!", ",\\!", "{,}", "{\\,}", "\\,", "\\ ", "\\;", "\\:"];

/// Reads a numeral. `groups` allows commas between thousands, `decimal_comma` reads a comma as a decimal point.
pub fn scan(text: &str, groups: bool, decimal_comma: bool) -> Scan {
    let bytes = text.as_bytes();
    let first = digits_at(bytes, 0);
    let mut digits = text[..first].to_string();
    let mut at = first;
    let mut ambiguous = false;
    let mut separated = false;
    if (1..=3).contains(&first) && bytes[0] != b'0' {
        let (end, grouped) = thousands(text, at, groups);
        if end > at {
            digits = grouped.iter().fold(digits, |all, group| all + group);
            separated = true;
            ambiguous |= text[at..end].contains(',') && !text[at..end].contains('!') && !text[at..end].contains('{');
            at = end;
        }
    }
    let raw_comma = bytes.get(at) == Some(&b',') && digits_at(bytes, at + 1) > 0;
    ambiguous |= raw_comma;
    let firm_comma = text[at..].starts_with("{,}") && digits_at(bytes, at + 3) > 0;
    let mut decimals = String::new();
    let mut repeating = String::new();
    let mut has_point = false;
    if bytes.get(at) == Some(&b'.') {
        (decimals, repeating, has_point, at) = after_point(text, at + 1);
        if !has_point {
            at -= 1;
        }
    } else if (decimal_comma && raw_comma) || (firm_comma && !separated) {
        let start = at + if firm_comma { 3 } else { 1 };
        let count = digits_at(bytes, start);
        decimals = text[start..start + count].to_string();
        at = start + count;
        has_point = true;
    }
    let mut exponent = 0i64;
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        let count = digits_at(bytes, at + 1 + sign);
        let after = bytes.get(at + 1 + sign + count);
        if (1..=5).contains(&count) && !after.is_some_and(u8::is_ascii_alphabetic) {
            exponent = text[at + 1..at + 1 + sign + count].parse().unwrap_or(0);
            at += 1 + sign + count;
        }
    }
    let count = digits.len() + decimals.len() + repeating.len();
    let too_large = count > DIGIT_LIMIT || exponent.unsigned_abs() > EXPONENT_LIMIT;
    let plain = !has_point && exponent == 0 && !separated;
    let value = if too_large { BigRational::zero() } else { value(&digits, &decimals, &repeating, exponent) };
    let places = i64::try_from(decimals.len())
        .ok()
        .map(|count| count - exponent)
        .filter(|count| has_point && *count >= 0 && repeating.is_empty());
    Scan {
        length: at,
        value,
        places: places.map(|count| count as u32),
        digits: plain.then_some(digits),
        ambiguous,
        too_large,
    }
}

/// The groups of three digits behind byte `at`, and where they end.
fn thousands(text: &str, at: usize, commas: bool) -> (usize, Vec<&str>) {
    let bytes = text.as_bytes();
    let mut end = at;
    let mut groups = Vec::new();
    loop {
        let rest = &text[end..];
        let firm = FIRM.iter().find(|separator| rest.starts_with(**separator)).map(|separator| separator.len());
        let mut width = match firm {
            Some(width) => width,
            None if rest.starts_with(',') && commas => 1,
            None if rest.starts_with('~') || rest.starts_with(' ') => 1,
            None => return (end, groups),
        };
        if firm.is_some() {
            width += rest[width..].bytes().take_while(|byte| *byte == b' ').count();
        }
        let start = end + width;
        if digits_at(bytes, start) != 3 {
            // a list like 100,200,7 is no numeral
            return if rest.starts_with(',') && digits_at(bytes, end + 1) > 0 {
                (at, Vec::new())
            } else {
                (end, groups)
            };
        }
        groups.push(&text[start..start + 3]);
        end = start + 3;
    }
}

/// Digits, repeating digits, whether there was a decimal point at all, and where the numeral ends.
fn after_point(text: &str, start: usize) -> (String, String, bool, usize) {
    let bytes = text.as_bytes();
    let count = digits_at(bytes, start);
    let mut decimals = text[start..start + count].to_string();
    let mut at = start + count;
    for (open, close) in [("\\overline{", "}"), ("\\bar{", "}"), ("\\overline ", ""), ("(", ")")] {
        let Some(rest) = text[at..].strip_prefix(open) else { continue };
        let length = digits_at(rest.as_bytes(), 0);
        // 0.(3) repeats, 0.5(3) is a product
        if length > 0 && rest[length..].starts_with(close) && (open != "(" || count == 0) {
            return (decimals, rest[..length].to_string(), true, at + open.len() + length + close.len());
        }
    }
    if let Some((digits, end)) = dotted(text, at) {
        return (decimals, digits, true, end);
    }
    if count == 0 {
        return (decimals, String::new(), false, start);
    }
    for dots in ["...", "\\ldots", "\\dots", "\\cdots"] {
        if text[at..].starts_with(dots) {
            at += dots.len();
            let repeating =
                period(&decimals).map(|length| decimals.split_off(decimals.len() - length)).unwrap_or_default();
            return (decimals, repeating, true, at);
        }
    }
    (decimals, String::new(), true, at)
}

/// `\dot{1}4285\dot{7}`: the digits from the first dot to the last repeat.
fn dotted(text: &str, at: usize) -> Option<(String, usize)> {
    let rest = text[at..].strip_prefix("\\dot{")?;
    let first = rest.get(..1).filter(|digit| digit.as_bytes()[0].is_ascii_digit())?;
    let rest = rest[1..].strip_prefix('}')?;
    let middle = digits_at(rest.as_bytes(), 0);
    let mut digits = first.to_string();
    let mut end = text.len() - rest.len();
    if let Some(last) = rest[middle..].strip_prefix("\\dot{")
        && last.as_bytes().first().is_some_and(u8::is_ascii_digit)
        && last[1..].starts_with('}')
    {
        digits.push_str(&rest[..middle]);
        digits.push_str(&last[..1]);
        end = text.len() - last.len() + 2;
    }
    Some((digits, end))
}

/// The shortest period that the end of `digits` shows at least twice.
fn period(digits: &str) -> Option<usize> {
    let bytes = digits.as_bytes();
    (1..=bytes.len() / 2).find(|&length| {
        let tail = &bytes[bytes.len() - length..];
        let before = &bytes[bytes.len() - 2 * length..bytes.len() - length];
        tail == before
    })
}

fn value(digits: &str, decimals: &str, repeating: &str, exponent: i64) -> BigRational {
    let integer = |text: &str| -> BigInt {
        if text.is_empty() { BigInt::zero() } else { text.parse().expect("only digits were scanned") }
    };
    let ten = BigInt::from(10);
    // whole numbers need no greatest common divisor
    let mut value = if decimals.is_empty() {
        BigRational::from_integer(integer(digits))
    } else {
        BigRational::new(integer(&format!("{digits}{decimals}")), ten.pow(decimals.len() as u32))
    };
    if !repeating.is_empty() {
        let nines = ten.pow(repeating.len() as u32) - BigInt::one();
        value += BigRational::new(integer(repeating), nines * ten.pow(decimals.len() as u32));
    }
    let size = exponent.unsigned_abs() as u32;
    match exponent {
        0 => value,
        1.. if value.is_integer() => BigRational::from_integer(value.to_integer() * ten.pow(size)),
        1.. => value * ten.pow(size),
        _ => value / ten.pow(size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Value as a fraction, and how much of the text was read.
    fn read(text: &str, groups: bool) -> (String, usize) {
        let scan = scan(text, groups, false);
        (scan.value.to_string(), scan.length)
    }

    #[test]
    fn thousands() {
        for text in [
            "5857680",
            "5,857,680",
            "5{,}857{,}680",
            "5\\,857\\,680",
            "5,\\!857,\\!680",
            "5, \\!857, \\!680",
            "5~857~680",
        ] {
            assert_eq!(read(text, true), ("5857680".to_string(), text.len()), "{text}");
        }
        assert_eq!(read("1,234", false), ("1".to_string(), 1), "commas separate");
        assert_eq!(read("100,200,7", true), ("100".to_string(), 3), "a list");
        assert_eq!(read("0,123", true).0, "0");
        assert!(
            scan("1,234", true, false).ambiguous
                && scan("12,34", true, false).ambiguous
                && !scan("5{,}857", true, false).ambiguous
        );
    }

    #[test]
    fn decimals() {
        assert_eq!(read("1.25", true).0, "5/4");
        assert_eq!(read(".5", true).0, "1/2");
        assert_eq!(read("7.", true), ("7".to_string(), 1), "a full stop");
        assert_eq!(read("0.\\overline{142857}", true).0, "1/7");
        assert_eq!(read("1.2\\overline{49}", true).0, "1237/990");
        assert_eq!(read("0.\\dot{1}4285\\dot{7}", true).0, "1/7");
        assert_eq!(read("0.(3)", true).0, "1/3");
        assert_eq!(read("0.5(3)", true), ("1/2".to_string(), 3), "a product");
        assert_eq!(read("0.1666...", true).0, "1/6");
        assert_eq!(scan("1,5", true, true).value, BigRational::new(3.into(), 2.into()));
        assert_eq!(scan("1.50", true, false).places, Some(2));
    }

    #[test]
    fn scientific() {
        assert_eq!(read("6.03e6", true).0, "6030000");
        assert_eq!(read("2E-3", true).0, "1/500");
        assert_eq!(read("2e", true), ("2".to_string(), 1), "Euler's number");
        assert_eq!(read("2ex", true), ("2".to_string(), 1));
    }
}
