//! Problems as prompts, for trainers that sample by themselves: TRL's SDFT and GRPO, ms-swift's OPSD and GRPO. verl's GRPO is in
//! `verl.rs`.

use super::messages::Turn;
use super::{Format, lines};
use mindgap_base::error::{Error, Result};
use mindgap_lm::model::chat::{Conversation, Message};
use mindgap_store::table::problems::Problem;
use serde::Serialize;
use std::borrow::Cow;

/// A problem and what the policy is shown for it.
#[derive(Clone, Copy, Debug)]
pub struct Prompt<'a> {
    pub problem: &'a Problem,
    pub shown: &'a Conversation,
    /// What the teacher of a soft stage is shown, where it is something else.
    pub taught: Option<&'a Conversation>,
}

/// What TRL puts between the prompt and what the teacher is shown besides, where it is told nothing else.
const BETWEEN: &str = "\n\n";

impl<'a> Prompt<'a> {
    /// There is something to show the teacher.
    fn has_demonstration(&self) -> bool {
        self.taught.is_some() || self.problem.solution.is_some()
    }

    /// The user's last turn, to the student and to the teacher. Both trainers put the one in place of the other and keep the
    /// turns before it. Errors where the teacher's prompt differs in more.
    fn last_turns(&self) -> Result<(&'a str, Option<&'a str>)> {
        let last = |shown: &'a Conversation| shown.messages.split_last().map_or(("", &[][..]), content_and_rest);
        let ((own, before), taught) = (last(self.shown), self.taught.map(|taught| (taught, last(taught))));
        if let Some((taught, (_, others))) = taught
            && (others != before || !taught.prefill.is_empty() || taught.template_kwargs != self.shown.template_kwargs)
        {
            return Err(Error::usage(
                "the teacher's prompt differs from the student's in more than the user's last turn",
            )
            .at(format!("problem `{}`", self.problem.problem_id))
            .hint("trainers replace that turn alone: give both templates the same turns before it, and no prefill"));
        }
        Ok((own, taught.map(|(_, (content, _))| content)))
    }

    /// What is behind the student's prompt in the teacher's.
    fn privileged_context(&self) -> Result<&'a str> {
        match self.last_turns()? {
            (own, Some(taught)) => taught.strip_prefix(own).ok_or_else(|| {
                Error::usage("the teacher's prompt does not begin with the student's, of which TRL makes it")
                    .at(format!("problem `{}`", self.problem.problem_id))
                    .hint("begin the soft stage's template with it, or export a rewrite or rollout stage: the expert's solution is behind it then")
            }),
            _ => Ok(self.problem.solution.as_deref().unwrap_or_default()),
        }
    }

    fn teacher_prompt(&self) -> Result<Cow<'a, str>> {
        Ok(match self.last_turns()? {
            (_, Some(taught)) => Cow::Borrowed(taught),
            (own, None) => Cow::Owned([own, BETWEEN, self.problem.solution.as_deref().unwrap_or_default()].concat()),
        })
    }

    pub(super) fn turns(&self) -> Vec<Turn<'a>> {
        self.shown.messages.iter().map(Turn::of).collect()
    }
}

fn content_and_rest<'a>((last, before): (&'a Message, &'a [Message])) -> (&'a str, &'a [Message]) {
    (&last.content, before)
}

/// The prompts that the layout can be made of. Errors: a prefill, which no trainer of these goes on with.
pub fn usable<'a>(format: Format, prompts: &[Prompt<'a>]) -> Result<Vec<Prompt<'a>>> {
    if let Some(prompt) = prompts.iter().find(|prompt| !prompt.shown.prefill.is_empty()) {
        return Err(Error::usage(format!("`{}` has no place for a prefill", format.name()))
            .at(format!("problem `{}`", prompt.problem.problem_id))
            .hint("the trainer samples from the end of the user's turn: name a template without `prefill`"));
    }
    let is_taught = matches!(format, Format::TrlSdft | Format::SwiftOpsd);
    let usable: Vec<Prompt> =
        prompts.iter().filter(|prompt| !is_taught || prompt.has_demonstration()).copied().collect();
    match usable.is_empty() && !prompts.is_empty() {
        true => Err(Error::input(format!("`{}` needs problems with solutions, and none has one", format.name()))
            .hint("the ingest stage's `fields` say which column of the source is the solution")),
        false => Ok(usable),
    }
}

