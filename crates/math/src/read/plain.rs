//! plain: what the lexer does to a text before it looks at tokens: Unicode to TeX, and prose told from formulas.

use crate::read::token;

use crate::read::unicode;

/// Unicode -> ASCII and TeX.
pub fn to_plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c.is_ascii() {
            out.push(c);
        } else if let Some(plain) = unicode::unicode(c) {
            out.push_str(plain);
        } else if let Some((over, under)) = unicode::vulgar_fraction(c) {
            out.push_str(&format!("\\frac{{{over}}}{{{under}}}"));
        } else if let Some((up, first)) = unicode::raised(c) {
            out.push_str(if up { "^{" } else { "_{" });
            out.push(first);
            while let Some((same, next)) = chars.peek().and_then(|next| unicode::raised(*next)) {
                if same != up {
                    break;
                }
                out.push(next);
                chars.next();
            }
            out.push('}');
        } else {
            match c as u32 {
                0x200B..=0x200D | 0x2060..=0x2063 | 0xFEFF => {}
                0xA0 | 0x2000..=0x200A | 0x202F | 0x205F | 0x3000 => out.push_str("\\,"),
                0xFF01..=0xFF5E => out.push(char::from_u32(c as u32 - 0xFEE0).unwrap_or(' ')),
                code @ 0x1D400..=0x1D6A3 => {
                    let letter = (code - 0x1D400) % 52;
                    out.push(char::from(if letter < 26 { b'A' + letter as u8 } else { b'a' + letter as u8 - 26 }));
                }
                code @ 0x1D7CE..=0x1D7FF => out.push(char::from(b'0' + ((code - 0x1D7CE) % 10) as u8)),
                _ => out.push(c),
            }
        }
    }
    out
}

/// True when a run of letters outside macros reads like a word.
pub fn looks_like_prose(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'\\' {
            at += 1;
            while at < bytes.len() && bytes[at].is_ascii_alphabetic() {
                at += 1;
            }
            // the argument of \begin, \text and the like does not count
            if at < bytes.len() && bytes[at] == b'{' {
                at += 1;
                while at < bytes.len() && (bytes[at].is_ascii_alphabetic() || bytes[at] == b'*') {
                    at += 1;
                }
            }
            continue;
        }
        if bytes[at].is_ascii_alphabetic() {
            let start = at;
            while at < bytes.len() && bytes[at].is_ascii_alphabetic() {
                at += 1;
            }
            if is_long_word(&text[start..at]) {
                return true;
            }
        } else {
            at += 1;
        }
    }
    false
}

/// A run of letters that is a word and no product or function.
pub fn is_long_word(run: &str) -> bool {
    run.len() >= 4
        && run.bytes().any(|b| matches!(b.to_ascii_lowercase(), b'a' | b'e' | b'i' | b'o' | b'u' | b'y'))
        && token::function(run).is_none()
        && token::letter(run).is_none()
        && !matches!(run, "sqrt" | "infinity" | "infty")
        && !(run.bytes().all(|b| b.is_ascii_uppercase()) && run.len() < 6)
}
