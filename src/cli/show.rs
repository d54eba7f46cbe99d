//! show: rows to read. Filtered, wrapped to the terminal, coloured there; one problem through all tables with `--row`.

use super::pipelines::load;
use super::render::plain;
use super::{args, render};
use crate::study::{JsonRow, Made, Query, Seen, lineage, rows_of_file, rows_of_stage};
use mindgap_base::error::{Error, Result};
use mindgap_store::Store;
use mindgap_store::table::verdicts::Verdict;
use serde_json::{Value, json};
use std::collections::BTreeMap;
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
    if let Some(id) = &args.row {
        let made = Made::new(&store, &pipeline, &[])?;
        render::notes(&made.notes(made.stage_names()));
        return lineage(&made, id, &mut |found| match args.json {
            true => render::json(&json!({"stage": found.stage, "table": found.table, "row": found.row})),
            false => print_row(&format!("{} ({})", found.stage, found.table), &found.row),
        });
    }
    let stage = args.stage.as_deref().expect("checked above");
    let made = Made::new(&store, &pipeline, &[stage.to_string()])?;
    let seen = rows_of_stage(&made, stage, args.table.as_deref(), &query(&args), &mut |number, row| {
        print(&args, number, &row)
    })?;
    render::notes(&made.notes([stage]));
    close(&args, &seen);
    Ok(())
}

/// A Parquet file anywhere: what its footer says, and its rows.
fn show_file(path: &Path, args: &args::Show) -> Result<()> {
    if args.row.is_some() {
        return Err(Error::usage("`--row` follows a problem through a pipeline, not through a file"));
    }
    let footer = |footer: &BTreeMap<String, String>, rows: u64| match args.json {
        true => render::json(&json!({"footer": footer, "rows": rows})),
        false => print_row("footer", &footer.iter().map(|(key, value)| (key.clone(), json!(value))).collect()),
    };
    let seen = rows_of_file(path, &query(args), footer, &mut |number, row| print(args, number, &row))?;
    close(args, &seen);
    Ok(())
}

fn query(args: &args::Show) -> Query<'_> {
    Query { conditions: &args.conditions, columns: &args.columns, limit: args.limit }
}

fn print(args: &args::Show, number: u64, row: &JsonRow) -> Result<()> {
    match args.json {
        true => render::json(row),
        false => print_row(&format!("row {number}"), row),
    }
}

fn close(args: &args::Show, Seen { all, fitting }: &Seen) {
    if *fitting > args.limit as u64 {
        render::note(&format!("{} of {fitting} rows; --limit shows more", args.limit));
    } else if !args.conditions.is_empty() {
        render::note(&format!("{fitting} of {all} rows"));
    }
}

/// Prints a row: a line of its own for every column that has a value.
fn print_row(title: &str, row: &JsonRow) -> Result<()> {
    let terminal = console::Term::stdout();
    let width = terminal.size_checked().map_or(usize::MAX, |(_, width)| usize::from(width));
    let text = |value| text_of(value).map(|text| plain(&text).into_owned());
    let fields: Vec<(&String, String)> = row.iter().filter_map(|(name, value)| Some((name, text(value)?))).collect();
    let indent = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 2;
    render::styled(&console::style(title).bold().to_string())?;
    for (name, text) in fields {
        let lines = wrap(&text, width.saturating_sub(indent + 2).max(20));
        for (number, line) in lines.iter().enumerate() {
            let label = if number == 0 { name.as_str() } else { "" };
            let label = console::style(format!("  {label:<indent$}")).dim();
            render::styled(&format!("{label}{}", coloured(name, line)))?;
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