#[derive(Serialize)]
struct Sdft<'a> {
    prompt: Vec<Turn<'a>>,
    privileged_context: &'a str,
    problem_id: &'a str,
}

/// TRL's SDFT: the teacher is shown prompt and context.
pub fn trl_sdft(prompts: &[Prompt]) -> Result<String> {
    let row = |prompt: &Prompt| {
        let problem_id = prompt.problem.problem_id.as_str();
        Ok(lines([Sdft { prompt: prompt.turns(), privileged_context: prompt.privileged_context()?, problem_id }]))
    };
    prompts.iter().map(row).collect()
}

#[derive(Serialize)]
struct Grpo<'a> {
    prompt: Vec<Turn<'a>>,
    solution: &'a str,
    problem_id: &'a str,
}

/// TRL's GRPO: all columns but `prompt` go to the reward functions; `solution` is what its own for mathematics reads.
pub fn trl_grpo(prompts: &[Prompt]) -> String {
    lines(prompts.iter().map(|prompt| Grpo {
        prompt: prompt.turns(),
        solution: &prompt.problem.answer,
        problem_id: &prompt.problem.problem_id,
    }))
}

#[derive(Serialize)]
struct Swift<'a> {
    messages: Vec<Turn<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    teacher_prompt: Option<Cow<'a, str>>,
    /// Variables of the chat template, which it reads by row.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    chat_template_kwargs: &'a serde_json::Map<String, serde_json::Value>,
    solution: &'a str,
    problem_id: &'a str,
}

impl<'a> Swift<'a> {
    fn of(prompt: &Prompt<'a>, teacher_prompt: Option<Cow<'a, str>>) -> Swift<'a> {
        let Problem { answer, problem_id, .. } = prompt.problem;
        let chat_template_kwargs = &prompt.shown.template_kwargs;
        Swift { messages: prompt.turns(), teacher_prompt, chat_template_kwargs, solution: answer, problem_id }
    }
}

/// ms-swift's OPSD: the teacher is shown `teacher_prompt` in place of the user's last turn.
pub fn swift_opsd(prompts: &[Prompt]) -> Result<String> {
    prompts.iter().map(|prompt| Ok(lines([Swift::of(prompt, Some(prompt.teacher_prompt()?))]))).collect()
}

