//! Rounds: the stages under `[loop]`, once for every round.
//!
//! ```toml
//! [loop]
//! rounds = 3
//! vars.policy = { first = "base", then = "train-{last}" }
//!
//! [loop.stages.rollouts]    # rollouts-0, rollouts-1, rollouts-2
//! policy = "{policy}"
//! ```
//!
//! `{round}` is the round's name, `{last}` that of the round before, `{loop.last}` (anywhere in the file) that of the last one.

use super::matrix::{self, Variables};
use std::fmt::Display;
use toml::{Table, Value};

/// Rounds that a loop may have.
const MOST_ROUNDS: usize = 1000;
/// Values, and bytes of text in them, that all rounds together may bind: lists of what was before grow with every round.
const MOST_BOUND: usize = 10_000_000;

/// Keys of `[loop]`.
pub const KEYS: [&str; 3] = ["rounds", "vars", "stages"];

/// One round: its name, its number from 0 on, and the placeholders it binds.
pub struct Round {
    pub name: String,
    pub number: usize,
    pub variables: Variables,
}

/// All rounds, in order. `rounds` is how many there are, or a list with an entry for each: a name, or a table with one.
/// `variables` are those of the pipeline. Errors are about the table as written.
pub fn rounds(table: &Table, variables: &Variables) -> Result<Vec<Round>, String> {
    let written = table.get("rounds").ok_or("`loop` says no `rounds`")?;
    let entries = match matrix::substitute(written, variables)? {
        Value::Integer(count) if count > MOST_ROUNDS as i64 => return Err(too_many(count)),
        Value::Array(entries) if entries.len() > MOST_ROUNDS => return Err(too_many(entries.len())),
        Value::Integer(count) if count > 0 => (0..count).map(Value::Integer).collect(),
        Value::Array(entries) if !entries.is_empty() => entries,
        _ => return Err("`rounds` is neither a number of rounds nor a list of them".to_string()),
    };
    let named = entries.iter().map(|entry| Ok((name(entry)?, entry))).collect::<Result<Vec<_>, String>>()?;
    let vars = match table.get("vars") {
        None => Table::new(),
        Some(Value::Table(vars)) => vars.clone(),
        Some(_) => return Err("`vars` of `loop` is not a table".to_string()),
    };
    let (mut rounds, mut size): (Vec<Round>, usize) = (Vec::new(), 0);
    for (number, (name, entry)) in named.iter().enumerate() {
        let mut bound = bind("round", name, entry);
        bound.insert("round.number".to_string(), Value::Integer(number as i64));
        if let Some((last, entry)) = number.checked_sub(1).map(|last| &named[last]) {
            bound.extend(bind("last", last, entry));
        }
        let mut own = Variables::new();
        for (key, value) in &vars {
            let var = Var::read(value).map_err(|wrong| format!("`{key}` of `loop.vars` {wrong}"))?;
            let value = var.of(number, &bound, &rounds);
            size += size_of(&value);
            if size > MOST_BOUND {
                return Err(format!("`{key}` of `loop.vars` grows without bound: round {number} is too large"));
            }
            own.insert(key.clone(), value);
        }
        bound.extend(own);
        rounds.push(Round { name: name.clone(), number, variables: bound });
    }
    Ok(rounds)
}

fn too_many(count: impl Display) -> String {
    format!("`rounds` makes {count} rounds, more than {MOST_ROUNDS}")
}

/// Values in a value, and bytes of text.
fn size_of(value: &Value) -> usize {
    match value {
        Value::String(text) => 1 + text.len(),
        Value::Array(items) => 1 + items.iter().map(size_of).sum::<usize>(),
        Value::Table(table) => 1 + table.iter().map(|(key, value)| key.len() + size_of(value)).sum::<usize>(),
        _ => 1,
    }
}

/// A name without what is bound by it.
fn name(entry: &Value) -> Result<String, String> {
    match entry {
        Value::Table(table) => match table.get("name") {
            Some(Value::String(name)) => Ok(name.clone()),
            _ => Err("a round is a table without a `name`".to_string()),
        },
        entry => Ok(matrix::text(entry)),
    }
}

