//! Prompt templates: minijinja over the columns of a problem, as one turn of the user's or as a whole conversation; a judge's also
//! over the response that it judges. The bytes of the file are part of the recipe.

use crate::params::typed;
use mindgap_base::error::{Error, Result};
use mindgap_base::fingerprint::Recipe;
use mindgap_lm::model::chat::{Conversation, Message, bounds};
use mindgap_store::table::problems::Problem;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior, Value, context};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use std::collections::BTreeSet;

/// A compiled prompt template.
pub struct Template {
    environment: Environment<'static>,
    /// Roles of the turns; turn `i` is compiled under the name `place(i)`.
    roles: Vec<Role>,
    has_prefill: bool,
    template_kwargs: Map<String, Json>,
    text: String,
    /// What the recipe calls the text.
    field: &'static str,
}

/// The problem as it is.
pub const PLAIN: &str = "{{ question }}";

/// What a prompt may name: the columns of a problem.
const COLUMNS: &[&str] = &["question", "solution", "answer", "source", "meta"];
/// What a judge's prompt may name.
const JUDGED: &[&str] = &["question", "solution", "answer", "source", "meta", RESPONSE];
const RESPONSE: &str = "response";
/// Functions that every template has.
const GLOBALS: [&str; 3] = ["range", "namespace", "dict"];
const PREFILL: &str = "prefill";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    System,
    User,
    Assistant,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }
}

/// A conversation file, `template_kwargs` aside.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    system: Option<String>,
    prefill: Option<String>,
    #[serde(default)]
    messages: Vec<Turn>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Turn {
    role: Role,
    content: String,
}

impl Template {
    /// One turn of the user's.
    pub fn new(text: &str) -> Result<Template> {
        let mut environment = environment();
        bounds::add(&mut environment, &place(0), text.to_string(), |e| {
            Error::input(format!("prompt template does not parse: {e}")).hint("templates are minijinja (Jinja2)")
        })?;
        Ok(Template {
            environment,
            roles: vec![Role::User],
            has_prefill: false,
            template_kwargs: Map::new(),
            text: text.to_string(),
            field: "template",
        })
    }

    /// A whole conversation, from a TOML file. What can be known of it is checked: keys, roles, syntax, names of variables.
    pub fn conversation(text: &str) -> Result<Template> {
        let template = Template::turns(text)?;
        template.names(COLUMNS)?;
        Ok(template)
    }

    /// A judge's, of either kind. Errors: as of conversations, and one that does not show the response.
    pub fn of_judge(text: &str, is_conversation: bool) -> Result<Template> {
        let template = if is_conversation { Template::turns(text)? } else { Template::new(text)? };
        match template.names(JUDGED)?.contains(RESPONSE) {
            true => Ok(template),
            false => Err(Error::usage("a judge's prompt template does not show the response")
                .hint("`{{ response }}` is the sample that is judged")),
        }
    }

    fn turns(text: &str) -> Result<Template> {
        let mut table = toml::from_str::<toml::Table>(text)
            .map_err(|e| Error::usage("conversation file is not TOML").report(e.to_string()))?;
        let template_kwargs = table.remove("template_kwargs");
        let file: File = typed(toml::Value::Table(table)).map_err(|misfit| {
            Error::usage(format!("`{}`: {}", misfit.path, misfit.message))
                .hint("keys: `system`, `prefill`, `template_kwargs`, and `[[messages]]` with `role` and `content`")
        })?;
        let File { system, prefill, mut messages } = file;
        if messages.is_empty() {
            messages.push(Turn { role: Role::User, content: PLAIN.to_string() });
        }
        if let Some(content) = system {
            messages.insert(0, Turn { role: Role::System, content });
        }
        let roles: Vec<Role> = messages.iter().map(|turn| turn.role).collect();
        check_roles(&roles)?;
        let mut template = Template {
            environment: environment(),
            roles,
            has_prefill: prefill.is_some(),
            template_kwargs: kwargs(template_kwargs)?,
            text: text.to_string(),
            field: "conversation",
        };
        for (index, turn) in messages.into_iter().enumerate() {
            template.compile(place(index), turn.content)?;
        }
        if let Some(prefill) = prefill {
            check_prefill(&prefill)?;
            template.compile(PREFILL.to_string(), prefill)?;
        }
        Ok(template)
    }

