//! print: tree -> text that parses back to the same tree.

use std::fmt::Write;

use crate::read::ast::{BigOp, Bracket, Const, Expr, Func, NamedSet, RelOp, SetOp};
use crate::read::scale;

/// The tree as TeX, every operand in brackets where it could matter.
pub fn print(expr: &Expr) -> String {
    let mut out = String::new();
    write(expr, &mut out);
    out
}

fn joined(parts: &[Expr], separator: &str, out: &mut String) {
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            out.push_str(separator);
        }
        write(part, out);
    }
}

/// In brackets unless it is an atom.
fn operand(expr: &Expr, out: &mut String) {
    let atom = match expr {
        Expr::Num(value, places) => {
            value.is_integer() && places.is_none() && *value >= num_rational::BigRational::from_integer(0.into())
        }
        Expr::Sym(_) | Expr::Const(_) | Expr::Named(_) => true,
        _ => false,
    };
    if atom {
        return write(expr, out);
    }
    out.push('(');
    write(expr, out);
    out.push(')');
}

fn operands(parts: &[Expr], separator: &str, out: &mut String) {
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            out.push_str(separator);
        }
        operand(part, out);
    }
}

fn write(expr: &Expr, out: &mut String) {
    match expr {
        Expr::Num(value, places) => number(value, *places, out),
        Expr::Sym(name) => symbol(name, out),
        Expr::Const(constant) => out.push_str(match constant {
            Const::Pi => "\\pi ",
            Const::E => "e",
            Const::I => "i",
            Const::Infinity => "\\infty ",
        }),
        Expr::Add(terms) => operands(terms, " + ", out),
        Expr::Mul(factors) => operands(factors, " \\cdot ", out),
        Expr::Neg(inner) => {
            out.push('-');
            operand(inner, out);
        }
        Expr::Div(over, under) => macro_of("\\frac", &[over, under], out),
        Expr::Pow(base, exponent) => {
            operand(base, out);
            out.push_str("^{");
            write(exponent, out);
            out.push('}');
        }
        Expr::PlusMinus(first, second, flipped) => {
            if let Some(first) = first {
                operand(first, out);
            }
            out.push_str(if *flipped { " \\mp " } else { " \\pm " });
            operand(second, out);
        }
        Expr::Func(func, args) => function(*func, args, out),
        Expr::Apply(name, args) => {
            match name.strip_suffix("^-1") {
                Some(head) => {
                    symbol(head, out);
                    out.push_str("^{-1}");
                }
                None => symbol(name, out),
            }
            out.push('(');
            joined(args, ", ", out);
            out.push(')');
        }
        Expr::Big(op, index, parts) => {
            out.push_str(if *op == BigOp::Sum { "\\sum_{" } else { "\\prod_{" });
            symbol(index, out);
            out.push_str(" = ");
            operand(&parts[0], out);
            out.push_str("}^{");
            write(&parts[1], out);
            out.push('}');
            operand(&parts[2], out);
        }
        Expr::Shape(name, parts) => shape(name, parts, out),
        Expr::Percent(inner) => {
            operand(inner, out);
            out.push_str("\\%");
        }
        Expr::Degree(inner) => {
            operand(inner, out);
            out.push_str("^\\circ ");
        }
        Expr::Quantity(inner, unit) => {
            operand(inner, out);
            let _ = write!(out, "\\text{{{}}}", unit.spelled());
        }
        Expr::Scaled(inner, factor) => {
            operand(inner, out);
            let _ = write!(out, "\\text{{ {}}}", scale::named(factor).unwrap_or_default());
        }
        Expr::Based(_, digits, base) => {
            let _ = write!(out, "{digits}_{{{base}}}");
        }
        _ => write_collection(expr, out),
    }
}

