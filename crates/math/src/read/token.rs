//! token: what the lexer hands to the parser, and the tables that give macros and words their meaning.

use num_rational::BigRational;

use crate::read::ast::{Const, Func, NamedSet, RelOp};

/// Kinds of brackets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delim {
    Paren,
    Square,
    /// TeX's own grouping.
    Group,
    /// `\{ \}`.
    Brace,
    Angle,
    Floor,
    Ceil,
}

/// Macros with arguments or a special syntax.
#[derive(Debug, Clone, PartialEq)]
pub enum Cmd {
    Frac,
    Sqrt,
    Cbrt,
    Binom,
    Over,
    Choose,
    Sum,
    Prod,
    Integral,
    Limit,
    Cup,
    Cap,
    SetMinus,
    PlusMinus,
    MinusPlus,
    Not,
    Dots,
    Mod,
    /// An accent over one argument.
    Accent(&'static str),
    /// A mark in front of a name: an angle, a triangle.
    Prefix(&'static str),
}

/// One token.
#[derive(Debug, Clone, PartialEq)]
pub enum Tok {
    /// Value, digits behind the point when written as a decimal, the digits as written when it is a plain integer.
    Num(BigRational, Option<u32>, Option<String>),
    Ident(String),
    Word(String),
    Func(Func),
    Const(Const),
    Cmd(Cmd),
    Op(char),
    Open(Delim),
    Close(Delim),
    Bar,
    Norm,
    Comma,
    Semicolon,
    Newline,
    Quad,
    And,
    Or,
    Rel(RelOp),
    Percent,
    Degree,
    Currency(char),
    Prime(u32),
    Amp,
    Begin(String),
    End(String),
    Named(NamedSet),
}

/// A token with where it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// What it is.
    pub tok: Tok,
    /// White space came before it.
    pub spaced: bool,
    /// Set in an upright font: a unit or a word rather than a variable.
    pub upright: bool,
}

/// The meaning of a macro without arguments.
pub fn simple_macro(name: &str) -> Option<Tok> {
    Some(match name {
        "frac" | "dfrac" | "tfrac" | "cfrac" | "sfrac" | "nicefrac" | "rac" => Tok::Cmd(Cmd::Frac),
        "sqrt" | "surd" => Tok::Cmd(Cmd::Sqrt),
        "binom" | "dbinom" | "tbinom" => Tok::Cmd(Cmd::Binom),
        "over" | "above" => Tok::Cmd(Cmd::Over),
        "choose" => Tok::Cmd(Cmd::Choose),
        "sum" => Tok::Cmd(Cmd::Sum),
        "prod" => Tok::Cmd(Cmd::Prod),
        "int" | "iint" | "iiint" | "oint" => Tok::Cmd(Cmd::Integral),
        "lim" => Tok::Cmd(Cmd::Limit),
        "cup" | "bigcup" => Tok::Cmd(Cmd::Cup),
        "cap" | "bigcap" => Tok::Cmd(Cmd::Cap),
        "setminus" | "backslash" | "smallsetminus" => Tok::Cmd(Cmd::SetMinus),
        "pm" => Tok::Cmd(Cmd::PlusMinus),
        "mp" => Tok::Cmd(Cmd::MinusPlus),
        "not" => Tok::Cmd(Cmd::Not),
        "ldots" | "dots" | "cdots" | "dotsc" | "dotsb" | "dotsm" | "vdots" | "ddots" | "dotso" => Tok::Cmd(Cmd::Dots),
        "bmod" | "mod" => Tok::Cmd(Cmd::Mod),
        "overline" => Tok::Cmd(Cmd::Accent("overline")),
        "bar" => Tok::Cmd(Cmd::Accent("bar")),
        "hat" | "widehat" => Tok::Cmd(Cmd::Accent("hat")),
        "vec" | "overrightarrow" | "overleftarrow" | "overleftrightarrow" => Tok::Cmd(Cmd::Accent("vec")),
        "tilde" | "widetilde" => Tok::Cmd(Cmd::Accent("tilde")),
        "dot" => Tok::Cmd(Cmd::Accent("dot")),
        "ddot" => Tok::Cmd(Cmd::Accent("ddot")),
        "widearc" | "overarc" | "wideparen" | "overparen" | "stackrel" | "breve" => Tok::Cmd(Cmd::Accent("arc")),
        "underset" | "overset" => Tok::Cmd(Cmd::Accent("set")),
        "angle" | "measuredangle" | "sphericalangle" => Tok::Cmd(Cmd::Prefix("angle")),
        "triangle" | "bigtriangleup" => Tok::Cmd(Cmd::Prefix("triangle")),
        "odot" | "square" | "Box" => Tok::Cmd(Cmd::Prefix("shape")),
        "cdot" | "times" | "ast" | "bullet" | "centerdot" => Tok::Op('*'),
        "div" => Tok::Op('/'),
        "texttimes" => Tok::Op('*'),
        "textpm" => Tok::Cmd(Cmd::PlusMinus),
        "textsuperscript" => Tok::Op('^'),
        "textsubscript" => Tok::Op('_'),
        "colon" => Tok::Op(':'),
        "lbrace" => Tok::Open(Delim::Brace),
        "rbrace" => Tok::Close(Delim::Brace),
        "langle" => Tok::Open(Delim::Angle),
        "rangle" => Tok::Close(Delim::Angle),
        "lfloor" => Tok::Open(Delim::Floor),
        "rfloor" => Tok::Close(Delim::Floor),
        "lceil" => Tok::Open(Delim::Ceil),
        "rceil" => Tok::Close(Delim::Ceil),
        "lbrack" => Tok::Open(Delim::Square),
        "rbrack" => Tok::Close(Delim::Square),
        "lparen" => Tok::Open(Delim::Paren),
        "rparen" => Tok::Close(Delim::Paren),
        "vert" | "lvert" | "rvert" | "mid" => Tok::Bar,
        "Vert" | "lVert" | "rVert" => Tok::Norm,
        "quad" | "qquad" => Tok::Quad,
        "newline" | "cr" => Tok::Newline,
        "land" | "wedge" => Tok::And,
        "lor" | "vee" => Tok::Or,
        "pi" | "uppi" => Tok::Const(Const::Pi),
        "infty" | "infin" => Tok::Const(Const::Infinity),
        "imath" | "jmath" => Tok::Const(Const::I),
        "circ" | "degree" | "textdegree" => Tok::Degree,
        "prime" => Tok::Prime(1),
        "percent" => Tok::Percent,
        "euro" => Tok::Currency('€'),
        "pounds" => Tok::Currency('£'),
        "yen" => Tok::Currency('¥'),
        "emptyset" | "varnothing" => Tok::Named(NamedSet::Empty),
        "reals" | "R" => Tok::Named(NamedSet::Reals),
        "Z" => Tok::Named(NamedSet::Integers),
        "N" => Tok::Named(NamedSet::Naturals),
        _ => return relation(name).map(Tok::Rel).or_else(|| function(name).map(Tok::Func)),
    })
}

fn relation(name: &str) -> Option<RelOp> {
    Some(match name {
        "eq" | "equiv" | "triangleq" | "coloneqq" => RelOp::Eq,
        "ne" | "neq" => RelOp::Ne,
        "lt" => RelOp::Lt,
        "le" | "leq" | "leqslant" | "leqq" => RelOp::Le,
        "gt" => RelOp::Gt,
        "ge" | "geq" | "geqslant" | "geqq" => RelOp::Ge,
        "approx" | "approxeq" | "thickapprox" | "doteq" => RelOp::Approx,
        "in" | "isin" => RelOp::In,
        "notin" => RelOp::NotIn,
        "subset" | "subseteq" => RelOp::Subset,
        "cong" => RelOp::Congruent,
        "sim" | "simeq" => RelOp::Other("sim"),
        "to" | "rightarrow" | "longrightarrow" | "mapsto" => RelOp::Other("to"),
        "Rightarrow" | "implies" | "Longrightarrow" => RelOp::Other("implies"),
        "iff" | "Leftrightarrow" | "leftrightarrow" | "Longleftrightarrow" => RelOp::Other("iff"),
        "propto" => RelOp::Other("propto"),
        "parallel" => RelOp::Other("parallel"),
        "perp" => RelOp::Other("perp"),
        "ll" => RelOp::Other("ll"),
        "gg" => RelOp::Other("gg"),
        _ => return None,
    })
}

/// Functions by their TeX and plain names.
pub fn function(name: &str) -> Option<Func> {
    Some(match name {
        "sin" => Func::Sin,
        "cos" => Func::Cos,
        "tan" | "tg" => Func::Tan,
        "cot" | "ctg" => Func::Cot,
        "sec" => Func::Sec,
        "csc" | "cosec" => Func::Csc,
        "arcsin" | "asin" | "Arcsin" => Func::Asin,
        "arccos" | "acos" | "Arccos" => Func::Acos,
        "arctan" | "atan" | "arctg" | "Arctan" => Func::Atan,
        "arccot" | "acot" | "arcctg" => Func::Acot,
        "arcsec" | "asec" => Func::Asec,
        "arccsc" | "acsc" => Func::Acsc,
        "sinh" => Func::Sinh,
        "cosh" => Func::Cosh,
        "tanh" => Func::Tanh,
        "coth" => Func::Coth,
        "sech" => Func::Sech,
        "csch" => Func::Csch,
        "arcsinh" | "asinh" | "arsinh" => Func::Asinh,
        "arccosh" | "acosh" | "arcosh" => Func::Acosh,
        "arctanh" | "atanh" | "artanh" => Func::Atanh,
        "ln" => Func::Ln,
        "log" | "lg" => Func::Log,
        "exp" => Func::Exp,
        "gcd" => Func::Gcd,
        "lcm" => Func::Lcm,
        "max" => Func::Max,
        "min" => Func::Min,
        "Re" => Func::Re,
        "Im" => Func::Im,
        "arg" | "Arg" => Func::Arg,
        "sgn" | "sign" => Func::Sign,
        "abs" => Func::Abs,
        "floor" => Func::Floor,
        "ceil" => Func::Ceil,
        _ => return None,
    })
}

/// Greek letters and letter-like macros, by the name they are compared under.
pub fn letter(name: &str) -> Option<&'static str> {
    const NAMES: &[(&str, &str)] = &[
        ("varepsilon", "epsilon"),
        ("vartheta", "theta"),
        ("varphi", "phi"),
        ("varrho", "rho"),
        ("varsigma", "sigma"),
        ("varpi", "pi"),
        ("alpha", "alpha"),
        ("beta", "beta"),
        ("gamma", "gamma"),
        ("delta", "delta"),
        ("epsilon", "epsilon"),
        ("zeta", "zeta"),
        ("eta", "eta"),
        ("theta", "theta"),
        ("iota", "iota"),
        ("kappa", "kappa"),
        ("lambda", "lambda"),
        ("mu", "mu"),
        ("nu", "nu"),
        ("xi", "xi"),
        ("omicron", "omicron"),
        ("rho", "rho"),
        ("sigma", "sigma"),
        ("tau", "tau"),
        ("upsilon", "upsilon"),
        ("phi", "phi"),
        ("chi", "chi"),
        ("psi", "psi"),
        ("omega", "omega"),
        ("Gamma", "Gamma"),
        ("Delta", "Delta"),
        ("Theta", "Theta"),
        ("Lambda", "Lambda"),
        ("Xi", "Xi"),
        ("Pi", "Pi"),
        ("Sigma", "Sigma"),
        ("Upsilon", "Upsilon"),
        ("Phi", "Phi"),
        ("Psi", "Psi"),
        ("Omega", "Omega"),
        ("ell", "ell"),
        ("hbar", "hbar"),
        ("partial", "partial"),
        ("nabla", "nabla"),
        ("aleph", "aleph"),
        ("mho", "mho"),
        ("wp", "wp"),
    ];
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, shown)| *shown)
}

