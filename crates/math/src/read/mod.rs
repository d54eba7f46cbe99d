//! Text -> tree: extraction of the answer, tokens, parser, and the printer that is their inverse.

pub(crate) mod extract;
pub(crate) mod announcements;
pub(crate) mod spans;
pub(crate) mod letters;
pub(crate) mod lex;
pub(crate) mod plain;
pub(crate) mod written;
pub(crate) mod number;
pub(crate) mod token;
pub(crate) mod unicode;
pub(crate) mod units;
pub(crate) mod scale;
pub(crate) mod ast;
pub(crate) mod parse;
pub(crate) mod print;