fn write_collection(expr: &Expr, out: &mut String) {
    match expr {
        Expr::Tuple(bracket, items) => {
            let (open, close) = match bracket {
                Bracket::Round => ("(", ")"),
                Bracket::Square => ("[", "]"),
                Bracket::Angle => ("\\langle ", "\\rangle "),
            };
            out.push_str(open);
            joined(items, ", ", out);
            out.push_str(close);
        }
        Expr::HalfOpen(parts, left, right) => {
            out.push(if *left { '[' } else { '(' });
            joined(&parts[..], ", ", out);
            out.push(if *right { ']' } else { ')' });
        }
        Expr::Set(items) => {
            out.push_str("\\{");
            joined(items, ", ", out);
            out.push_str("\\}");
        }
        Expr::SetBuilder(parts) => {
            out.push_str("\\{");
            joined(&parts[..], " \\mid ", out);
            out.push_str("\\}");
        }
        Expr::Named(set) => out.push_str(match set {
            NamedSet::Reals => "\\mathbb{R}",
            NamedSet::Integers => "\\mathbb{Z}",
            NamedSet::Naturals => "\\mathbb{N}",
            NamedSet::Rationals => "\\mathbb{Q}",
            NamedSet::Complexes => "\\mathbb{C}",
            NamedSet::Empty => "\\emptyset ",
        }),
        Expr::SetOp(op, parts) => {
            let sign = match op {
                SetOp::Union => " \\cup ",
                SetOp::Intersection => " \\cap ",
                SetOp::Minus => " \\setminus ",
            };
            for (at, part) in parts.iter().enumerate() {
                if at > 0 {
                    out.push_str(sign);
                }
                let nested = matches!(part, Expr::SetOp(..));
                out.push_str(if nested { "(" } else { "" });
                write(part, out);
                out.push_str(if nested { ")" } else { "" });
            }
        }
        Expr::List(items) => joined(items, ", ", out),
        Expr::Matrix(rows) => {
            out.push_str("\\begin{pmatrix}");
            for (at, row) in rows.iter().enumerate() {
                out.push_str(if at > 0 { " \\\\ " } else { "" });
                joined(row, " & ", out);
            }
            out.push_str("\\end{pmatrix}");
        }
        Expr::Rel(terms, operators) => {
            for (at, term) in terms.iter().enumerate() {
                if at > 0 {
                    out.push_str(relation(operators[at - 1]));
                }
                write(term, out);
            }
        }
        Expr::Logic(all, parts) => joined(parts, if *all { "\\text{ and }" } else { "\\text{ or }" }, out),
        Expr::Cases(cases) => {
            out.push_str("\\begin{cases}");
            for (at, (value, condition)) in cases.iter().enumerate() {
                out.push_str(if at > 0 { " \\\\ " } else { "" });
                write(value, out);
                out.push_str(" & ");
                write(condition, out);
            }
            out.push_str("\\end{cases}");
        }
        Expr::Ratio(parts) => operands(parts, " : ", out),
        Expr::Time(hour, minute, half) => {
            let _ = write!(out, "{hour}:{minute:02}");
            if let Some(half) = half {
                out.push_str(if *half { "\\text{ pm}" } else { "\\text{ am}" })
            }
        }
        Expr::Text(text) => {
            let _ = write!(out, "\\text{{{text}}}");
        }
        Expr::Prose(parts) => joined(parts, " ", out),
        _ => unreachable!("every other node is written by `write`"),
    }
}

/// A decimal keeps its places; other numbers are integers or quotients.
fn number(value: &num_rational::BigRational, places: Option<u32>, out: &mut String) {
    match places {
        Some(places) if places <= 5000 => {
            let scaled = value * num_bigint::BigInt::from(10).pow(places);
            let digits = scaled.to_integer().magnitude().to_string();
            let digits = format!("{digits:0>width$}", width = places as usize + 1);
            let (whole, rest) = digits.split_at(digits.len() - places as usize);
            let sign = if value.numer().sign() == num_bigint::Sign::Minus { "-" } else { "" };
            let _ = write!(out, "{sign}{whole}.{rest}");
        }
        _ if value.is_integer() => {
            let _ = write!(out, "{}", value.numer());
        }
        _ => {
            let _ = write!(out, "\\frac{{{}}}{{{}}}", value.numer(), value.denom());
        }
    }
}

fn symbol(name: &str, out: &mut String) {
    let (head, label) = name.split_once('_').unwrap_or((name, ""));
    let primes = head.len() - head.trim_end_matches('\'').len();
    let stem = head.trim_end_matches('\'');
    if stem.len() > 1 && stem.bytes().all(|b| b.is_ascii_alphabetic()) {
        out.push('\\');
    }
    out.push_str(stem);
    out.push_str(&"'".repeat(primes));
    if stem.len() > 1 && label.is_empty() {
        out.push(' ');
    }
    if !label.is_empty() {
        let _ = write!(out, "_{{{label}}}");
    }
}

