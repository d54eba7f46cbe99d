//! show: rows to read. Filtered, wrapped to the terminal, coloured there; one problem through all tables with `--row`.

use super::inspect::manifest;
use super::pipelines::load;
use super::{args, render};
use crate::pipeline::{Pipeline, did_you_mean};
use arrow::array::{AsArray, RecordBatch};
use mindgap_base::error::{Error, Result};
use mindgap_store::table::verdicts::Verdict;
use mindgap_store::{Store, fs, parquet};
use serde_json::{Map, Value, json};
use std::path::Path;

pub fn show(store: &Path, args: args::Show) -> Result<()> {
    let file = &args.pipeline.pipeline;
    if file.extension().is_some_and(|extension| extension == "parquet") && args.stage.is_none() {
        return show_file(file, &args);
    }
    let pipeline = load(&args.pipeline)?;
    if args.row.is_none() && args.stage.is_none() {
        let error = Error::usage("no stage is named").hint(format!(
            "mindgap show {} STAGE; stages are {}",
            file.display(),
            pipeline.stages.iter().map(|stage| stage.name.as_str()).collect::<Vec<_>>().join(", ")
        ));
        return Err(error);
    }
    if let Some(stage) = &args.stage {
        pipeline.stage(stage)?;
    }
    let store = Store::look(store)?;
    if let Some(row) = &args.row {
        return lineage(&store, &pipeline, row, args.json);
    }
    let stage = args.stage.as_deref().expect("checked above");
    let manifest = manifest(&store, &pipeline.name, stage)?;
    let table = manifest.main_table.clone().unwrap_or_else(|| "train_steps".to_string());
    let mut shown = Shown::new(&args, &table);
    for part in manifest.table(&table) {
        shown.add(&parquet::decode_batches(store.get(&part.address)?)?)?;
    }
    shown.close()
}

/// A Parquet file anywhere: what its footer says, and its rows.
fn show_file(path: &Path, args: &args::Show) -> Result<()> {
    if args.row.is_some() {
        return Err(Error::usage("`--row` follows a problem through a pipeline, not through a file"));
    }
    let name = path.display().to_string();
    let bytes = fs::read(path)?;
    let facts = parquet::facts(bytes.clone().into())
        .ok_or_else(|| Error::input("not a readable Parquet file").at(name.clone()))?;
    let footer: Map<String, Value> = facts
        .footer
        .into_iter()
        .filter(|(key, _)| key.starts_with("mindgap."))
        .map(|(key, value)| (key, json!(value)))
        .collect();
    let batches = parquet::decode_batches(bytes).map_err(|e| e.at(name.clone()))?;
    if args.json {
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        render::json(&json!({"footer": footer, "rows": rows}))?;
    } else {
        print_row("footer", &footer)?;
    }
    let mut shown = Shown::new(args, &name);
    shown.add(&batches)?;
    shown.close()
}

/// Prints the rows that fit, down to the columns asked for, and counts.
struct Shown<'a> {
    args: &'a args::Show,
    table: &'a str,
    /// Rows seen, and those among them that fit.
    all: usize,
    fitting: usize,
}

