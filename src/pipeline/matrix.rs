//! Matrix expansion and placeholders: one written stage becomes several named ones.
//!
//! `matrix.loss = ["sft", "dft"]` makes `train-sft` and `train-dft` of `train` and puts the value wherever the stage says
//! `{loss}`. An entry may be a table with a `name`: its other keys are `{axis.key}`.

use std::collections::BTreeMap;
use toml::{Table, Value};

/// Values of placeholders.
pub type Variables = BTreeMap<String, Value>;

/// One combination of a matrix: the entry it takes on every axis, and the placeholders it binds.
pub struct Cell {
    /// Axis and name of its entry, in file order.
    pub entries: Vec<(String, String)>,
    pub variables: Variables,
}

impl Cell {
    /// What the cell adds to the name of its stage.
    pub fn suffix(&self) -> String {
        self.entries.iter().map(|(_, entry)| format!("-{entry}")).collect()
    }
}

/// Stages that one may become.
const MOST_CELLS: usize = 10_000;

/// All combinations, axes in file order, the last running fastest; entries may use `variables` and the axes before
/// theirs. Errors are about the matrix as written.
pub fn expand(matrix: &Table, variables: &Variables) -> Result<Vec<Cell>, String> {
    let entries = |entries: &Value| entries.as_array().map_or(1, Vec::len);
    let count = matrix.values().map(entries).fold(1, usize::saturating_mul);
    if count > MOST_CELLS {
        return Err(format!("its matrix makes {count} stages of it, more than {MOST_CELLS}"));
    }
    let mut cells = vec![Cell { entries: Vec::new(), variables: variables.clone() }];
    for (axis, entries) in matrix {
        // A list may be a variable: `matrix.seed = "{seeds}"`.
        let named = if entries.is_str() { substitute(entries, variables)? } else { entries.clone() };
        let entries = named.as_array().filter(|entries| !entries.is_empty());
        let entries = entries.ok_or_else(|| format!("matrix axis `{axis}` is not a list of values"))?;
        if cells.len().saturating_mul(entries.len()) > MOST_CELLS {
            return Err(format!("its matrix makes more than {MOST_CELLS} stages of it at axis `{axis}`"));
        }
        let mut grown = Vec::new();
        for cell in &cells {
            for entry in entries {
                let (name, bound) = bind(axis, &substitute(entry, &cell.variables)?)?;
                let mut variables = cell.variables.clone();
                variables.extend(bound);
                let mut taken = cell.entries.clone();
                taken.push((axis.clone(), name));
                grown.push(Cell { entries: taken, variables });
            }
        }
        cells = grown;
    }
    Ok(cells)
}

fn bind(axis: &str, entry: &Value) -> Result<(String, Variables), String> {
    let Some(table) = entry.as_table() else {
        return Ok((text(entry), Variables::from([(axis.to_string(), entry.clone())])));
    };
    let name = table.get("name").and_then(Value::as_str);
    let name = name.ok_or_else(|| format!("an entry of matrix axis `{axis}` is a table without a `name`"))?;
    let variables = table.iter().map(|(key, value)| (format!("{axis}.{key}"), value.clone())).collect();
    Ok((name.to_string(), variables))
}

/// A value as it stands inside a text.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Replaces placeholders everywhere in a value. A text that is nothing but a placeholder becomes the value itself, its
/// type kept; a text with an unknown placeholder is an error that names it.
pub fn substitute(value: &Value, variables: &Variables) -> Result<Value, String> {
    let known = |name: &str| variables.get(name).ok_or_else(|| format!("unknown placeholder `{{{name}}}`"));
    replace(value, &|name| known(name).map(Some))
}

/// The same, leaving placeholders that are not known here as they are: others will know them.
pub fn substitute_known(value: &Value, variables: &Variables) -> Value {
    replace(value, &|name| Ok(variables.get(name))).unwrap_or_else(|_| value.clone())
}

/// What a placeholder stands for; none leaves it as it is.
type Lookup<'a> = dyn Fn(&str) -> Result<Option<&'a Value>, String> + 'a;

fn replace(value: &Value, lookup: &Lookup) -> Result<Value, String> {
    Ok(match value {
        Value::String(text) => replace_text(text, lookup)?,
        Value::Array(items) => Value::Array(items.iter().map(|item| replace(item, lookup)).collect::<Result<_, _>>()?),
        Value::Table(table) => Value::Table(
            table.iter().map(|(key, item)| Ok((key.clone(), replace(item, lookup)?))).collect::<Result<_, String>>()?,
        ),
        other => other.clone(),
    })
}

