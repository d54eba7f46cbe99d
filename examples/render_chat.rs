//! Renders chat templates, one JSON object per line from stdin to stdout: `{"template", "tokens", "messages", "generation",
//! "kwargs"}` in, `{"text"}` or `{"error"}` out. `tests/peers/templates.py` compares them with transformers'.

#![expect(clippy::print_stdout, reason = "a program of its own")]

use mindgap_base::error::{Error, Result};
use mindgap_lm::model::chat::{ChatTemplate, Message};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, stdin};

#[derive(Deserialize)]
struct Case {
    template: String,
    tokens: BTreeMap<String, String>,
    messages: Vec<Message>,
    generation: bool,
    kwargs: Value,
}

fn main() -> Result<()> {
    for line in stdin().lock().lines() {
        let line = line.map_err(|e| Error::environment("cannot read stdin").source(e))?;
        let case: Case = serde_json::from_str(&line).map_err(|e| Error::input(format!("bad JSON line: {e}")))?;
        let text = ChatTemplate::new(&case.template, case.tokens)
            .and_then(|template| template.render(&case.messages, case.generation, &case.kwargs));
        println!(
            "{}",
            match text {
                Ok(text) => json!({ "text": text }),
                Err(error) => json!({"error": error.to_string()}),
            }
        );
    }
    Ok(())
}
