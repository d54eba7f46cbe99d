//! The rows a train stage reads: rewrites or documents, with the columns that losses ask for.

use super::super::Inputs;
use super::super::cost::tokens;
use super::Params;
use super::mix::{DataOf, Portion, picked, picked_of_each, sizes};
use super::weights::WeightsOf;
use mindgap_base::address::Address;
use mindgap_base::error::{Error, Result};
use mindgap_lm::train::TrainExample;
use mindgap_store::Table;
use mindgap_store::table::Row;
use mindgap_store::table::examples::Example;
use mindgap_store::table::logprobs::Logprob;
use mindgap_store::table::problems::Problem;
use mindgap_store::table::rewrites::{Rewrite, Source};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;

/// What a policy is trained or evaluated on.
pub struct Data {
    portions: Vec<Of>,
    /// How the portions are written; none where all rows of one stage are meant.
    mixed: Option<Vec<Portion>>,
    seed: u64,
}

/// The rows of one stage.
struct Of {
    table: Rows,
    reference: Option<Table<Logprob>>,
    sources: Vec<Source>,
    weight: f32,
    weights: Option<WeightsOf>,
    highest: Option<WeightsOf>,
    /// Problems of whose sources equally many rows are taken.
    per_source: Option<Table<Problem>>,
}

enum Rows {
    Rewrites(Table<Rewrite>),
    Examples(Table<Example>),
}

/// The source of rows that have none, as the trainer's metrics number them; rewrites have [`Source`] as a number.
const NO_SOURCE: u32 = Source::ALL.len() as u32;

#[derive(Deserialize)]
struct Keyed {
    problem_id: String,
    choice_index: u32,
    source: Source,
}

#[derive(Deserialize)]
struct ExampleId {
    example_id: String,
}

#[derive(Deserialize)]
struct SourceOf {
    problem_id: String,
    source: String,
}

/// What it takes to count the rows of some sources.
#[derive(Deserialize)]
struct OfSource {
    source: Source,
}

impl Data {
    /// The rows trained on.
    pub fn of(params: &Params, inputs: &Inputs) -> Result<Data> {
        let portions = params.portions();
        let mixed = matches!(params.data, DataOf::Portions(_)).then(|| portions.clone());
        let portions = portions.iter().map(|portion| Of::new(portion, inputs)).collect::<Result<_>>()?;
        Ok(Data { portions, mixed, seed: params.seed })
    }

    /// All rows of a stage.
    pub fn named(name: &str, inputs: &Inputs) -> Result<Data> {
        Ok(Data { portions: vec![Of::new(&Portion::all(name), inputs)?], mixed: None, seed: 0 })
    }

    /// What the rows depend on, for a recipe: contents of one table, or what there is to say of each portion.
    pub fn named_in_recipe(&self) -> Value {
        let Some(mixed) = &self.mixed else { return json!(self.portions[0].contents()) };
        let portions = mixed.iter().zip(&self.portions).map(|(portion, of)| {
            let mut named = json!({
                "contents": of.contents(),
                "share": portion.share,
                "rows": portion.rows,
                "weight": of.weight,
                "sources": of.sources,
                "row_weights": of.weights.as_ref().map(WeightsOf::named),
                "highest": of.highest.as_ref().map(WeightsOf::named),
                "logprobs": of.reference_contents(),
            });
            if let Some(problems) = &of.per_source {
                named["per_source"] = json!(problems.contents());
            }
            named
        });
        json!(portions.collect::<Vec<_>>())
    }

    /// Contents of the log-probs under a reference policy, and what row weights depend on, where one table is trained on that has
    /// them.
    pub fn beside(&self) -> (Option<Vec<&Address>>, Option<Value>) {
        match &self.mixed {
            Some(_) => (None, None),
            None => (self.portions[0].reference_contents(), self.portions[0].weights.as_ref().map(WeightsOf::named)),
        }
    }

    /// The rows, in table order, one portion after the other.
    pub fn examples(&self) -> Result<Vec<TrainExample>> {
        let found = self.portions.iter().map(Of::examples).collect::<Result<Vec<_>>>()?;
        let Some(mixed) = &self.mixed else { return Ok(found.into_iter().flatten().collect()) };
        let sizes = sizes(mixed, &found.iter().map(Vec::len).collect::<Vec<_>>());
        let mut examples = Vec::new();
        for ((of, found), size) in self.portions.iter().zip(&found).zip(sizes) {
            let names: Vec<String> = found.iter().map(|example| example.name.clone()).collect();
            let values = of.values()?;
            let taken = match of.problem_sources()? {
                Some(groups) => picked_of_each(&groups, &names, values.as_deref(), size, self.seed),
                None => picked(&names, values.as_deref(), size, self.seed),
            };
            examples.extend(taken.into_iter().map(|index| found[index].clone()));
        }
        Ok(examples)
    }

