//! parse: tokens -> tree. A Pratt parser in layers: lists and prose (here), sums and products (`expr`), atoms (`atom`).
//!
//! Depth and size are bounded, so the tree can be walked by recursion; on any input the parser ends with a tree or a reason.

mod atom;
mod brackets;
mod expr;
mod layout;
mod macros;
mod qualifiers;
mod quantity;
mod systems;
mod words;

use crate::read::ast::{Expr, RelOp};
use crate::read::lex::{self, Comma};
use crate::read::token::{Cmd, Delim, Tok, Token};

/// Why an answer cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParseError {
    /// Nothing but white space and punctuation.
    Empty,
    /// Longer or deeper than the limits.
    TooLarge,
    /// Not mathematics that this parser knows.
    Syntax,
}

impl std::fmt::Display for ParseError {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            ParseError::Empty => "nothing but white space and punctuation",
            ParseError::TooLarge => "longer or deeper than the limits",
            ParseError::Syntax => "not mathematics that this parser knows",
        })
    }
}

impl std::error::Error for ParseError {}

/// A tree and how sure it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// The tree.
    pub expr: Expr,
    /// A comma between digits could be read in another way.
    pub ambiguous: bool,
}

/// Brackets, groups and macros may nest this deep.
const DEPTH_LIMIT: usize = 200;

/// Atoms that are read at most for each token, abandoned readings included.
const WORK_PER_TOKEN: usize = 20;

type Result<T> = std::result::Result<T, ParseError>;

/// Reads an answer; commas between digits are read as `comma` says.
pub fn parse(text: &str, comma: Comma) -> Result<Parsed> {
    let lexed = lex::lex(text, comma).map_err(|_| ParseError::TooLarge)?;
    let tokens = layout::prepared(lexed.tokens);
    if tokens.is_empty() {
        return Err(ParseError::Empty);
    }
    let expr = parse_tokens(tokens)?;
    Ok(Parsed { expr, ambiguous: lexed.ambiguous })
}

/// The answer without the words behind it that qualify it; none where there are none, or nothing is left.
pub fn unqualified(text: &str) -> Option<Expr> {
    let mut tokens = layout::prepared(lex::lex(text, Comma::Auto).ok()?.tokens);
    tokens.truncate(qualifiers::start(&tokens)?);
    parse_tokens(tokens).ok().filter(|expr| !expr.is_text())
}

fn parse_tokens(tokens: Vec<Token>) -> Result<Expr> {
    if let Some(text) = words::pure_text(&tokens) {
        return Ok(words::known(text));
    }
    let mut tokens = tokens;
    tokens.truncate(words::before_quantifier(&tokens));
    tokens.drain(..words::announcement(&tokens));
    let end = tokens.len();
    let work_limit = 500 + WORK_PER_TOKEN * end;
    let mut parser =
        Parser { tokens, at: 0, end, depth: 0, bars: 0, divisions: 0, outward: false, work: 0, work_limit };
    match parser.items() {
        Ok(expr) if parser.at == parser.end => return Ok(expr),
        Err(ParseError::TooLarge) => return Err(ParseError::TooLarge),
        _ => {}
    }
    parser.at = 0;
    parser.depth = 0;
    parser.bars = 0;
    parser.prose()
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    end: usize,
    depth: usize,
    /// Bars that are open: a bar closes and does not start a factor.
    bars: usize,
    /// Divisions and other left-deep operators so far; they make the tree deeper without brackets.
    divisions: usize,
    /// Inside `]a, b[` an opening square bracket closes.
    outward: bool,
    /// Atoms read so far, those of abandoned readings included.
    work: usize,
    /// The limit of `work`.
    work_limit: usize,
}

/// What stands between two items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Separator {
    Comma,
    Semicolon,
    Newline,
    Quad,
    And,
    Or,
}

impl Parser {
    fn peek(&self) -> Option<&Tok> {
        self.peek_at(0)
    }

    fn peek_at(&self, ahead: usize) -> Option<&Tok> {
        let at = self.at + ahead;
        if at < self.end { Some(&self.tokens[at].tok) } else { None }
    }

