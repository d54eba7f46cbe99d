//! One row to one problem.

use super::answers::{NoAnswer, is_prose, no_answer};
use super::fields::{self, Field};
use super::{Input, Mapping, choices, clean, values};
use mindgap_math::{boxed_answers, concluded_answer, is_bare_answer, stated_answer};
use mindgap_store::table::problems::Problem;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Longest remaining field that is kept in `meta`, in bytes of JSON.
const META_FIELD_BYTES: usize = 256;

/// One row to one problem, or the reason why not.
pub fn problem(input: &Input, row: &Map<String, Value>) -> Result<Problem, String> {
    let mapping = input.mapping;
    let mut used = BTreeSet::new();
    let mut find = |field: Field, named: &Option<String>| {
        let found = fields::find(row, field, named.as_deref())?;
        used.insert(found.0);
        Some(found)
    };
    let question = find(Field::Question, &mapping.question);
    let given = find(Field::Answer, &mapping.answer);
    let scale = find(Field::Scale, &mapping.scale).and_then(|(_, value)| value.as_str());
    let id = find(Field::Id, &mapping.id).map(|(_, value)| value.clone());
    let source = mapping.source.as_ref().and_then(|name| find(Field::Source, &Some(name.clone())));

    let Some((question_name, question_value)) = question else {
        return Err(format!("no {}", Field::Question.wanted(mapping.question.as_deref())));
    };
    let question = values::question_text(question_value)?;
    if question.trim().is_empty() {
        return Err("empty question".to_string());
    }
    // A question that the pipeline names is taken as it is.
    let whole = match mapping.question {
        Some(_) => choices::Whole { question, choices: Vec::new(), used: Vec::new() },
        None => choices::whole(row, question_name, question)?,
    };
    used.extend(whole.used);
    let Expert { solution, bare } = expert(row, mapping, &mut used)?;
    let is_list = given.is_some_and(|(_, value)| values::is_list(value));
    let given = match given {
        None => None,
        Some((_, value)) if mapping.verbatim => values::verbatim_text(value),
        Some((_, value)) => match values::answer_text(&values::scaled(value, scale))? {
            Some(text) => Some(choices::answer(&whole.choices, value, text)?),
            None => None,
        },
    };
    let (answer, solution) = match mapping.verbatim {
        true => (given.ok_or_else(|| missing(mapping, solution.is_some()))?, solution),
        false => reference(given, is_list, solution, bare.as_deref(), mapping)?,
    };
    let is_answer = |text: &String| text.trim() == answer;
    let (solution, bare) = match solution {
        Some(text) if is_answer(&text) => (None, bare.or(Some(text))),
        other => (other, bare),
    };
    let source = match source {
        Some((_, Value::String(name))) if !name.trim().is_empty() => name.clone(),
        Some(_) => return Err(format!("`{}` does not name a source", mapping.source.as_deref().unwrap_or_default())),
        None => input.source.to_string(),
    };
    let mut meta: Map<String, Value> = id.map(|id| ("id".to_string(), id)).into_iter().collect();
    let mut keep = |name: &str, value: Option<Value>| meta.extend(value.map(|value| (name.to_string(), value)));
    keep("system", values::system_text(question_value).map(Value::from));
    keep("bare_solution", bare.map(Value::from));
    let cleaned = solution.as_deref().and_then(|solution| clean::cleaned(input.clean, solution, &answer));
    let solution = match cleaned {
        None => solution,
        Some(cleaned) => {
            keep("original_solution", solution.map(Value::from));
            keep("cleaned", Some(cleaned.rules.iter().map(|rule| rule.as_str()).collect()));
            Some(cleaned.solution)
        }
    };
    add_rest(&mut meta, row, &used, &whole.question);
    let meta = (!meta.is_empty()).then(|| Value::Object(meta).to_string());
    let problem_id = Problem::id(&whole.question, &answer);
    Ok(Problem { problem_id, source, question: whole.question, solution, answer, meta })
}

/// What a row has of an expert's.
struct Expert {
    solution: Option<String>,
    /// A text in a solution's place that is an answer and no work. One in a box counts as a solution: samples of it end as
    /// they should, and the gap stage warns of answers alone.
    bare: Option<String>,
}