    /// How many rows each portion gives.
    pub fn sizes(&self) -> Result<Vec<usize>> {
        let available = self.portions.iter().map(Of::row_count).collect::<Result<Vec<_>>>()?;
        Ok(match &self.mixed {
            Some(mixed) => sizes(mixed, &available),
            None => available,
        })
    }

    pub fn row_count(&self) -> Result<usize> {
        Ok(self.sizes()?.iter().sum())
    }

    pub fn is_mixed(&self) -> bool {
        self.mixed.is_some()
    }

    /// Tokens of all rows, if their parts say: those of a portion are counted as if all of its rows were as long, those of other
    /// sources included.
    pub fn tokens(&self) -> Result<Option<u64>> {
        let mut all = 0;
        for (of, size) in self.portions.iter().zip(self.sizes()?) {
            let (tokens, rows) = match &of.table {
                Rows::Examples(table) => (tokens(table.parts()), table.row_count()),
                Rows::Rewrites(table) => (tokens(table.parts()), table.row_count()),
            };
            let Some(tokens) = tokens else { return Ok(None) };
            all += tokens * size as u64 / rows.max(1);
        }
        Ok(Some(all))
    }
}

impl Of {
    fn new(portion: &Portion, inputs: &Inputs) -> Result<Of> {
        let name = &portion.from;
        let is_rewrites = inputs.manifest(name).is_some_and(|m| m.main_table.as_deref() == Some(Rewrite::TABLE));
        let table = match is_rewrites {
            true => Rows::Rewrites(inputs.table(name)?),
            false => Rows::Examples(inputs.table(name)?),
        };
        let reference = portion.logprobs.as_ref().filter(|_| is_rewrites).map(|name| inputs.table(name)).transpose()?;
        let weights = portion.row_weights.as_ref().map(|weights| WeightsOf::of(weights, inputs)).transpose()?;
        let highest = portion.highest.as_ref().map(|highest| WeightsOf::stage(&highest.from, &highest.column, inputs));
        let (sources, weight, highest) = (portion.sources.clone(), portion.weight, highest.transpose()?);
        let per_source = portion.per_source.as_ref().map(|name| inputs.table(name)).transpose()?;
        Ok(Of { table, reference, sources, weight, weights, highest, per_source })
    }

    fn contents(&self) -> Vec<&Address> {
        match &self.table {
            Rows::Rewrites(rewrites) => rewrites.contents(),
            Rows::Examples(table) => table.contents(),
        }
    }

    fn reference_contents(&self) -> Option<Vec<&Address>> {
        self.reference.as_ref().map(Table::contents)
    }

    fn row_count(&self) -> Result<usize> {
        match &self.table {
            Rows::Examples(table) => Ok(table.row_count() as usize),
            Rows::Rewrites(rewrites) if self.sources.is_empty() => Ok(rewrites.row_count() as usize),
            Rows::Rewrites(rewrites) => {
                let rows: Vec<OfSource> = rewrites.select(&["source"])?;
                Ok(rows.iter().filter(|row| self.sources.contains(&row.source)).count())
            }
        }
    }

    /// What rows are chosen by, in table order.
    fn values(&self) -> Result<Option<Vec<f64>>> {
        let Some(highest) = &self.highest else { return Ok(None) };
        let values = highest.read(self.key())?;
        self.each(|id, choice| values.of(id, choice)).map(Some)
    }

    /// The source of every row's problem, in table order, where rows are taken by it.
    fn problem_sources(&self) -> Result<Option<Vec<String>>> {
        let Some(problems) = &self.per_source else { return Ok(None) };
        let rows: Vec<SourceOf> = problems.select(&["problem_id", "source"])?;
        let known: HashMap<String, String> = rows.into_iter().map(|row| (row.problem_id, row.source)).collect();
        let source = |id: &str, _| {
            known.get(id).cloned().ok_or_else(|| {
                Error::input(format!("problem `{id}` is none of those that `per_source` names"))
                    .hint("name the ingest stage that the rows' problems are of")
            })
        };
        self.each(source).map(Some)
    }