impl<'a> Shown<'a> {
    fn new(args: &'a args::Show, table: &'a str) -> Shown<'a> {
        Shown { args, table, all: 0, fitting: 0 }
    }

    fn add(&mut self, batches: &[RecordBatch]) -> Result<()> {
        for batch in batches {
            self.add_batch(batch)?;
        }
        Ok(())
    }

    fn add_batch(&mut self, batch: &RecordBatch) -> Result<()> {
        let conditions = &self.args.conditions;
        let wanted = match self.args.columns.is_empty() {
            true => batch.clone(),
            false => self.columns(batch, self.args.columns.iter().map(String::as_str))?,
        };
        let mut fits = vec![true; batch.num_rows()];
        if !conditions.is_empty() {
            let tested = self.columns(batch, conditions.iter().map(|condition| condition.column.as_str()))?;
            for (fits, row) in fits.iter_mut().zip(rows(&tested)?) {
                for condition in conditions {
                    *fits = *fits && condition.holds(&row[&condition.column])?;
                }
            }
        }
        for (index, _) in fits.iter().enumerate().filter(|(_, fits)| **fits) {
            self.fitting += 1;
            if self.fitting > self.args.limit {
                continue;
            }
            // One row at a time: lists of tokens are large as JSON.
            for row in rows(&wanted.slice(index, 1))? {
                match self.args.json {
                    true => render::json(&row)?,
                    false => print_row(&format!("row {}", self.all + index), &row)?,
                }
            }
        }
        self.all += batch.num_rows();
        Ok(())
    }

    /// Some columns of a batch, in this order, each once.
    fn columns<'n>(&self, batch: &RecordBatch, names: impl Iterator<Item = &'n str>) -> Result<RecordBatch> {
        let schema = batch.schema();
        let mut indices = Vec::new();
        for name in names {
            let index = schema.index_of(name).map_err(|_| {
                let known: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
                Error::usage(format!("table `{}` has no column `{name}`", self.table)).hint(did_you_mean(name, known))
            })?;
            if !indices.contains(&index) {
                indices.push(index);
            }
        }
        batch.project(&indices).map_err(|e| Error::internal("columns of a batch").source(e))
    }

    fn close(self) -> Result<()> {
        let Shown { args, all, fitting, .. } = self;
        if fitting > args.limit {
            render::note(&format!("{} of {fitting} rows; --limit shows more", args.limit));
        } else if !args.conditions.is_empty() {
            render::note(&format!("{fitting} of {all} rows"));
        }
        Ok(())
    }
}

type JsonRow = Map<String, Value>;

fn rows(batch: &RecordBatch) -> Result<Vec<JsonRow>> {
    serde_arrow::from_record_batch(batch).map_err(|e| Error::input("rows cannot be shown").source(e))
}

/// Everything the pipeline knows about the problems whose id starts with `id`, stage by stage.
fn lineage(store: &Store, pipeline: &Pipeline, id: &str, as_json: bool) -> Result<()> {
    let mut found = false;
    for stage in &pipeline.stages {
        let Some(pointer) = store.pointer(&pipeline.name, &stage.name)? else { continue };
        let manifest = store.get_manifest(&pointer.manifest)?;
        for table in manifest.table_names() {
            for part in manifest.table(table) {
                for row in rows_of_problem(&parquet::decode_batches(store.get(&part.address)?)?, id)? {
                    found = true;
                    match as_json {
                        true => render::json(&json!({"stage": stage.name, "table": table, "row": row}))?,
                        false => print_row(&format!("{} ({table})", stage.name), &row)?,
                    }
                }
            }
        }
    }
    match found {
        true => Ok(()),
        false => Err(Error::usage(format!("no finished stage holds a problem whose id starts with `{id}`"))
            .hint("ids are in the column `problem_id`: mindgap show PIPELINE problems")),
    }
}

fn rows_of_problem(batches: &[RecordBatch], id: &str) -> Result<Vec<JsonRow>> {
    let mut found = Vec::new();
    for batch in batches {
        let Some(ids) = batch.column_by_name("problem_id").and_then(|column| column.as_string_opt::<i32>()) else {
            continue;
        };
        for index in (0..batch.num_rows()).filter(|&index| ids.value(index).starts_with(id)) {
            found.extend(rows(&batch.slice(index, 1))?);
        }
    }
    Ok(found)
}

/// One condition of `--where`: a column, a comparison, a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    column: String,
    comparison: Comparison,
    value: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    AtMost,
    Greater,
    AtLeast,
    Contains,
}

/// Longer signs first: `<=` is not `<` and a value that starts with `=`.
const SIGNS: [(&str, Comparison); 7] = [
    ("!=", Comparison::NotEqual),
    ("<=", Comparison::AtMost),
    (">=", Comparison::AtLeast),
    ("=", Comparison::Equal),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
    ("~", Comparison::Contains),
];