    fn take(&mut self, wanted: &Tok) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += 1;
        }
        found
    }

    fn expect(&mut self, wanted: &Tok) -> Result<()> {
        if self.take(wanted) { Ok(()) } else { Err(ParseError::Syntax) }
    }

    /// Runs `inner` one level deeper.
    fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= DEPTH_LIMIT {
            return Err(ParseError::TooLarge);
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    /// Counts an operator that deepens the tree to the left.
    fn deepen(&mut self) -> Result<()> {
        self.divisions += 1;
        if self.divisions > 300 { Err(ParseError::TooLarge) } else { Ok(()) }
    }

    fn separator(&self) -> Option<Separator> {
        Some(match self.peek()? {
            Tok::Comma => Separator::Comma,
            Tok::Semicolon => Separator::Semicolon,
            Tok::Newline => Separator::Newline,
            Tok::Quad => Separator::Quad,
            Tok::And => Separator::And,
            Tok::Or => Separator::Or,
            _ => return None,
        })
    }

    /// Items between separators, up to a closing token or the end.
    fn items(&mut self) -> Result<Expr> {
        let (items, separators) = self.nested(Self::item_list)?;
        Ok(assemble(items, &separators))
    }

    fn item_list(&mut self) -> Result<(Vec<Expr>, Vec<Separator>)> {
        let mut items = Vec::new();
        let mut separators = Vec::new();
        while self.separator() == Some(Separator::Quad) {
            self.at += 1;
        }
        loop {
            items.push(self.relation()?);
            let mut best = None;
            while let Some(separator) = self.separator() {
                self.at += 1;
                best = match (best, separator) {
                    (None | Some(Separator::Quad | Separator::Newline), separator) => Some(separator),
                    (Some(Separator::Comma), Separator::And | Separator::Or) => Some(separator),
                    (found, _) => found,
                };
            }
            let Some(separator) = best else { return Ok((items, separators)) };
            if self.at == self.end || matches!(self.peek(), Some(Tok::Close(_) | Tok::End(_))) {
                return Ok((items, separators));
            }
            separators.push(separator);
        }
    }

    /// A chain of relations.
    fn relation(&mut self) -> Result<Expr> {
        // "= 5" and "approx 5" say just 5
        while matches!(self.peek(), Some(Tok::Rel(RelOp::Eq | RelOp::Approx | RelOp::Other("implies" | "iff" | "to"))))
        {
            self.at += 1;
        }
        let mut terms = vec![self.ratio()?];
        let mut operators = Vec::new();
        while let Some(operator) = self.relation_operator() {
            let right = self.ratio()?;
            terms.push(if matches!(operator, RelOp::In | RelOp::NotIn) { words::named_set(right) } else { right });
            operators.push(operator);
        }
        if operators.is_empty() {
            return Ok(terms.pop().expect("one term was just pushed"));
        }
        Ok(Expr::Rel(terms, operators))
    }

    fn relation_operator(&mut self) -> Option<RelOp> {
        let negated = self.peek() == Some(&Tok::Cmd(Cmd::Not));
        let Some(Tok::Rel(operator)) = self.peek_at(usize::from(negated)) else { return None };
        let operator = *operator;
        self.at += 1 + usize::from(negated);
        if !negated {
            // "< =" and "> ="
            if operator.is_order() && self.peek() == Some(&Tok::Rel(RelOp::Eq)) {
                self.at += 1;
                return Some(if operator == RelOp::Lt { RelOp::Le } else { RelOp::Ge });
            }
            return Some(operator);
        }
        Some(match operator {
            RelOp::Eq => RelOp::Ne,
            RelOp::In => RelOp::NotIn,
            RelOp::Lt => RelOp::Ge,
            RelOp::Gt => RelOp::Le,
            RelOp::Le => RelOp::Gt,
            RelOp::Ge => RelOp::Lt,
            _ => RelOp::Other("not"),
        })
    }

    /// `a : b`, `a to b`, a time of day.
    fn ratio(&mut self) -> Result<Expr> {
        let start = self.at;
        let first = self.set_expression()?;
        if let Some(half) = self.half_of_day()
            && let Some(hour) = first.as_int().filter(|hour| (0..=24).contains(hour))
        {
            self.at += 1;
            return Ok(Expr::Time(hour as u32, 0, Some(half)));
        }
        let mut parts = vec![first];
        loop {
            let colon = self.peek() == Some(&Tok::Op(':'));
            let to = matches!(self.peek(), Some(Tok::Word(word)) if word == "to");
            if !(colon || to) || self.at + 1 >= self.end {
                break;
            }
            let before = self.at;
            self.at += 1;
            match self.set_expression() {
                Ok(part) => parts.push(part),
                Err(ParseError::TooLarge) => return Err(ParseError::TooLarge),
                Err(_) => {
                    self.at = before;
                    break;
                }
            }
        }
        if parts.len() == 1 {
            return Ok(parts.pop().expect("one part"));
        }
        let half = self.half_of_day();
        if let (Some(half), [hour, minute]) = (half, parts.as_slice())
            && let (Some(hour @ 0..=24), Some(minute @ 0..=59)) = (hour.as_int(), minute.as_int())
        {
            self.at += 1;
            return Ok(Expr::Time(hour as u32, minute as u32, Some(half)));
        }
        // hours and minutes with two digits
        let minutes = &self.tokens[self.at - 1].tok;
        let clock = self.at - start == 3 && matches!(minutes, Tok::Num(_, None, Some(digits)) if digits.len() == 2);
        if let (true, [hour, minute]) = (clock, parts.as_slice())
            && let (Some(hour @ 0..=24), Some(minute @ 0..=59)) = (hour.as_int(), minute.as_int())
        {
            return Ok(Expr::Time(hour as u32, minute as u32, None));
        }
        Ok(Expr::Ratio(parts))
    }

    fn half_of_day(&self) -> Option<bool> {
        match self.peek() {
            Some(Tok::Word(word)) if word == "am" => Some(false),
            Some(Tok::Word(word)) if word == "pm" => Some(true),
            _ => None,
        }
    }

    /// Words and mathematics in turn.
    fn prose(&mut self) -> Result<Expr> {
        let mut parts = Vec::new();
        let mut text: Vec<String> = Vec::new();
        while self.at < self.end {
            if let Some(word) = words::of_prose(&self.tokens[self.at].tok) {
                text.extend(word);
                self.at += 1;
                continue;
            }
            let start = self.at;
            let part = self.relation();
            match part {
                Ok(part) if self.at > start => {
                    if !text.is_empty() {
                        parts.push(Expr::Text(std::mem::take(&mut text).join(" ")));
                    }
                    parts.push(part);
                }
                Err(ParseError::TooLarge) => return Err(ParseError::TooLarge),
                _ => return Err(ParseError::Syntax),
            }
        }
        if !text.is_empty() {
            parts.push(Expr::Text(text.join(" ")));
        }
        if parts.iter().all(|part| !part.is_text()) && parts.len() > 1 {
            return Ok(Expr::List(parts));
        }
        match parts.len() {
            0 => Err(ParseError::Empty),
            1 => Ok(parts.pop().expect("one part")),
            _ => Ok(words::without_frame(parts)),
        }
    }
}