fn macro_of(name: &str, args: &[&Expr], out: &mut String) {
    out.push_str(name);
    for arg in args {
        out.push('{');
        write(arg, out);
        out.push('}');
    }
}

fn function(func: Func, args: &[Expr], out: &mut String) {
    match (func, args) {
        (Func::Root, [index, value]) => {
            if index.as_int() == Some(2) {
                return macro_of("\\sqrt", &[value], out);
            }
            out.push_str("\\sqrt[");
            write(index, out);
            out.push(']');
            macro_of("", &[value], out);
        }
        (Func::Abs, [value]) => {
            out.push_str("\\left|");
            write(value, out);
            out.push_str("\\right|");
        }
        (Func::Floor, [value]) => {
            out.push_str("\\lfloor ");
            write(value, out);
            out.push_str("\\rfloor ");
        }
        (Func::Ceil, [value]) => {
            out.push_str("\\lceil ");
            write(value, out);
            out.push_str("\\rceil ");
        }
        (Func::Factorial | Func::DoubleFactorial, [value]) => {
            operand(value, out);
            out.push_str(if func == Func::Factorial { "!" } else { "!!" });
        }
        (Func::Conj, [value]) => macro_of("\\overline", &[value], out),
        (Func::Binom, [n, k]) => macro_of("\\binom", &[n, k], out),
        (Func::Log, [base, value]) => {
            macro_of("\\log_", &[base], out);
            out.push('(');
            write(value, out);
            out.push(')');
        }
        (Func::Mod, [a, b]) => {
            operand(a, out);
            out.push_str(" \\bmod ");
            operand(b, out);
        }
        _ => {
            let name = format!("{func:?}").to_lowercase();
            let name = match name.strip_prefix('a') {
                Some(rest) if !matches!(name.as_str(), "abs" | "arg") => format!("arc{rest}"),
                _ => name,
            };
            let name = match name.as_str() {
                "re" => "Re".to_string(),
                "im" => "Im".to_string(),
                _ => name,
            };
            let _ = write!(out, "\\{name}(");
            joined(args, ", ", out);
            out.push(')');
        }
    }
}

fn shape(name: &str, parts: &[Expr], out: &mut String) {
    match (name, parts) {
        ("det", [Expr::Matrix(_)]) => {
            out.push('|');
            joined(parts, ", ", out);
            out.push('|');
        }
        ("norm", [_]) => {
            out.push_str("\\|");
            joined(parts, ", ", out);
            out.push_str("\\|");
        }
        ("overline" | "bar" | "hat" | "vec" | "tilde" | "dot" | "ddot", [value]) => {
            macro_of(&format!("\\{name}"), &[value], out);
        }
        ("angle" | "triangle", [value]) => {
            let _ = write!(out, "\\{name}");
            macro_of("", &[value], out);
        }
        ("mod", [value]) => {
            out.push_str("(\\bmod ");
            operand(value, out);
            out.push(')');
        }
        _ => {
            if let (Some(label), [value]) = (name.strip_prefix("sub "), parts) {
                operand(value, out);
                let _ = write!(out, "_{{{label}}}");
                return;
            }
            // shapes without a spelling of their own: only ever compared, not read again
            let _ = write!(out, "\\shape[{name}]");
            parts.iter().for_each(|part| macro_of("", &[part], out));
        }
    }
}

fn relation(operator: RelOp) -> &'static str {
    match operator {
        RelOp::Eq => " = ",
        RelOp::Ne => " \\ne ",
        RelOp::Lt => " < ",
        RelOp::Le => " \\le ",
        RelOp::Gt => " > ",
        RelOp::Ge => " \\ge ",
        RelOp::Approx => " \\approx ",
        RelOp::In => " \\in ",
        RelOp::NotIn => " \\notin ",
        RelOp::Subset => " \\subset ",
        RelOp::Congruent => " \\cong ",
        RelOp::Other("to") => " \\to ",
        RelOp::Other("implies") => " \\implies ",
        RelOp::Other("iff") => " \\iff ",
        RelOp::Other("sim") => " \\sim ",
        RelOp::Other("propto") => " \\propto ",
        RelOp::Other("parallel") => " \\parallel ",
        RelOp::Other("perp") => " \\perp ",
        RelOp::Other("ll") => " \\ll ",
        RelOp::Other("gg") => " \\gg ",
        RelOp::Other(_) => " \\not\\sim ",
    }
}