impl Condition {
    pub fn parse(text: &str) -> Result<Condition, String> {
        let found = text.char_indices().find_map(|(at, _)| {
            let sign = SIGNS.iter().find(|(sign, _)| text[at..].starts_with(sign))?;
            Some((at, sign))
        });
        let (at, (sign, comparison)) = found.ok_or("expected COLUMN=VALUE; signs are = != < <= > >= ~")?;
        let (column, value) = (text[..at].trim(), text[at + sign.len()..].trim());
        if column.is_empty() {
            return Err("there is no column before the sign".to_string());
        }
        Ok(Condition { column: column.to_string(), comparison: *comparison, value: value.to_string() })
    }

    /// Whether a cell fits. `!=` is the opposite of `=`; otherwise an empty cell fits nothing but `=null`.
    fn holds(&self, cell: &Value) -> Result<bool> {
        use std::cmp::Ordering::{Equal, Greater, Less};
        if self.comparison == Comparison::NotEqual {
            return Ok(!self.equals(cell)?);
        }
        if self.comparison == Comparison::Equal {
            return self.equals(cell);
        }
        let order = match cell {
            Value::Null => return Ok(false),
            Value::String(text) if self.comparison == Comparison::Contains => return Ok(text.contains(&self.value)),
            _ if self.comparison == Comparison::Contains => return Err(self.misfit("`~` looks into text")),
            Value::String(text) => text.as_str().cmp(self.value.as_str()),
            Value::Number(number) => number.as_f64().unwrap_or(f64::NAN).total_cmp(&self.number()?),
            _ => return Err(self.misfit("its values have no order")),
        };
        Ok(match self.comparison {
            Comparison::Less => order == Less,
            Comparison::AtMost => order != Greater,
            Comparison::Greater => order == Greater,
            _ => order == Greater || order == Equal,
        })
    }

    fn equals(&self, cell: &Value) -> Result<bool> {
        Ok(match cell {
            Value::Null => self.value == "null",
            _ if self.value == "null" => false,
            Value::String(text) => *text == self.value,
            Value::Bool(value) => match self.value.as_str() {
                "true" => *value,
                "false" => !*value,
                _ => return Err(self.misfit("it holds true and false")),
            },
            Value::Number(number) => number.as_f64() == Some(self.number()?),
            _ => return Err(self.misfit("it holds lists")),
        })
    }

    fn number(&self) -> Result<f64> {
        self.value.parse().map_err(|_| self.misfit("it holds numbers"))
    }

    fn misfit(&self, why: &str) -> Error {
        Error::usage(format!("column `{}` cannot be compared with `{}`: {why}", self.column, self.value))
    }
}

/// Prints a row: a line of its own for every column that has a value.
fn print_row(title: &str, row: &JsonRow) -> Result<()> {
    let terminal = console::Term::stdout();
    let width = terminal.size_checked().map_or(usize::MAX, |(_, width)| usize::from(width));
    let fields: Vec<(&String, String)> = row.iter().filter_map(|(name, value)| Some((name, text_of(value)?))).collect();
    let indent = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 2;
    render::out(&console::style(title).bold().to_string())?;
    for (name, text) in fields {
        let lines = wrap(&text, width.saturating_sub(indent + 2).max(20));
        for (number, line) in lines.iter().enumerate() {
            let label = if number == 0 { name.as_str() } else { "" };
            let label = console::style(format!("  {label:<indent$}")).dim();
            render::out(&format!("{label}{}", coloured(name, line)))?;
        }
    }
    render::out("")
}

fn coloured(column: &str, line: &str) -> String {
    let style = console::Style::new();
    let style = match column {
        "verdict" if line == Verdict::Correct.as_str() => style.green(),
        "verdict" if line == Verdict::Incorrect.as_str() => style.red(),
        "verdict" => style.yellow(),
        "source" => style.cyan(),
        _ => return line.to_string(),
    };
    style.apply_to(line).to_string()
}