fn replace_text(input: &str, lookup: &Lookup) -> Result<Value, String> {
    if let Some(name) = input.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'))
        && is_name(name)
        && let Some(value) = lookup(name)?
    {
        return Ok(value.clone());
    }
    let (mut out, mut rest) = (String::new(), input);
    while let Some(open) = rest.find('{') {
        let Some(close) = rest[open..].find('}') else { break };
        let name = &rest[open + 1..open + close];
        out.push_str(&rest[..open]);
        match if is_name(name) { lookup(name)? } else { None } {
            Some(value) => out.push_str(&text(value)),
            None => out.push_str(&rest[open..=open + close]),
        }
        rest = &rest[open + close + 1..];
    }
    out.push_str(rest);
    Ok(Value::String(out))
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Table {
        text.parse().expect("test TOML")
    }

    #[test]
    fn crosses_axes_in_order() {
        let cells = expand(&table("loss = ['sft', 'dft']\nseed = [0, 1]"), &Variables::new()).unwrap();
        let suffixes: Vec<String> = cells.iter().map(Cell::suffix).collect();
        assert_eq!(suffixes, ["-sft-0", "-sft-1", "-dft-0", "-dft-1"]);
        assert_eq!(cells[1].entries, [("loss".into(), "sft".into()), ("seed".into(), "1".into())]);
    }

    #[test]
    fn a_matrix_is_counted_before_it_is_expanded() {
        let axis =
            |name: &str, count: usize| (name.to_string(), Value::Array((0..count as i64).map(Value::from).collect()));
        let huge: Table = ["a", "b", "c"].map(|name| axis(name, 1000)).into_iter().collect();
        let error = expand(&huge, &Variables::new()).err().unwrap();
        assert!(error.contains("1000000000 stages"), "{error}");
        let by_variables = table("a = '{many}'\nb = '{many}'\nc = '{many}'");
        let variables: Variables = [axis("many", 1000)].into_iter().collect();
        assert!(expand(&by_variables, &variables).err().unwrap().contains("axis `b`"));
    }

    #[test]
    fn named_entries_bind_their_keys() {
        let matrix = table("seed = [7]\nrun = [{ name = 'a', rows = 'expert-{seed}', sources = ['self'] }]");
        let cells = expand(&matrix, &Variables::new()).unwrap();
        assert_eq!(cells[0].suffix(), "-7-a");
        let stage = Value::Table(table("data = '{run.rows}-x'\nsources = '{run.sources}'"));
        let stage = substitute(&stage, &cells[0].variables).unwrap();
        assert_eq!(stage, Value::Table(table("data = 'expert-7-x'\nsources = ['self']")));
    }

    #[test]
    fn a_list_may_be_a_variable_and_use_the_axes_before() {
        let runs = table("runs = [{ name = 'a', data = 'x-{seed}' }, { name = 'b', data = 'y' }]");
        let variables: Variables = runs.into_iter().collect();
        let cells = expand(&table("seed = [4]\nrun = '{runs}'"), &variables).unwrap();
        assert_eq!(cells.iter().map(Cell::suffix).collect::<Vec<_>>(), ["-4-a", "-4-b"]);
        assert_eq!(cells[0].variables["run.data"], Value::from("x-4"));
        assert!(expand(&table("run = '{rums}'"), &variables).err().unwrap().contains("`{rums}`"));
    }

    #[test]
    fn keeps_the_type_and_names_what_is_unknown() {
        let variables = Variables::from([("seed".to_string(), Value::Integer(3))]);
        assert_eq!(substitute(&Value::from("{seed}"), &variables), Ok(Value::Integer(3)));
        assert_eq!(substitute(&Value::from("s{seed}"), &variables), Ok(Value::from("s3")));
        assert!(substitute(&Value::from("{sed}"), &variables).unwrap_err().contains("`{sed}`"));
        assert_eq!(substitute_known(&Value::from("{sed}-{seed}"), &variables), Value::from("{sed}-3"));
        assert_eq!(substitute_known(&Value::from("{sed}"), &variables), Value::from("{sed}"));
    }
}
