//! Prompt templates: minijinja over the columns of a problem. Their bytes are part of the recipe.

use mindgap_base::error::{Error, Result};
use mindgap_store::table::problems::Problem;
use minijinja::{Environment, UndefinedBehavior, context};

/// A compiled prompt template.
pub struct Template {
    environment: Environment<'static>,
    text: String,
}

/// The problem as it is.
pub const PLAIN: &str = "{{ question }}";

impl Template {
    pub fn new(text: &str) -> Result<Template> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.add_template_owned("prompt", text.to_string()).map_err(|e| {
            Error::input(format!("prompt template does not parse: {e}")).hint("templates are minijinja (Jinja2)")
        })?;
        Ok(Template { environment, text: text.to_string() })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The user's turn for a problem. Variables: `question`, `solution`, `answer`, `source`.
    pub fn render(&self, problem: &Problem) -> Result<String> {
        let template = self.environment.get_template("prompt").expect("added in `new`");
        let values = context! {
            question => &problem.question,
            solution => &problem.solution,
            answer => &problem.answer,
            source => &problem.source,
        };
        template.render(values).map_err(|e| {
            Error::input(format!("prompt template fails: {e}"))
                .at(format!("problem `{}`", problem.problem_id))
                .hint("variables: question, solution, answer, source")
        })
    }
}