/// `{axis}`, and `{axis.key}` of an entry that is a table.
fn bind(axis: &str, name: &str, entry: &Value) -> Variables {
    let Some(table) = entry.as_table() else { return Variables::from([(axis.to_string(), entry.clone())]) };
    let mut bound: Variables = table.iter().map(|(key, value)| (format!("{axis}.{key}"), value.clone())).collect();
    bound.insert(axis.to_string(), Value::from(name));
    bound
}

/// A variable that changes from round to round.
enum Var<'a> {
    /// One value in the first round, another in all others.
    Then { first: &'a Value, then: &'a Value },
    /// A list with the value of every round before this one.
    Earlier(&'a Value),
}

impl Var<'_> {
    fn read(value: &Value) -> Result<Var<'_>, &'static str> {
        let entries = value.as_table().map(|table| table.iter().collect::<Vec<_>>()).unwrap_or_default();
        match &entries[..] {
            [(key, value)] if *key == "earlier" => Ok(Var::Earlier(value)),
            [(a, first), (b, then)] if *a == "first" && *b == "then" => Ok(Var::Then { first, then }),
            [(b, then), (a, first)] if *a == "first" && *b == "then" => Ok(Var::Then { first, then }),
            _ => Err("is neither { first = .., then = .. } nor { earlier = .. }"),
        }
    }

    fn of(&self, number: usize, bound: &Variables, before: &[Round]) -> Value {
        match self {
            Var::Then { first, .. } if number == 0 => matrix::substitute_known(first, bound),
            Var::Then { then, .. } => matrix::substitute_known(then, bound),
            Var::Earlier(value) => {
                Value::Array(before.iter().map(|round| matrix::substitute_known(value, &round.variables)).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Round>, String> {
        rounds(&text.parse().expect("test TOML"), &Variables::from([("count".to_string(), Value::Integer(2))]))
    }

    /// Goal: a round knows its own name, the name of the one before, and what all before it were.
    #[test]
    fn variables_change_from_round_to_round() {
        let text = "rounds = 3
            vars.policy = { first = 'base', then = 'train-{seed}-{last}' }
            vars.seen = { earlier = 'verdicts-{round}' }";
        let found = read(text).unwrap();
        let policies: Vec<&Value> = found.iter().map(|round| &round.variables["policy"]).collect();
        assert_eq!(policies, [&Value::from("base"), &"train-{seed}-0".into(), &"train-{seed}-1".into()]);
        assert_eq!(found[0].variables["seen"], Value::Array(vec![]));
        assert_eq!(found[2].variables["seen"], Value::Array(vec!["verdicts-0".into(), "verdicts-1".into()]));
        assert_eq!(found[2].variables["round"], Value::Integer(2), "a number stays one");
        assert!(!found[0].variables.contains_key("last"));
    }

    #[test]
    fn rounds_may_be_a_list_of_tables() {
        let found =
            read("rounds = [{ name = 'main', files = ['a'] }, { name = 'facts', files = ['b', 'c'] }]").unwrap();
        assert_eq!(found.iter().map(|round| round.name.as_str()).collect::<Vec<_>>(), ["main", "facts"]);
        assert_eq!(found[1].variables["round.files"], Value::Array(vec!["b".into(), "c".into()]));
        assert_eq!(found[1].variables["last"], Value::from("main"));
        assert_eq!(found[1].variables["round.number"], Value::Integer(1));
        assert_eq!(read("rounds = '{count}'").unwrap().len(), 2);
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, wrong) in [
            ("vars = {}", "says no `rounds`"),
            ("rounds = 0", "neither a number"),
            ("rounds = [{ nome = 'a' }]", "without a `name`"),
            ("rounds = '{cuont}'", "unknown placeholder `{cuont}`"),
            ("rounds = 1\nvars.policy = 'base'", "`policy` of `loop.vars` is neither"),
            ("rounds = 1\nvars.policy = { first = 'base', than = 'x' }", "`policy` of `loop.vars` is neither"),
            ("rounds = 42949672953", "makes 42949672953 rounds, more than 1000"),
            // Each round's list holds the lists of all before: twice as much as the last.
            ("rounds = 64\nvars.all = { earlier = '{all}' }", "`all` of `loop.vars` grows without bound: round 2"),
        ] {
            let error = read(text).err().unwrap();
            assert!(error.contains(wrong), "{text}: {error}");
        }
    }
}
