//! numeric: numbers within a tolerance, with the conventions for scale words and percent signs of [`Options`](crate::Options).

use num_rational::BigRational;
use num_traits::{FromPrimitive, Signed};

use crate::JUDGE_VERSION;
use crate::compare::{identity, names};
use crate::judge::{Judgement, Verdict, answer_of, reference};
use crate::number::budget::Budget;
use crate::number::eval::{Point, eval};
use crate::options::{PERCENTS, Percent, SCALES, Scale, flag, named, shown};
use crate::read::ast::Expr;
use crate::read::lex::Comma;
use crate::read::{parse, written};

/// The judge of numbers: `|answer - gold| <= max(abs_tol, rel_tol * |gold|)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Numeric {
    /// Relative to the reference.
    pub rel_tol: f64,
    /// Absolute.
    pub abs_tol: f64,
    /// What scale words do. With `FromGold` the reference's percent sign is one of them: `12.5` for the reference `12.5%`.
    pub scale: Scale,
    /// What a percent sign that the reference does not have does.
    pub percent: Percent,
    /// A number alone in round brackets is negative: `(12.6)` is -12.6.
    pub accounting_negatives: bool,
}

impl Default for Numeric {
    fn default() -> Numeric {
        Numeric {
            rel_tol: 1e-6,
            abs_tol: 0.0,
            scale: Scale::Value,
            percent: Percent::Value,
            accounting_negatives: false,
        }
    }
}

impl Numeric {
    /// Sets the option `name`.
    ///
    /// # Errors
    /// When there is no such option, or it has no such value; the message says what there is.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let tolerance = |value: &str| {
            let number = value.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
            number.ok_or_else(|| format!("`{name}` is `{value}`, it must be 0 or more"))
        };
        match name {
            "rel_tol" => self.rel_tol = tolerance(value)?,
            "abs_tol" => self.abs_tol = tolerance(value)?,
            "scale" => self.scale = named(&SCALES, name, value)?,
            "percent" => self.percent = named(&PERCENTS, name, value)?,
            "accounting_negatives" => self.accounting_negatives = flag(name, value)?,
            _ => {
                return Err(format!(
                    "the judge `numeric` has no option `{name}`; it has rel_tol, abs_tol, scale, percent, \
                     accounting_negatives"
                ));
            }
        }
        Ok(())
    }

    /// The judge's name with its version, the tolerances, and the other options that differ from the defaults.
    pub fn name(&self) -> String {
        let others = |numeric: &Numeric| {
            let accounting = numeric.accounting_negatives.to_string();
            [
                ("scale", shown(&SCALES, numeric.scale)),
                ("percent", shown(&PERCENTS, numeric.percent)),
                ("accounting_negatives", accounting),
            ]
        };
        let mut parts = vec![format!("rel_tol={}", self.rel_tol), format!("abs_tol={}", self.abs_tol)];
        let pairs = others(self).into_iter().zip(others(&Numeric::default()));
        parts.extend(pairs.filter(|(own, usual)| own != usual).map(|((name, value), _)| format!("{name}={value}")));
        format!("numeric-v{JUDGE_VERSION}({})", parts.join(","))
    }

    pub(crate) fn judge(&self, gold: &str, response: &str) -> Judgement {
        let (answer, place) = match answer_of(response, false) {
            Ok(found) => found,
            Err(judgement) => return judgement,
        };
        let (Some(wanted), Some(given)) = (self.amount(&reference(gold, false)), self.amount(&answer)) else {
            return Judgement::new(Verdict::Unparsed, Some(answer), place, "no_number");
        };
        let verdict = if self.accepts(&wanted, &given) { Verdict::Correct } else { Verdict::Incorrect };
        Judgement::new(verdict, Some(answer), place, "tolerance")
    }

    fn accepts(&self, wanted: &Amount, given: &Amount) -> bool {
        use Mark::{Nothing, Percent as Sign, Word};
        let bare = match (&wanted.mark, &given.mark) {
            (Word, Nothing) => self.scale != Scale::Value,
            (Sign, Nothing) => self.scale == Scale::FromGold,
            (Nothing, Word) => self.scale == Scale::Ignore,
            (Nothing, Sign) => self.percent == Percent::SignOptional,
            _ => false,
        };
        self.within(&wanted.value, &given.value) || bare && self.within(&wanted.number, &given.number)
    }

    fn within(&self, wanted: &BigRational, given: &BigRational) -> bool {
        let exact = |value: f64| BigRational::from_f64(value).expect("tolerances are finite");
        let allowed = (exact(self.rel_tol) * wanted.abs()).max(exact(self.abs_tol));
        (given - wanted).abs() <= allowed
    }

    fn amount(&self, text: &str) -> Option<Amount> {
        let mut expr = parse::parse(&written::plain(text, self.accounting_negatives), Comma::Auto).ok()?.expr;
        let (mut negative, mut mark, mut factor) = (false, Mark::Nothing, None);
        loop {
            expr = match expr {
                Expr::Quantity(inner, _) => *inner,
                Expr::Rel(..) => names::assignment(&expr)?.1.clone(),
                Expr::Neg(inner) => {
                    negative = !negative;
                    *inner
                }
                Expr::Scaled(inner, by) if factor.is_none() => {
                    (mark, factor) = (Mark::Word, Some(by));
                    *inner
                }
                Expr::Percent(inner) if factor.is_none() => {
                    (mark, factor) = (Mark::Percent, Some(BigRational::new(1.into(), 100.into())));
                    *inner
                }
                other => {
                    expr = other;
                    break;
                }
            };
        }
        let size = value(&expr)?;
        let number = if negative { -size } else { size };
        let value = factor.map_or_else(|| number.clone(), |factor| &number * factor);
        Some(Amount { number, value, mark })
    }
}