/// ms-swift's GRPO, which would ask a teacher where there is a `teacher_prompt`.
pub fn swift_grpo(prompts: &[Prompt]) -> String {
    lines(prompts.iter().map(|prompt| Swift::of(prompt, None)))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{lineage, problems, shown, text};
    use super::super::{Export, Format, Options, Rows, export};
    use super::*;

    /// An export of the problems; the teacher is shown what `taught` makes of each.
    fn written(format: Format, problems: &[Problem], taught: Option<fn(&Problem) -> Conversation>) -> Result<Export> {
        let taught: Vec<_> = problems.iter().map(|problem| taught.map(|taught| taught(problem))).collect();
        let (shown, rows) = (shown(false), problems.iter().zip(&taught));
        let prompts =
            rows.zip(&shown).map(|((problem, taught), shown)| Prompt { problem, shown, taught: taught.as_ref() });
        export(format, Rows::Prompts(prompts.collect()), &Options::default(), None, &lineage())
    }

    fn first_row(format: Format, taught: Option<fn(&Problem) -> Conversation>) -> String {
        let rows = text(&written(format, &problems(), taught).unwrap().files[0]);
        assert_eq!(rows.lines().count(), 2);
        rows.lines().next().unwrap().to_string()
    }

    fn guided(problem: &Problem) -> Conversation {
        Conversation::user(format!("{}\nAs in: {}", problem.question, problem.solution.as_deref().unwrap_or_default()))
    }

    const TURN: &str = r#"[{"role":"user","content":"1 + \"1\"?"}]"#;

    #[test]
    fn prompts_with_the_answer() {
        let golden = format!(r#"{{"prompt":{TURN},"solution":"2","problem_id":"0a"}}"#);
        assert_eq!(first_row(Format::TrlGrpo, None), golden);
        let golden = format!(r#"{{"messages":{TURN},"solution":"2","problem_id":"0a"}}"#);
        assert_eq!(first_row(Format::SwiftGrpo, None), golden);
        assert_eq!(first_row(Format::SwiftGrpo, Some(guided)), golden, "a teacher's prompt would ask for a teacher");
    }

    #[test]
    fn the_teacher_is_shown_the_solution() {
        let context = r#"Let k = 1. Therefore \\boxed{2}."#;
        let golden = format!(r#"{{"prompt":{TURN},"privileged_context":"{context}","problem_id":"0a"}}"#);
        assert_eq!(first_row(Format::TrlSdft, None), golden);
        let teacher = format!(r#""teacher_prompt":"1 + \"1\"?\n\n{context}""#);
        let golden = format!(r#"{{"messages":{TURN},{teacher},"solution":"2","problem_id":"0a"}}"#);
        assert_eq!(first_row(Format::SwiftOpsd, None), golden);
    }

    #[test]
    fn the_teacher_is_shown_what_the_pipeline_shows_it() {
        let behind = r#"\nAs in: Let k = 1. Therefore \\boxed{2}."#;
        let row = first_row(Format::TrlSdft, Some(guided));
        assert!(row.contains(&format!(r#""privileged_context":"{behind}""#)), "{row}");
        let row = first_row(Format::SwiftOpsd, Some(guided));
        assert!(row.contains(&format!(r#""teacher_prompt":"1 + \"1\"?{behind}""#)), "{row}");
        let card = |taught| text(written(Format::TrlSdft, &problems(), taught).unwrap().files.last().unwrap());
        let told = "`teacher_prompt_template=\"{prompt}{privileged_context}\"`";
        assert!(card(Some(guided)).contains(told) && !card(None).contains(told));
        assert!(card(None).contains("2 rows, one for each problem, in the layout `trl-sdft`"), "{}", card(None));
    }

    #[test]
    fn problems_without_a_solution_have_nothing_to_show() {
        let mut problems = problems();
        problems[0].solution = None;
        for format in [Format::TrlSdft, Format::SwiftOpsd] {
            assert_eq!(written(format, &problems, None).unwrap().rows, 1);
            let error = written(format, &problems[..1], None).unwrap_err();
            assert_eq!(error.what(), format!("`{}` needs problems with solutions, and none has one", format.name()));
        }
        for format in [Format::TrlGrpo, Format::SwiftGrpo, Format::VerlGrpo] {
            assert_eq!(written(format, &problems, None).unwrap().rows, 2);
        }
    }

    #[test]
    fn what_a_trainer_would_change_is_refused() {
        let refused = |format, taught| written(format, &problems(), Some(taught)).unwrap_err().what().to_string();
        let other: fn(&Problem) -> Conversation = |problem| Conversation::user(format!("Solve: {}", problem.question));
        assert!(refused(Format::TrlSdft, other).contains("does not begin with the student's"));
        assert_eq!(written(Format::SwiftOpsd, &problems(), Some(other)).unwrap().rows, 2, "it takes the turn whole");
        let system: fn(&Problem) -> Conversation = |problem| {
            let messages = vec![Message::new("system", "Teach."), Message::user(&problem.question)];
            Conversation { messages, ..Conversation::default() }
        };
        let prefilled: fn(&Problem) -> Conversation =
            |problem| Conversation { prefill: "So".to_string(), ..Conversation::user(&problem.question) };
        for taught in [system, prefilled] {
            for format in [Format::TrlSdft, Format::SwiftOpsd] {
                assert!(refused(format, taught).contains("more than the user's last turn"));
            }
        }
        let (problems, whole) = (problems(), shown(true));
        for format in [Format::TrlSdft, Format::TrlGrpo, Format::VerlGrpo, Format::SwiftOpsd, Format::SwiftGrpo] {
            let prompt = |prefill: &str| Conversation { prefill: prefill.to_string(), ..whole[0].clone() };
            let write = |shown: &Conversation| {
                let rows = Rows::Prompts(vec![Prompt { problem: &problems[0], shown, taught: None }]);
                export(format, rows, &Options::default(), None, &lineage())
            };
            assert!(write(&prompt("So: ")).unwrap_err().what().contains("no place for a prefill"));
            let card = text(write(&prompt("")).unwrap().files.last().unwrap());
            assert!(card.contains("The prompt has up to 4 turns.\n") && card.contains("`enable_thinking`"), "{card}");
        }
    }
}
