//! judge: the verdict on one response, by one of several kinds of judge.

use super::JUDGE_VERSION;
use crate::answers::compared;
use crate::json;
use crate::numeric::Numeric;
use crate::options::{Options, flag};
use crate::read::extract::{self, Found};
use crate::read::letters::{self, Choice};
use crate::read::lex::Comma;
use crate::read::parse;
use crate::{program, tool_call};

/// What the judge says of one response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The final answer equals the reference answer.
    Correct,
    /// It does not.
    Incorrect,
    /// The response holds no final answer, or only the beginning of one.
    NoAnswer,
    /// There is a final answer, but it cannot be read.
    Unparsed,
    /// The comparison did not end within the step budget.
    BudgetExceeded,
}

impl Verdict {
    /// All verdicts.
    pub const ALL: [Verdict; 5] =
        [Verdict::Correct, Verdict::Incorrect, Verdict::NoAnswer, Verdict::Unparsed, Verdict::BudgetExceeded];

    /// The verdict of a name.
    pub fn named(name: &str) -> Option<Verdict> {
        Verdict::ALL.into_iter().find(|verdict| verdict.as_str() == name)
    }

    /// The name used in tables and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Correct => "correct",
            Verdict::Incorrect => "incorrect",
            Verdict::NoAnswer => "no_answer",
            Verdict::Unparsed => "unparsed",
            Verdict::BudgetExceeded => "budget_exceeded",
        }
    }
}

/// How answers are compared; chosen per problem table.
#[derive(Debug, Clone, PartialEq)]
pub enum Judge {
    /// Mathematical equality.
    Math(Options),
    /// The same text, up to white space around it.
    Exact,
    /// Numbers within a tolerance.
    Numeric(Numeric),
    /// A multiple-choice letter.
    Choice,
    /// Equal JSON values; the order of keys does not matter.
    Json,
    /// The calls of tools, by names and arguments.
    ToolCall {
        /// Their order counts.
        ordered: bool,
    },
    /// A program in FinQA's language, by its result.
    Program {
        /// By its steps.
        text: bool,
    },
}

/// A verdict with its evidence.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// The final answer found in the response.
    pub extracted: Option<String>,
    /// Where the answer was found and how equality was decided: `boxed/rational`.
    pub method: String,
}

impl Judgement {
    pub(crate) fn new(verdict: Verdict, extracted: Option<String>, place: &str, how: &str) -> Judgement {
        let method = if how.is_empty() { place.to_string() } else { [place, "/", how].concat() };
        Judgement { verdict, extracted, method }
    }
}

impl Judge {
    /// The judge of a kind with settings by name: `math` takes the options of [`Options::set`], `numeric` those of [`Numeric::set`],
    /// `tool_call` takes `ordered` (true unless set), `program` takes `text` (false unless set), the others take none.
    ///
    /// # Errors
    /// When there is no such kind, or it has no such setting or value; the message says what there is.
    pub fn of<'a>(kind: &str, settings: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Judge, String> {
        let kinds = [
            ("math", Judge::Math(Options::default())),
            ("exact", Judge::Exact),
            ("numeric", Judge::Numeric(Numeric::default())),
            ("choice", Judge::Choice),
            ("json", Judge::Json),
            ("tool_call", Judge::ToolCall { ordered: true }),
            ("program", Judge::Program { text: false }),
        ];
        let known = kinds.each_ref().map(|(known, _)| *known).join(", ");
        let found = kinds.into_iter().find(|(known, _)| *known == kind);
        let (_, mut judge) = found.ok_or_else(|| format!("there is no judge `{kind}`; there are {known}"))?;
        for (name, value) in settings {
            match (&mut judge, name) {
                (Judge::Math(options), _) => options.set(name, value)?,
                (Judge::Numeric(numeric), _) => numeric.set(name, value)?,
                (Judge::ToolCall { ordered }, "ordered") => *ordered = flag(name, value)?,
                (Judge::Program { text }, "text") => *text = flag(name, value)?,
                (Judge::ToolCall { .. }, _) => return Err(unknown_option(kind, name, "it has ordered")),
                (Judge::Program { .. }, _) => return Err(unknown_option(kind, name, "it has text")),
                _ => return Err(unknown_option(kind, name, "it has none")),
            }
        }
        Ok(judge)
    }

    /// Judges one response; total on any input.
    pub fn judge(&self, gold: &str, response: &str) -> Judgement {
        match self {
            Judge::Math(options) => mathematics(options, gold, response),
            Judge::Exact => exact(gold, response),
            Judge::Numeric(numeric) => numeric.judge(gold, response),
            Judge::Choice => choice(gold, response),
            Judge::Json => structured(gold, response),
            Judge::ToolCall { ordered } => tool_call::judge(*ordered, gold, response),
            Judge::Program { text } => program::judge(*text, gold, response),
        }
    }

    /// The judge's name with its version and the options that differ from the defaults; part of fingerprints.
    pub fn name(&self) -> String {
        match self {
            Judge::Math(options) => match options.differing() {
                differing if differing.is_empty() => format!("math-v{JUDGE_VERSION}"),
                differing => format!("math-v{JUDGE_VERSION}({differing})"),
            },
            Judge::Exact => format!("exact-v{JUDGE_VERSION}"),
            Judge::Numeric(numeric) => numeric.name(),
            Judge::Choice => format!("choice-v{JUDGE_VERSION}"),
            Judge::Json => format!("json-v{JUDGE_VERSION}"),
            Judge::ToolCall { ordered: true } => format!("tool_call-v{JUDGE_VERSION}"),
            Judge::ToolCall { ordered: false } => format!("tool_call-v{JUDGE_VERSION}(ordered=false)"),
            Judge::Program { text: false } => format!("program-v{JUDGE_VERSION}"),
            Judge::Program { text: true } => format!("program-v{JUDGE_VERSION}(text=true)"),
        }
    }
}