/// A list, a conjunction, or the only item.
fn assemble(mut items: Vec<Expr>, separators: &[Separator]) -> Expr {
    if items.len() == 1 {
        return items.pop().expect("one item");
    }
    if separators.contains(&Separator::Semicolon) || separators.contains(&Separator::Or) {
        let strong = if separators.contains(&Separator::Semicolon) { Separator::Semicolon } else { Separator::Or };
        let weak = separators.iter().any(|separator| *separator != strong);
        let groups = grouped(&items, separators, strong);
        let same_size = groups.windows(2).all(|pair| pair[0].0.len() == pair[1].0.len());
        if weak
            && (strong == Separator::Semicolon || same_size)
            && groups.len() > 1
            && groups.iter().any(|group| group.0.len() > 1)
        {
            let parts = groups.into_iter().map(|(items, separators)| assemble(items, &separators)).collect::<Vec<_>>();
            let orders = strong == Separator::Or && parts.iter().all(is_order);
            return if orders { Expr::Logic(false, parts) } else { Expr::List(parts) };
        }
    }
    // x != 0, 1: what follows is excluded too
    if let Some((Expr::Rel(terms, operators), rest)) = items.split_first()
        && let ([name, _], [RelOp::Ne]) = (terms.as_slice(), operators.as_slice())
        && rest.iter().all(|item| matches!(item, Expr::Num(..) | Expr::Neg(_) | Expr::Div(..)))
    {
        let excluded = |value: &Expr| Expr::Rel(vec![name.clone(), value.clone()], vec![RelOp::Ne]);
        let rest: Vec<Expr> = rest.iter().map(excluded).collect();
        items.splice(1.., rest);
        return Expr::Logic(true, items);
    }
    if items.iter().all(is_order) {
        // x in R, x != 0: a membership in all numbers declares, an exclusion restricts; both hold with what is beside them
        let restricts = |item: &Expr| match item {
            Expr::Rel(terms, operators) => match operators.as_slice() {
                [RelOp::In] => matches!(terms[1], Expr::Named(_)),
                operators => operators == [RelOp::Ne],
            },
            _ => false,
        };
        let both = separators.contains(&Separator::And) || items.iter().any(restricts);
        let all = both && !separators.contains(&Separator::Or);
        return Expr::Logic(all, items);
    }
    Expr::List(items)
}

/// True for inequalities and statements of membership.
fn is_order(item: &Expr) -> bool {
    match item {
        Expr::Rel(_, operators) => {
            operators.iter().any(|operator| operator.is_order() || matches!(operator, RelOp::Ne | RelOp::In))
        }
        Expr::Logic(..) => true,
        _ => false,
    }
}

type Group = (Vec<Expr>, Vec<Separator>);

fn grouped(items: &[Expr], separators: &[Separator], strong: Separator) -> Vec<Group> {
    let mut groups: Vec<Group> = vec![(vec![items[0].clone()], Vec::new())];
    for (item, separator) in items[1..].iter().zip(separators) {
        if *separator == strong {
            groups.push((vec![item.clone()], Vec::new()));
        } else {
            let last = groups.last_mut().expect("there is a first group");
            last.0.push(item.clone());
            last.1.push(*separator);
        }
    }
    groups
}

/// The bracket that a token closes.
fn closes(tok: &Tok) -> Option<Delim> {
    match tok {
        Tok::Close(delim) => Some(*delim),
        _ => None,
    }
}