    /// The file as it stands.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn compile(&mut self, place: String, source: String) -> Result<()> {
        bounds::add(&mut self.environment, &place, source, |e| {
            Error::usage(format!("does not parse: {e}")).at(&place).hint("texts are minijinja (Jinja2)")
        })
    }

    /// It shows the expert's solution.
    pub fn shows_solution(&self) -> bool {
        self.environment.templates().any(|(_, template)| template.undeclared_variables(false).contains("solution"))
    }

    /// The variables it uses. Errors: one that is not among the known ones.
    fn names(&self, known: &[&str]) -> Result<BTreeSet<String>> {
        let places = (0..self.roles.len()).map(place).chain(self.has_prefill.then(|| PREFILL.to_string()));
        let mut used = BTreeSet::new();
        for place in places {
            let template = self.environment.get_template(&place).expect("every turn was compiled");
            let names: BTreeSet<String> = template.undeclared_variables(false).into_iter().collect();
            let unknown =
                names.iter().find(|name| !known.contains(&name.as_str()) && !GLOBALS.contains(&name.as_str()));
            if let Some(name) = unknown {
                return Err(Error::usage(format!("unknown variable `{name}`")).at(place).hint(variables(known)));
            }
            used.extend(names);
        }
        Ok(used)
    }

    /// Puts the text into a stage's recipe.
    pub fn name_in(&self, recipe: Recipe) -> Recipe {
        recipe.with(self.field, &self.text)
    }

    /// What the policy is shown for a problem.
    pub fn render(&self, problem: &Problem) -> Result<Conversation> {
        self.filled(problem, columns(problem), COLUMNS)
    }

    /// What a policy is shown that judges a response to a problem.
    pub fn render_judged(&self, problem: &Problem, response: &str) -> Result<Conversation> {
        self.filled(problem, context! { response, ..columns(problem) }, JUDGED)
    }

    fn filled(&self, problem: &Problem, values: Value, names: &[&str]) -> Result<Conversation> {
        let text = |place: &str| {
            let template = self.environment.get_template(place).expect("every turn was compiled");
            bounds::render(&template, values.clone()).map_err(|e| {
                Error::input(format!("prompt template fails: {e}"))
                    .at(format!("problem `{}`", problem.problem_id))
                    .hint(variables(names))
            })
        };
        let turn = |(index, role): (usize, &Role)| Ok(Message::new(role.as_str(), text(&place(index))?));
        Ok(Conversation {
            messages: self.roles.iter().enumerate().map(turn).collect::<Result<_>>()?,
            prefill: if self.has_prefill { text(PREFILL)? } else { String::new() },
            template_kwargs: self.template_kwargs.clone(),
        })
    }
}