fn unknown_option(kind: &str, name: &str, has: &str) -> String {
    format!("the judge `{kind}` has no option `{name}`; {has}")
}

/// The response's answer, or the judgement that there is none.
pub(crate) fn answer_of(response: &str, join: bool) -> FoundAnswer {
    match extract::final_answer(response, join) {
        Found::Answer(text, place) => Ok((text, place)),
        Found::Withheld(text, place) => Err(Judgement::new(Verdict::NoAnswer, text, place, "")),
        Found::Nothing => Err(Judgement::new(Verdict::NoAnswer, None, "none", "")),
    }
}

/// The text of a reference: bare, in dollars, or a solution with a box.
pub(crate) fn reference(gold: &str, join: bool) -> String {
    if extract::boxes(gold).is_empty() {
        let gold = gold.trim();
        return gold.to_string();
    }
    match extract::final_answer(gold, join) {
        Found::Answer(text, "boxed") if extract::percent_follows(gold) => text + "\\%",
        Found::Answer(text, _) => text,
        _ => gold.trim().to_string(),
    }
}

/// The verdict of the judge `math`.
pub fn mathematics(options: &Options, gold: &str, response: &str) -> Judgement {
    let gold = reference(gold, options.join_boxes);
    decided(options, &gold, response, answer_of(response, options.join_boxes))
}

/// True when two answers are the same; nothing is extracted of either.
pub fn equal(options: &Options, gold: &str, answer: &str) -> bool {
    decided(options, gold, answer, Ok((answer.to_string(), "whole"))).verdict == Verdict::Correct
}

/// The judgement of what was found in a response.
fn decided(options: &Options, gold: &str, response: &str, found: FoundAnswer) -> Judgement {
    if options.choice_letters
        && let Some(judgement) = chosen(options, gold, response, &found)
    {
        return judgement;
    }
    let (answer, place) = match found {
        Ok(found) => found,
        Err(judgement) => return judgement,
    };
    let (verdict, how) = compared(options, gold, &answer);
    Judgement::new(verdict, Some(answer), place, how)
}