    /// Something of every row of the sources wanted, by its id and choice, in table order.
    fn each<T>(&self, of: impl Fn(&str, Option<u32>) -> Result<T>) -> Result<Vec<T>> {
        let wanted = |source| self.sources.is_empty() || self.sources.contains(&source);
        match &self.table {
            Rows::Rewrites(rewrites) => {
                let rows: Vec<Keyed> = rewrites.select(&["problem_id", "choice_index", "source"])?;
                let rows = rows.iter().filter(|row| wanted(row.source));
                rows.map(|row| of(&row.problem_id, Some(row.choice_index))).collect()
            }
            Rows::Examples(table) => {
                let rows: Vec<ExampleId> = table.select(&["example_id"])?;
                rows.iter().map(|row| of(&row.example_id, None)).collect()
            }
        }
    }

    fn key(&self) -> &'static str {
        match &self.table {
            Rows::Rewrites(_) => "problem_id",
            Rows::Examples(_) => "example_id",
        }
    }

    /// All rows of the sources wanted, in table order.
    fn examples(&self) -> Result<Vec<TrainExample>> {
        match &self.table {
            Rows::Rewrites(rewrites) => {
                let weights =
                    self.weights.as_ref().map(|weights| weights.read(self.key())?.non_negative()).transpose()?;
                let mut columns = match &self.reference {
                    Some(table) => by_target(table.read_all()?),
                    None => HashMap::new(),
                };
                let wanted = |row: &Rewrite| self.sources.is_empty() || self.sources.contains(&row.source);
                let rows: Vec<Rewrite> = rewrites.read_all()?.into_iter().filter(wanted).collect();
                let mut longest: HashMap<&str, u32> = HashMap::new();
                for row in &rows {
                    let most = longest.entry(&row.problem_id).or_default();
                    *most = (*most).max(row.token_ids.len() as u32);
                }
                let example = |row: &Rewrite| {
                    let column = columns.remove(&(row.problem_id.clone(), row.choice_index));
                    let weight = weights.as_ref().map_or(Ok(1.0), |w| w.of(&row.problem_id, Some(row.choice_index)))?;
                    let (weight, longest) = (weight as f32 * self.weight, Some(longest[row.problem_id.as_str()]));
                    Ok(TrainExample { weight, longest, ..from_rewrite(row, column) })
                };
                rows.iter().map(example).collect()
            }
            Rows::Examples(table) => {
                let weights =
                    self.weights.as_ref().map(|weights| weights.read(self.key())?.non_negative()).transpose()?;
                let rows = table.read_all()?.into_iter();
                rows.map(|row| {
                    let weight =
                        weights.as_ref().map_or(Ok(1.0), |w| w.of(&row.example_id, None))? as f32 * self.weight;
                    let name = format!("example `{}`", row.example_id);
                    Ok(TrainExample { name, weight, ..TrainExample::new(row.token_ids, row.loss_mask, NO_SOURCE) })
                })
                .collect()
            }
        }
    }
}

/// Reference log-probs by problem and choice.
fn by_target(rows: Vec<Logprob>) -> HashMap<(String, u32), Vec<f32>> {
    rows.into_iter().map(|row| ((row.problem_id, row.choice_index), row.logprob_policy)).collect()
}

fn from_rewrite(row: &Rewrite, reference: Option<Vec<f32>>) -> TrainExample {
    let token_ids: Vec<u32> = row.prompt_ids.iter().chain(&row.token_ids).copied().collect();
    let loss_mask = (0..token_ids.len()).map(|i| i >= row.prompt_ids.len().max(1)).collect();
    let mut example = TrainExample::new(token_ids, loss_mask, row.source as u32);
    example.name = format!("problem `{}`, target {}", row.problem_id, row.choice_index);
    // Columns over prompt and target; what the prompt's entries hold is never read.
    let whole = |target: Vec<f32>| {
        let mut column = vec![0.0; row.prompt_ids.len()];
        column.extend(target);
        column
    };
    // A target cut off where it was scored has no reference: the loss says so, if it needs one.
    example.logprob_reference = reference.filter(|column| column.len() == row.token_ids.len()).map(whole);
    example.logprob_behavior = row.logprob_behavior.clone().map(whole);
    example
}