fn columns(problem: &Problem) -> Value {
    let meta: Option<Json> = problem.meta.as_deref().and_then(|meta| serde_json::from_str(meta).ok());
    context! {
        question => &problem.question,
        solution => &problem.solution,
        answer => &problem.answer,
        source => &problem.source,
        meta => Value::from(Serde(&meta)),
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment
}

fn variables(names: &[&str]) -> String {
    format!("variables: {}", names.join(", "))
}

/// What turn `index` is called in errors.
fn place(index: usize) -> String {
    format!("turn {}", index + 1)
}

/// A system turn at most, in front; then user and assistant in turn, the user last.
fn check_roles(roles: &[Role]) -> Result<()> {
    let turns = roles.strip_prefix(&[Role::System]).unwrap_or(roles);
    let wanted = [Role::User, Role::Assistant].into_iter().cycle();
    if let Some((index, (found, wanted))) =
        turns.iter().zip(wanted).enumerate().find(|(_, (found, wanted))| *found != wanted)
    {
        let error = Error::usage(format!("the turn is `{}`, it must be `{}`", found.as_str(), wanted.as_str()))
            .at(place(index + roles.len() - turns.len()));
        return Err(error.hint("a system turn may come first; then user and assistant take turns"));
    }
    match turns.last() {
        Some(Role::User) => Ok(()),
        _ => Err(Error::usage("the last message must be the user's")
            .at(place(roles.len() - 1))
            .hint("what the assistant's turn begins with is `prefill`")),
    }
}

/// A token usually begins with a space; a text that ends with one makes the policy go on with a token it never saw there.
fn check_prefill(prefill: &str) -> Result<()> {
    match prefill.ends_with([' ', '\t']) {
        true => Err(Error::usage("`prefill` ends in a space").hint("leave it to the policy: words begin with a space")),
        false => Ok(()),
    }
}

const RESERVED: [&str; 5] = ["messages", "add_generation_prompt", "tools", "documents", "continue_final_message"];

/// Variables of the chat template.
fn kwargs(value: Option<toml::Value>) -> Result<Map<String, Json>> {
    let table = match value {
        None => return Ok(Map::new()),
        Some(toml::Value::Table(table)) => table,
        Some(_) => return Err(Error::usage("`template_kwargs` is not a table")),
    };
    let wrong = |key: &str, why: &str| Error::usage(format!("`template_kwargs.{key}` {why}"));
    let variable = |(key, value): (String, toml::Value)| match RESERVED.contains(&key.as_str()) {
        true => Err(wrong(&key, "is given by the program")),
        false => json(value).ok_or_else(|| wrong(&key, "has no JSON value")).map(|value| (key, value)),
    };
    table.into_iter().map(variable).collect()
}

/// A TOML value as JSON; there is none for dates, NaN and infinity.
fn json(value: toml::Value) -> Option<Json> {
    Some(match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => serde_json::Number::from_f64(number)?.into(),
        toml::Value::Boolean(truth) => truth.into(),
        toml::Value::Datetime(_) => return None,
        toml::Value::Array(items) => items.into_iter().map(json).collect::<Option<Vec<Json>>>()?.into(),
        toml::Value::Table(table) => {
            let fields = table.into_iter().map(|(key, value)| Some((key, json(value)?)));
            Json::Object(fields.collect::<Option<Map<String, Json>>>()?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem() -> Problem {
        Problem {
            problem_id: "0a".into(),
            source: "world".into(),
            question: "1 + 1?".into(),
            solution: Some("\\boxed{2}".into()),
            answer: "2".into(),
            meta: Some(r#"{"level": 3}"#.into()),
        }
    }

    const WHOLE: &str = r#"
        system = "You solve {{ source }} problems."
        prefill = "<think>\nLevel {{ meta.level }}:"
        template_kwargs = { enable_thinking = false, depth = 2 }
        [[messages]]
        role = "user"
        content = "2 + 2?"
        [[messages]]
        role = "assistant"
        content = "4"
        [[messages]]
        role = "user"
        content = "{{ question }}"
    "#;

    #[test]
    fn a_whole_conversation() {
        let shown = Template::conversation(WHOLE).unwrap().render(&problem()).unwrap();
        let turns: Vec<(&str, &str)> =
            shown.messages.iter().map(|turn| (turn.role.as_str(), turn.content.as_str())).collect();
        let wanted =
            [("system", "You solve world problems."), ("user", "2 + 2?"), ("assistant", "4"), ("user", "1 + 1?")];
        assert_eq!(turns, wanted);
        assert_eq!(shown.prefill, "<think>\nLevel 3:");
        assert_eq!(
            Json::Object(shown.template_kwargs.clone()),
            serde_json::json!({"enable_thinking": false, "depth": 2})
        );
        assert!(!shown.is_plain());
        let text = serde_json::to_string(&shown).unwrap();
        assert_eq!(serde_json::from_str::<Conversation>(&text).unwrap(), shown);
    }

    #[test]
    fn the_least_of_both_kinds() {
        let user = Template::new("{{ question }} {{ answer }}").unwrap().render(&problem()).unwrap();
        assert_eq!(user, Conversation::user("1 + 1? 2"));
        let shown = Template::conversation("system = \"Be brief.\"").unwrap().render(&problem()).unwrap();
        assert_eq!(shown.messages, [Message::new("system", "Be brief."), Message::user("1 + 1?")]);
        assert!(Template::conversation("").unwrap().render(&problem()).unwrap().is_plain());
    }

    #[test]
    fn the_recipe_tells_the_two_kinds_apart() {
        let fingerprint = |template: Template| template.name_in(Recipe::new("rollout", 1)).fingerprint();
        let named = Recipe::new("rollout", 1).with("template", "x = 1").fingerprint();
        assert_eq!(fingerprint(Template::new("x = 1").unwrap()), named);
        assert_ne!(fingerprint(Template::conversation("").unwrap()), fingerprint(Template::new("").unwrap()));
    }

    #[test]
    fn mistakes_are_named_before_anything_runs() {
        let turn = |role: &str| format!("[[messages]]\nrole = \"{role}\"\ncontent = \"x\"\n");
        let wrong = [
            ("sytem = \"x\"".to_string(), "sytem"),
            ("system = ".to_string(), "not TOML"),
            (turn("human"), "human"),
            (turn("assistant"), "must be `user`"),
            ([turn("user"), turn("assistant")].concat(), "last message must be the user's"),
            ([turn("user"), turn("user")].concat(), "turn 2"),
            ([turn("user"), turn("system"), turn("user")].concat(), "turn 2"),
            (format!("system = \"x\"\n{}", turn("system")), "turn 2"),
            ("system = \"{{ qestion }}\"".to_string(), "qestion"),
            ("system = \"{% if %}\"".to_string(), "does not parse"),
            ("prefill = \"I think \"".to_string(), "ends in a space"),
            ("template_kwargs = { messages = 1 }".to_string(), "messages"),
            ("template_kwargs = { day = 2026-01-01 }".to_string(), "no JSON value"),
        ];
        for (text, word) in wrong {
            let error = Template::conversation(&text).err().unwrap_or_else(|| panic!("{text} is taken"));
            assert!(error.to_string().contains(word), "{text}: {error}");
        }
        assert!(Template::conversation("prefill = \"<think>\\n\"").is_ok());
    }

    #[test]
    fn a_judge_is_shown_the_response() {
        let turn = Template::of_judge("{{ question }} {{ answer }} {{ response }}", false).unwrap();
        assert_eq!(turn.render_judged(&problem(), "{{ 3 }}").unwrap(), Conversation::user("1 + 1? 2 {{ 3 }}"));
        let whole = "system = \"Judge.\"\n[[messages]]\nrole = \"user\"\ncontent = \"{{ response }}\"";
        let shown = Template::of_judge(whole, true).unwrap().render_judged(&problem(), "3").unwrap();
        assert_eq!(shown.messages, [Message::new("system", "Judge."), Message::user("3")]);
        for (text, is_conversation, word) in [
            ("{{ question }}", false, "does not show the response"),
            ("system = \"Judge.\"", true, "does not show the response"),
            ("{{ response }} {{ reference }}", false, "unknown variable `reference`"),
            ("{{ response", false, "does not parse"),
        ] {
            let error = Template::of_judge(text, is_conversation).err().unwrap_or_else(|| panic!("{text} is taken"));
            assert!(error.to_string().contains(word), "{text}: {error}");
        }
        let error = Template::conversation(whole).err().expect("a prompt has no response yet");
        assert!(error.to_string().contains("unknown variable `response`"), "{error}");
    }
}