/// Macros that change only the look: dropped, their argument stays.
pub fn is_cosmetic(name: &str) -> bool {
    matches!(
        name,
        "left"
            | "right"
            | "middle"
            | "big"
            | "Big"
            | "bigg"
            | "Bigg"
            | "bigl"
            | "bigr"
            | "Bigl"
            | "Bigr"
            | "biggl"
            | "biggr"
            | "Biggl"
            | "Biggr"
            | "bigm"
            | "Bigm"
            | "displaystyle"
            | "textstyle"
            | "scriptstyle"
            | "scriptscriptstyle"
            | "limits"
            | "nolimits"
            | "rm"
            | "bf"
            | "it"
            | "cal"
            | "tt"
            | "sf"
            | "sl"
            | "em"
            | "small"
            | "large"
            | "Large"
            | "normalsize"
            | "boldsymbol"
            | "bm"
            | "bold"
            | "mathit"
            | "mathnormal"
            | "mathcal"
            | "mathscr"
            | "mathfrak"
            | "mathop"
            | "mathrel"
            | "mathbin"
            | "mathord"
            | "mathopen"
            | "mathclose"
            | "mathpunct"
            | "mathstrut"
            | "strut"
            | "nonumber"
            | "notag"
            | "hfill"
            | "noindent"
            | "par"
            | "ensuremath"
            | "boxed"
            | "fbox"
            | "framebox"
            | "underline"
            | "overbrace"
            | "underbrace"
            | "enspace"
            | "thinspace"
            | "medspace"
            | "thickspace"
            | "negthinspace"
            | "allowbreak"
            | "nobreak"
            | "smash"
            | "hline"
            | "centering"
            | "displaylimits"
            | "protect"
            | "unicode"
            | "therefore"
            | "because"
            | "blacksquare"
            | "relax"
            | "space"
            | "mathrlap"
            | "llap"
            | "rlap"
    )
}

