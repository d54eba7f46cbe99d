//! extract: completion -> the span that holds the final answer.

/// The macros whose argument marks a final answer.
const BOX_MACROS: [&str; 3] = ["\\boxed", "\\fbox", "\\framebox"];

/// One `\boxed{..}` in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoxSpan {
    /// Byte offset of the backslash.
    pub start: usize,
    /// Byte range of the content.
    pub content: std::ops::Range<usize>,
    /// Byte offset just behind the box.
    pub end: usize,
    /// False when the braces never close: the answer was cut off.
    pub closed: bool,
}

/// Every outermost box, in order of appearance.
pub fn boxes(text: &str) -> Vec<BoxSpan> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(offset) = text[at..].find('\\') {
        let start = at + offset;
        match box_at(text, start) {
            Some(span) => {
                at = span.end.max(start + 1);
                found.push(span);
            }
            None => at = start + 1,
        }
    }
    found
}

/// The box that starts at byte `start`, which holds a backslash.
fn box_at(text: &str, start: usize) -> Option<BoxSpan> {
    let name = BOX_MACROS.iter().find(|name| text[start..].starts_with(**name))?;
    let bytes = text.as_bytes();
    let mut at = start + name.len();
    if bytes.get(at).is_some_and(u8::is_ascii_alphabetic) {
        return None;
    }
    while bytes.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    match bytes.get(at) {
        None => Some(BoxSpan { start, content: at..at, end: at, closed: false }),
        Some(b'{') => {
            let close = matching_brace(bytes, at);
            let stop = close.unwrap_or(bytes.len());
            let end = close.map_or(bytes.len(), |close| close + 1);
            Some(BoxSpan { start, content: at + 1..stop, end, closed: close.is_some() })
        }
        Some(_) => {
            let end = unbraced_end(bytes, at);
            Some(BoxSpan { start, content: at..end, end, closed: true })
        }
    }
}

/// Where an argument without braces ends: at the end of its mathematics or line.
fn unbraced_end(bytes: &[u8], at: usize) -> usize {
    let stop = |byte: &u8| matches!(byte, b'$' | b'\n' | b' ' | b'\\');
    let first = usize::from(bytes[at] == b'\\');
    bytes[at + first..].iter().position(|byte| stop(byte)).map_or(bytes.len(), |length| at + first + length)
}

/// The byte offset of the brace that closes the one at `open`; escaped braces do not count.
fn matching_brace(bytes: &[u8], open: usize) -> Option<usize> {
    let mut depth = 0usize;
    let mut at = open;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 1,
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}
