//! schema: JSON that fits a JSON schema, the same one for all problems or each problem's own reference.

use jsonschema::{PatternOptions, Validator};
use mindgap_base::address::Address;
use mindgap_base::error::{Error, Result};
use mindgap_math::{Judgement, Verdict, located_json};
use mindgap_store::fs;
use serde_json::Value;
use std::path::Path;

const VERSION: u32 = 1;

/// The judge. Schemas are of any draft, say which by `$schema` (2020-12 where they don't), and refer to nothing outside of
/// themselves.
pub struct Schema {
    /// The schema of all problems, and the address of its file.
    common: Option<(Validator, Address)>,
}

impl Schema {
    /// Errors: a file that cannot be read, or is no JSON schema.
    pub fn new(file: Option<&Path>) -> Result<Schema> {
        let Some(path) = file else { return Ok(Schema { common: None }) };
        let at = || path.display().to_string();
        let bytes = fs::read(path)?;
        let value =
            serde_json::from_slice(&bytes).map_err(|e| Error::input("schema is not JSON").at(at()).source(e))?;
        let validator = compiled(&value).map_err(|why| Error::input(format!("no JSON schema: {why}")).at(at()))?;
        Ok(Schema { common: Some((validator, Address::of(&bytes))) })
    }

    pub fn name(&self) -> String {
        match &self.common {
            None => format!("schema-v{VERSION}"),
            Some((_, address)) => format!("schema-v{VERSION}(schema={})", address.short()),
        }
    }

    /// A reference that is no schema accepts nothing: `unparsed`, as JSON that cannot be read.
    pub fn judge(&self, gold: &str, response: &str) -> Judgement {
        let (text, place) = located_json(response);
        let text = text.trim();
        let judged = |verdict, method: String| Judgement { verdict, extracted: Some(text.to_string()), method };
        if text.is_empty() {
            return Judgement { verdict: Verdict::NoAnswer, extracted: None, method: format!("{place}/empty") };
        }
        let Ok(value) = serde_json::from_str::<Value>(text) else {
            return judged(Verdict::Unparsed, format!("{place}/syntax"));
        };
        let own;
        let validator = match &self.common {
            Some((validator, _)) => validator,
            None => match serde_json::from_str(gold).ok().and_then(|schema| compiled(&schema).ok()) {
                Some(validator) => {
                    own = validator;
                    &own
                }
                None => return judged(Verdict::Unparsed, "gold/schema".to_string()),
            },
        };
        match validator.validate(&value) {
            Ok(()) => judged(Verdict::Correct, format!("{place}/schema")),
            Err(error) => judged(Verdict::Incorrect, format!("{place}/schema: {}", error.kind().keyword())),
        }
    }
}

/// Patterns are matched in time linear in the text, without back-references: a schema or a response cannot stall a run.
fn compiled(schema: &Value) -> Result<Validator, String> {
    if !(schema.is_object() || schema.is_boolean()) {
        return Err("a schema is an object, true or false".to_string());
    }
    let options = jsonschema::options().with_pattern_options(PatternOptions::regex());
    options.build(schema).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERSON: &str = r#"{"type": "object", "required": ["name"], "additionalProperties": false,
        "properties": {"name": {"type": "string", "pattern": "^[A-Z]"}, "age": {"type": "integer", "minimum": 0}}}"#;

    #[track_caller]
    fn check(gold: &str, response: &str, verdict: Verdict, method: &str) {
        let judged = Schema::new(None).unwrap().judge(gold, response);
        assert_eq!((judged.verdict, judged.method.as_str()), (verdict, method), "{response}");
    }

    #[test]
    fn json_fits_or_says_the_keyword() {
        check(PERSON, r#"{"name": "Ada", "age": 36}"#, Verdict::Correct, "whole/schema");
        check(PERSON, "Here:\n```json\n{\"name\": \"Ada\"}\n```", Verdict::Correct, "fence/schema");
        check(PERSON, r#"{"age": 36}"#, Verdict::Incorrect, "whole/schema: required");
        check(PERSON, r#"{"name": "Ada", "age": -1}"#, Verdict::Incorrect, "whole/schema: minimum");
        check(PERSON, r#"{"name": "ada"}"#, Verdict::Incorrect, "whole/schema: pattern");
        check(PERSON, r#"{"name": "Ada", "x": 1}"#, Verdict::Incorrect, "whole/schema: additionalProperties");
        check(PERSON, "<think>{}</think>{\"name\": \"Ada\"}", Verdict::Correct, "whole/schema");
    }

    #[test]
    fn nothing_is_right_by_mistake() {
        check(PERSON, r#"{"name": "Ada""#, Verdict::Unparsed, "whole/syntax");
        check(PERSON, "", Verdict::NoAnswer, "whole/empty");
        check("no schema", "{}", Verdict::Unparsed, "gold/schema");
        check(r#"{"type": "objekt"}"#, "{}", Verdict::Unparsed, "gold/schema");
        check("[]", "{}", Verdict::Unparsed, "gold/schema");
        // a schema elsewhere is not fetched
        check(r#"{"$ref": "http://127.0.0.1:9/schema.json"}"#, "{}", Verdict::Unparsed, "gold/schema");
        check(r#"{"$ref": "file:///etc/hostname"}"#, "{}", Verdict::Unparsed, "gold/schema");
    }

    #[test]
    fn patterns_do_not_stall() {
        let schema = r#"{"type": "string", "pattern": "^(a+)+$"}"#;
        check(schema, &format!("\"{}!\"", "a".repeat(5_000)), Verdict::Incorrect, "whole/schema: pattern");
        // what linear time cannot do is no schema
        check(r#"{"pattern": "(a)\\1"}"#, "\"aa\"", Verdict::Unparsed, "gold/schema");
    }
}