/// A value as people read it; nothing for null. Long lists are cut.
fn text_of(value: &Value) -> Option<String> {
    Some(match value {
        Value::Null => return None,
        Value::String(text) => text.clone(),
        Value::Array(items) if items.len() > 12 => {
            let start: Vec<String> = items.iter().take(12).map(short).collect();
            format!("[{}, ... {} in all]", start.join(", "), items.len())
        }
        Value::Array(items) => format!("[{}]", items.iter().map(short).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    })
}

/// A number with three decimals, if it has any.
fn short(value: &Value) -> String {
    match value.as_f64() {
        Some(number) if value.is_f64() => format!("{number:.3}"),
        _ => value.to_string(),
    }
}

/// Lines no wider than `width`, broken at spaces where there are any; line breaks of the text stay.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let (mut line, mut used) = (String::new(), 0);
        for word in paragraph.split_inclusive(' ') {
            if used > 0 && used + console::measure_text_width(word.trim_end()) > width {
                lines.push(std::mem::take(&mut line).trim_end().to_string());
                used = 0;
            }
            for c in word.chars() {
                let wide = console::measure_text_width(c.encode_utf8(&mut [0; 4]));
                if used + wide > width && c != ' ' {
                    lines.push(std::mem::take(&mut line));
                    used = 0;
                }
                line.push(c);
                used += wide;
            }
        }
        lines.push(line.trim_end().to_string());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn holds(condition: &str, cell: Value) -> bool {
        Condition::parse(condition).unwrap().holds(&cell).unwrap()
    }

    #[test]
    fn conditions_compare_as_the_column_is() {
        assert!(holds("source=guided", json!("guided")) && !holds("source=guided", json!("self")));
        assert!(holds("verdict != correct", json!("incorrect")) && !holds("verdict!=correct", json!("correct")));
        assert!(holds("attempts>=3", json!(3)) && !holds("attempts>3", json!(3)) && holds("attempts<=3.5", json!(3)));
        assert!(holds("attempts<10", json!(9)), "numbers compare as numbers");
        assert!(holds("prompt~a=b", json!("if a=b then")) && holds("prompt~", json!("any")));
        assert!(holds("eligible=true", json!(true)) && holds("eligible!=true", json!(false)));
        assert!(holds("answer=x>=2", json!("x>=2")), "the first sign counts");
    }

    #[test]
    fn empty_cells_fit_null_alone() {
        assert!(holds("extracted=null", Value::Null) && !holds("extracted=null", json!("7")));
        assert!(holds("extracted!=null", json!("7")) && holds("extracted!=7", Value::Null));
        assert!(!holds("extracted<7", Value::Null) && !holds("extracted~7", Value::Null));
    }

    #[test]
    fn senseless_conditions_say_why() {
        let error = |condition: &str, cell: Value| {
            Condition::parse(condition).unwrap().holds(&cell).unwrap_err().what().to_string()
        };
        let text = "column `attempts` cannot be compared with `many`: it holds numbers";
        assert_eq!(error("attempts=many", json!(3)), text);
        assert!(error("token_ids=3", json!([3])).contains("it holds lists"));
        assert!(error("attempts~3", json!(3)).contains("`~` looks into text"));
        assert!(Condition::parse("source").is_err() && Condition::parse("=3").is_err());
    }

    #[test]
    fn wraps_at_spaces_and_keeps_breaks() {
        assert_eq!(wrap("one two three", 8), ["one two", "three"]);
        assert_eq!(wrap("one\n\ntwo", 80), ["one", "", "two"]);
        assert_eq!(wrap("abcdefgh ij", 3), ["abc", "def", "gh", "ij"]);
        assert_eq!(wrap("四五六", 4), ["四五", "六"], "wide characters take two columns");
        assert_eq!(wrap("", 10), [""]);
        assert_eq!(wrap("fits exactly", 12), ["fits exactly"]);
    }

    #[test]
    fn long_lists_are_cut() {
        let list: Vec<f64> = (0..20).map(f64::from).collect();
        let text = text_of(&json!(list)).unwrap();
        assert!(text.starts_with("[0.000, 1.000, ") && text.ends_with(", ... 20 in all]"), "{text}");
        assert_eq!(text_of(&json!([1, 2])).unwrap(), "[1, 2]");
        assert_eq!(text_of(&Value::Null), None);
    }
}