pub(crate) type FoundAnswer = Result<(String, &'static str), Judgement>;

/// The judgement of a response to a reference that is a choice, with or without its value.
fn chosen(options: &Options, gold: &str, response: &str, found: &FoundAnswer) -> Option<Judgement> {
    let place = found.as_ref().map_or("text", |(_, place)| place);
    let judged = |right: bool, given: String, how: &str| {
        let verdict = if right { Verdict::Correct } else { Verdict::Incorrect };
        Some(Judgement::new(verdict, Some(given), place, how))
    };
    if let Some(wanted) = only_choice(gold) {
        let given = given_choice(response, found, wanted.count() > 1)?;
        return judged(given.same(wanted), given.shown(), "choice");
    }
    let (wanted, value) = letters::lettered(gold)?;
    let Ok((answer, _)) = found else { return None };
    if let Some((given, other)) = letters::lettered(answer) {
        let right = given.same(wanted) && compared(options, value, other).0 == Verdict::Correct;
        return judged(right, answer.clone(), "choice");
    }
    if let Some(given) = letters::choice(answer).or_else(|| letters::small_choice(answer)).filter(|given| given.alone) {
        return judged(given.same(wanted), given.shown(), "choice");
    }
    let (verdict, how) = compared(options, value, answer);
    Some(Judgement::new(verdict, Some(answer.clone()), place, how))
}

/// The choice of a response. A reference of several letters may be a name (`AB`): then only letters alone are a choice.
fn given_choice(response: &str, found: &FoundAnswer, several: bool) -> Option<Choice> {
    let (answer, place) = match found {
        Ok((answer, place)) => (answer, *place),
        Err(judgement) if judgement.method == "none" && !several => return letters::chosen(response),
        Err(_) => return None,
    };
    let own = letters::choice(answer).or_else(|| letters::small_choice(answer));
    if several {
        return own.filter(|own| own.alone);
    }
    let own = own.or_else(|| letters::trailing_choice(answer));
    match place {
        "math" | "whole" => own,
        "boxed" | "boxes" | "boxed_unclosed" => own.or_else(|| letters::named_behind_box(response)),
        _ => own.or_else(|| letters::chosen(response)),
    }
}

/// A reference that is a choice and nothing else: capital letters, with or without brackets and fonts.
fn only_choice(gold: &str) -> Option<Choice> {
    letters::choice(gold).filter(|choice| choice.alone)
}

/// True when an answer has a tree.
pub fn readable(answer: &str) -> bool {
    only_choice(answer).is_some() || parse::parse(&reference(answer, true), Comma::Auto).is_ok()
}

fn exact(gold: &str, response: &str) -> Judgement {
    let gold = super::last_boxed(gold).unwrap_or(gold).trim();
    let response = extract::answer_part(response).unwrap_or_default();
    let (place, answer) = match extract::boxes(response).pop() {
        Some(span) if span.closed => ("boxed", response[span.content].trim()),
        Some(_) => return Judgement::new(Verdict::NoAnswer, None, "boxed/truncated", ""),
        None => ("whole", response.trim()),
    };
    if answer.is_empty() {
        return Judgement::new(Verdict::NoAnswer, None, place, "empty");
    }
    let verdict = if gold == answer { Verdict::Correct } else { Verdict::Incorrect };
    Judgement::new(verdict, Some(answer.to_string()), place, "string")
}

fn choice(gold: &str, response: &str) -> Judgement {
    let gold = reference(gold, false);
    let wanted = letters::choice(&gold).or_else(|| letters::small_choice(&gold));
    let found = answer_of(response, true);
    let place = found.as_ref().map_or("text", |(_, place)| place);
    match (given_choice(response, &found, false), &found) {
        (Some(given), _) => {
            let same = wanted.is_some_and(|wanted| wanted.same(given));
            let verdict = if same { Verdict::Correct } else { Verdict::Incorrect };
            Judgement::new(verdict, Some(given.shown()), place, "choice")
        }
        (None, Ok((answer, place))) => Judgement::new(Verdict::Unparsed, Some(answer.clone()), place, "no_letter"),
        (None, Err(judgement)) => judgement.clone(),
    }
}

/// JSON from the last fenced block, the last box, or the whole text.
fn structured(gold: &str, response: &str) -> Judgement {
    let (text, place) = json::located(extract::answer_part(response).unwrap_or_default());
    if text.trim().is_empty() {
        return Judgement::new(Verdict::NoAnswer, None, place, "empty");
    }
    let Some(given) = json::parse(text) else {
        return Judgement::new(Verdict::Unparsed, Some(text.trim().to_string()), place, "syntax");
    };
    let same = json::parse(json::located(gold).0).is_some_and(|wanted| wanted == given);
    let verdict = if same { Verdict::Correct } else { Verdict::Incorrect };
    Judgement::new(verdict, Some(text.trim().to_string()), place, "json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn judges_have_names_and_settings() {
        let name = |kind: &str, settings: &[(&str, &str)]| Judge::of(kind, settings.iter().copied()).map(|j| j.name());
        let version = |text: &str| Ok(text.replace('#', &JUDGE_VERSION.to_string()));
        assert_eq!(name("math", &[("scale", "ignore")]), version("math-v#(scale=ignore)"));
        assert_eq!(name("numeric", &[("rel_tol", "0.01")]), version("numeric-v#(rel_tol=0.01,abs_tol=0)"));
        for kind in ["math", "exact", "choice", "json", "tool_call", "program"] {
            assert_eq!(name(kind, &[]), version(&format!("{kind}-v#")));
        }
        let mistakes = [
            ("maths", "scale", "ignore"),
            ("exact", "scale", "ignore"),
            ("numeric", "scale", "gold"),
            ("tool_call", "ordered", "perhaps"),
            ("program", "ordered", "true"),
            ("numeric", "abs_tol", "-1"),
            ("numeric", "rel_tol", "nan"),
            ("math", "rel_tol", "0.1"),
        ];
        for (kind, option, value) in mistakes {
            let message = name(kind, &[(option, value)]).expect_err("a mistake");
            assert!(message.contains(kind) || message.contains(value) || message.contains(option), "{message}");
        }
    }

    #[test]
    fn answers_are_equal_as_the_judge_says() {
        let options = Options::default();
        let same =
            [("1/2", "0.5"), ("x = 3", "3"), ("(D) 25", "D"), ("B", "(b)"), ("A, C", "C, A"), ("10 cm", "0.1 m")];
        for (gold, answer) in same {
            assert!(equal(&options, gold, answer), "{gold} and {answer}");
        }
        for (gold, answer) in [("1/2", "0.6"), ("A, C", "A"), ("52 cm", "52 km"), ("5", ""), ("5", "\\boxed{5")] {
            assert!(!equal(&options, gold, answer), "{gold} and {answer}");
        }
    }

    #[test]
    fn verdicts_have_names() {
        for verdict in Verdict::ALL {
            assert_eq!(Verdict::named(verdict.as_str()), Some(verdict));
        }
        assert_eq!(Verdict::named("right"), None);
    }
}