/// Macros whose argument is dropped with them.
pub fn is_dropped_with_argument(name: &str) -> bool {
    matches!(
        name,
        "hspace"
            | "vspace"
            | "phantom"
            | "hphantom"
            | "vphantom"
            | "label"
            | "tag"
            | "color"
            | "kern"
            | "mspace"
            | "textcolor"
            | "cline"
            | "footnote"
            | "setlength"
    )
}

/// Macros that set their argument as text: `\text` and all that are named after it, fonts, boxes, names of operators.
pub fn is_text_macro(name: &str) -> bool {
    const OTHERS: [&str; 7] =
        ["textstyle", "textcolor", "textsuperscript", "textsubscript", "textdegree", "textpm", "texttimes"];
    const FONTS: [&str; 10] =
        ["mbox", "hbox", "emph", "operatorname", "mathrm", "mathbf", "mathsf", "mathtt", "mathtext", "mathup"];
    name.starts_with("text") && !OTHERS.contains(&name) || FONTS.contains(&name)
}

/// Short words that are words even where letters would be multiplied.
pub fn is_common_word(word: &str) -> bool {
    const WORDS: &[&str] = &[
        "yes", "no", "odd", "all", "any", "is", "of", "the", "if", "for", "to", "by", "at", "am", "pm", "not", "one",
        "two", "six", "ten", "are", "it", "its", "as", "on", "we", "has", "be", "was", "an", "only", "max", "both",
        "none", "even", "true", "east", "west", "south", "north", "neither", "where", "when", "with", "then", "than",
        "from", "real", "set", "red", "tie", "dne", "each", "per", "do", "does", "so", "thus", "left", "up", "down",
        "sum", "may", "day", "can", "but", "zero", "none", "never",
    ];
    WORDS.contains(&word.to_ascii_lowercase().as_str())
}