/// The first text that is a worked solution, and the first that is only an answer.
fn expert<'r>(row: &'r Map<String, Value>, mapping: &Mapping, used: &mut BTreeSet<&'r str>) -> Result<Expert, String> {
    let (mut bare, mut refused) = (None, None);
    for ((name, value), is_spelled) in fields::solutions(row, mapping.solution.as_deref()) {
        match values::solution_text(value) {
            Ok(Some(text)) if is_bare_answer(&text) && boxed_answers(&text).is_empty() => {
                used.extend(is_spelled.then_some(name));
                bare = bare.or(is_spelled.then_some(text));
            }
            // What only its name speaks for has to look like a text.
            Ok(Some(text)) if is_spelled || is_text(&text) => {
                used.insert(name);
                return Ok(Expert { solution: Some(text), bare });
            }
            Err(reason) if is_spelled => drop(refused.get_or_insert(reason)),
            _ => {}
        }
    }
    match refused {
        Some(reason) if bare.is_none() => Err(reason),
        _ => Ok(Expert { solution: None, bare }),
    }
}

/// True for words with spaces between them that are no JSON.
fn is_text(text: &str) -> bool {
    let text = text.trim();
    text.contains(char::is_whitespace) && serde_json::from_str::<Value>(text).is_err()
}

/// The reference answer, and the expert's solution where the answer's field held it.
fn reference(
    given: Option<String>,
    is_list: bool,
    solution: Option<String>,
    bare: Option<&str>,
    mapping: &Mapping,
) -> Result<(String, Option<String>), String> {
    // A field that says there is no answer is believed where something is to be proved; else another field may have it.
    let denied = given.as_deref().and_then(|text| Some((text.trim().to_string(), no_answer(text)?)));
    if let Some((word, NoAnswer::Proof)) = &denied {
        return Err(format!("no gold answer: it says `{word}`"));
    }
    let (answer, solution) = match given.filter(|_| denied.is_none()) {
        Some(text) => worked(text, is_list, solution)?,
        None => {
            let answer = bare.map(|text| gold(text, false)).or_else(|| solution.as_deref().and_then(stated_answer));
            (answer.unwrap_or_default(), solution)
        }
    };
    let answer = answer.trim().to_string();
    let word = match (no_answer(&answer), denied) {
        (Some(_), _) => &answer,
        (None, Some((word, _))) if answer.is_empty() => &word.clone(),
        _ if answer.is_empty() => return Err(missing(mapping, solution.is_some())),
        _ => return Ok((answer, solution)),
    };
    match word.to_ascii_lowercase().trim_start_matches(['+', '-']) {
        "nan" => Err("the answer is not a number (`NaN`)".to_string()),
        _ => Err(format!("no gold answer: it says `{word}`")),
    }
}

/// The final answer in the text of an answer's field: a worked solution is the expert's, unless the row has another, and the
/// answer is what it states. What is listed is answers, be they sentences.
fn worked(text: String, is_list: bool, solution: Option<String>) -> Result<(String, Option<String>), String> {
    let answer = match stated_answer(&text) {
        Some(answer) => answer,
        None if !is_list && is_prose(&text) => concluded_answer(&text).ok_or(
            "no gold answer: the answer is a worked text that states none, and its last sentence has not one number",
        )?,
        None => return Ok((text, solution)),
    };
    let solution = solution.or_else(|| (!is_bare_answer(&text)).then_some(text));
    Ok((answer, solution))
}

/// The reference in a text that is one, or a whole solution unless it was listed.
pub fn gold(text: &str, is_list: bool) -> String {
    let concluded = || concluded_answer(text).filter(|_| !is_list && is_prose(text));
    stated_answer(text).or_else(concluded).unwrap_or_else(|| text.to_string())
}

fn missing(mapping: &Mapping, has_solution: bool) -> String {
    let wanted = Field::Answer.wanted(mapping.answer.as_deref());
    match has_solution {
        true => {
            format!("no gold answer: no {wanted}, and the solution has no `\\boxed{{}}`, no `####` and announces none")
        }
        false => format!("no gold answer: no {wanted}, and no solution to take it from"),
    }
}

/// Adds what remains of the row, as far as it is small and does not repeat the question. A system prompt is kept whole.
fn add_rest(meta: &mut Map<String, Value>, row: &Map<String, Value>, used: &BTreeSet<&str>, question: &str) {
    for (name, value) in row {
        let is_small = name == "system" || value.to_string().len() <= META_FIELD_BYTES;
        let is_news = !value.is_null() && value.as_str() != Some(question) && is_small;
        if is_news && !used.contains(name.as_str()) && !meta.contains_key(name) {
            meta.insert(name.clone(), values::binary_as_text(value));
        }
    }
}
