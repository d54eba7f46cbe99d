//! judge: the verifier alone, over JSON lines. Lines are read, judged on all cores and printed in bounded chunks, in order;
//! what has arrived is judged before more is waited for, so it may stand in a pipe.

use super::{args, policies, render};
use crate::judge::{Case, Judge, JudgeSpec, Setting};
use crate::stage::ingest;
use mindgap_base::error::{Error, Result};
use mindgap_store::fs;
use rayon::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// Input that is judged and printed at once, in bytes; a longer line is a chunk of its own.
const CHUNK_BYTES: usize = 1 << 20;

/// No response is longer than this: the input is not JSON lines.
const LINE_LIMIT: u64 = 64 << 20;

/// A line with its number from 0.
type Line = (usize, Vec<u8>);

#[derive(Default, Deserialize)]
struct Pair {
    #[serde(default)]
    id: Value,
    /// Text, a number, a list, or a whole solution.
    gold: Value,
    response: String,
    /// What follows is for commands.
    #[serde(default)]
    source: String,
    #[serde(default)]
    question: String,
    #[serde(default)]
    meta: Value,
}

pub fn judge(args: args::Judge) -> Result<()> {
    let mut options = args.option.iter().map(|option| setting(option)).collect::<Result<BTreeMap<_, _>>>()?;
    for (name, value) in [("rel_tol", args.rel_tol), ("abs_tol", args.abs_tol)] {
        options.extend(value.map(|value| (name.to_string(), Setting::Decimal(value))));
    }
    let judge = JudgeSpec { kind: args.judge, options }.judge(Path::new("."))?;
    judge.check_machine()?;
    if let (Some(gold), Some(response)) = (args.gold, args.answer) {
        return render::json(&verdict(&judge, &Pair { gold: Value::from(gold), response, ..Pair::default() })?);
    }
    let file = args.file.expect("clap requires a file or a pair");
    let source: Box<dyn Read> =
        if file.as_os_str() == "-" { Box::new(std::io::stdin().lock()) } else { Box::new(fs::open(&file)?) };
    let mut reader = BufReader::with_capacity(CHUNK_BYTES, source);
    let mut number = 0;
    while let Some(lines) = next_lines(&mut reader, &file, &mut number)? {
        let answer = |(number, line): &Line| -> Result<String> {
            let line = std::str::from_utf8(line)
                .map_err(|_| Error::input("not UTF-8").at(format!("{}:{}", file.display(), number + 1)))?;
            let pair = policies::parse_line(&file, *number, line)?;
            let judged = verdict(&judge, &pair);
            Ok(judged.map_err(|e| e.at(format!("{}:{}", file.display(), number + 1)))?.to_string())
        };
        let answers: Vec<Result<String>> = lines.par_iter().map(answer).collect();
        // the verdicts in front of a bad line still come out
        let good: Vec<&str> = answers.iter().map_while(|answer| answer.as_deref().ok()).collect();
        if !good.is_empty() {
            render::out(&good.join("\n"))?;
        }
        answers.into_iter().collect::<Result<Vec<_>>>()?;
    }
    Ok(())
}

/// `scale=ignore`
fn setting(option: &str) -> Result<(String, Setting)> {
    let (name, value) = option.split_once('=').ok_or_else(|| {
        Error::usage(format!("`--option {option}` has no value")).hint("write it as NAME=VALUE, such as scale=ignore")
    })?;
    Ok((name.to_string(), Setting::Word(value.to_string())))
}

fn verdict(judge: &Judge, pair: &Pair) -> Result<Value> {
    let Pair { id, response, source, question, meta, .. } = pair;
    let gold = gold(judge, &pair.gold)?;
    let judgement =
        judge.judge(&Case { id: id.clone(), source, question, gold: &gold, response, meta: meta.clone() })?;
    Ok(json!({"id": pair.id, "verdict": judgement.verdict.as_str(), "extracted": judgement.extracted,
        "method": judgement.method, "judge_version": judge.name()}))
}

/// The reference in a line's `gold`, as ingest reads an answer; texts and JSON values that are compared as such stay as they are.
fn gold(judge: &Judge, gold: &Value) -> Result<String> {
    use mindgap_math::Judge as Rules;
    let (is_text, is_json) = match judge {
        Judge::Rules(Rules::Json | Rules::ToolCall { .. }) | Judge::Schema(_) | Judge::Command(_) => (true, true),
        Judge::Rules(Rules::Exact | Rules::Program { .. }) => (true, false),
        Judge::Rules(_) => (false, false),
    };
    match gold {
        Value::String(text) if is_text => Ok(text.clone()),
        value if is_json => Ok(value.to_string()),
        value if is_text => ingest::answer(value).map_err(Error::input),
        value => ingest::gold(value).map_err(Error::input),
    }
}

/// The lines that have arrived, at least one, with their numbers from 0 and without empty ones; none at the end.
/// `number` counts the lines read so far.
fn next_lines(reader: &mut BufReader<Box<dyn Read>>, file: &Path, number: &mut usize) -> Result<Option<Vec<Line>>> {
    let mut lines = Vec::new();
    let mut bytes = 0;
    let here = |number: usize| format!("{}:{}", file.display(), number + 1);
    loop {
        let mut line = Vec::new();
        let count = reader
            .by_ref()
            .take(LINE_LIMIT)
            .read_until(b'\n', &mut line)
            .map_err(|e| Error::environment("cannot read").at(here(*number)).source(e))?;
        if count == 0 {
            return Ok(if bytes == 0 { None } else { Some(lines) });
        }
        if count as u64 == LINE_LIMIT && line.last() != Some(&b'\n') {
            return Err(Error::input(format!("a line longer than {} MiB", LINE_LIMIT >> 20)).at(here(*number)));
        }
        bytes += count;
        if !line.trim_ascii().is_empty() {
            lines.push((*number, line));
        }
        *number += 1;
        if bytes >= CHUNK_BYTES || !reader.buffer().contains(&b'\n') {
            return Ok(Some(lines));
        }
    }
}