/// A number, and what it is worth with what stands behind it.
struct Amount {
    number: BigRational,
    value: BigRational,
    mark: Mark,
}

/// What stands behind a number and multiplies it.
enum Mark {
    Nothing,
    Word,
    Percent,
}

/// The value of a tree as an exact number, or close to it.
pub(crate) fn value(expr: &Expr) -> Option<BigRational> {
    if let Some(value) = identity::rational(expr) {
        return Some(value);
    }
    let point = Point { values: &[], precision: 256 };
    let value = eval(expr, &point, &mut Budget::new(20_000)).ok().filter(|value| value.im.contains_zero())?;
    let (mantissa, exponent) = value.re.midpoint();
    if exponent.abs() > 10_000 {
        return None;
    }
    let mantissa = BigRational::from_integer(mantissa.clone());
    Some(mantissa * num_traits::Pow::pow(BigRational::from_integer(2.into()), exponent as i32))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(settings: &[(&str, &str)], gold: &str, answer: &str) -> Verdict {
        let mut judge = Numeric::default();
        for (name, value) in settings {
            judge.set(name, value).expect("an option");
        }
        judge.judge(gold, &format!("So it is \\boxed{{{answer}}}.")).verdict
    }

    /// Gold, answer, and whether it is right under `scale` `value`, `ignore` and `from_gold`.
    const SCALED: [(&str, &str, [bool; 3]); 12] = [
        ("24 million", "24000000", [true, true, true]),
        ("24 million", "24 million", [true, true, true]),
        ("24 million", "24", [false, true, true]),
        ("24", "24 million", [false, true, false]),
        ("24 million", "24 billion", [false, false, false]),
        ("24 million", "25", [false, false, false]),
        ("-12.6 million", "-12.6", [false, true, true]),
        ("-12.6 million", "12.6", [false, false, false]),
        ("-12.6 million", "-\\$12.6M", [true, true, true]),
        ("-22.22 percent", "-22.22", [false, false, true]),
        ("-22.22 percent", "-0.2222", [true, true, true]),
        ("-22.22 percent", "22.22\\%", [false, false, false]),
    ];

    #[test]
    fn scale_words() {
        for (gold, answer, right) in SCALED {
            for (scale, right) in ["value", "ignore", "from_gold"].into_iter().zip(right) {
                let verdict = judged(&[("scale", scale)], gold, answer);
                let wanted = if right { Verdict::Correct } else { Verdict::Incorrect };
                assert_eq!(verdict, wanted, "gold {gold}, answer {answer}, scale {scale}");
            }
        }
    }

    #[test]
    fn percent_signs_and_accountants() {
        assert_eq!(judged(&[], "20", "20\\%"), Verdict::Incorrect);
        assert_eq!(judged(&[("percent", "sign_optional")], "20", "20\\%"), Verdict::Correct);
        assert_eq!(judged(&[("percent", "sign_optional")], "0.2", "20\\%"), Verdict::Correct);
        assert_eq!(judged(&[("percent", "sign_optional")], "20", "2000\\%"), Verdict::Correct, "by value");
        assert_eq!(judged(&[], "-12.6", "(12.6)"), Verdict::Incorrect);
        assert_eq!(judged(&[("accounting_negatives", "true")], "-12.6", "(12.6)"), Verdict::Correct);
    }

    #[test]
    fn tolerances_are_of_what_is_compared() {
        assert_eq!(judged(&[("rel_tol", "0.01"), ("scale", "from_gold")], "12.5 million", "12.55"), Verdict::Correct);
        assert_eq!(judged(&[("rel_tol", "0.01")], "12.5 percent", "0.1255"), Verdict::Correct);
        assert_eq!(judged(&[("rel_tol", "0.01")], "12.5 percent", "0.13"), Verdict::Incorrect);
        assert_eq!(judged(&[("abs_tol", "0.5")], "10", "10.5"), Verdict::Correct);
        assert_eq!(judged(&[], "10", "ten apples or so"), Verdict::Unparsed);
    }

    #[test]
    fn names_say_what_differs_and_mistakes_are_told() {
        let mut judge = Numeric::default();
        assert_eq!(judge.name(), format!("numeric-v{JUDGE_VERSION}(rel_tol=0.000001,abs_tol=0)"));
        for (name, value) in [("scale", "from_gold"), ("rel_tol", "0.01"), ("percent", "sign_optional")] {
            judge.set(name, value).expect("an option");
        }
        let wanted = "(rel_tol=0.01,abs_tol=0,scale=from_gold,percent=sign_optional)";
        assert_eq!(judge.name(), format!("numeric-v{JUDGE_VERSION}{wanted}"));
        for (name, value) in [("scales", "value"), ("scale", "gold"), ("rel_tol", "-1"), ("abs_tol", "nan")] {
            let message = judge.set(name, value).expect_err("a mistake");
            assert!(message.contains(name), "{message}");
        }
    }
}
