//! The rows a train stage reads, of one stage or of several.

use super::super::Inputs;
use super::Params;
use super::laid::Laid;
use super::mix::{DataOf, Portion, picked, picked_of_each, sizes};
use super::rows::{Needs, Rows};
use super::weights::WeightsOf;
use mindgap_base::error::Result;
use mindgap_lm::train::{Stratum, TrainExample};
use mindgap_store::Store;
use serde_json::{Value, json};

/// The rows of a training, read when a step takes them.
pub struct Examples {
    portions: Vec<Laid>,
    /// Portion and row of each.
    taken: Vec<(usize, usize)>,
}

impl Examples {
    /// The rows of one step.
    pub fn rows(&self, indices: &[u32]) -> Result<Vec<TrainExample>> {
        let row = |index: &u32| {
            let (portion, row) = self.taken[*index as usize];
            self.portions[portion].example(row)
        };
        indices.iter().map(row).collect()
    }

    pub fn all(&self) -> Result<Vec<TrainExample>> {
        self.taken.iter().map(|(portion, row)| self.portions[*portion].example(*row)).collect()
    }
}

/// What a policy is trained or evaluated on.
pub struct Data {
    portions: Vec<Rows>,
    /// How the portions are written; none where all rows of one stage are meant.
    mixed: Option<Vec<Portion>>,
    seed: u64,
}

impl Data {
    /// The rows trained on.
    pub fn of(params: &Params, inputs: &Inputs) -> Result<Data> {
        let portions = params.portions();
        let mixed = matches!(params.data, DataOf::Portions(_)).then(|| portions.clone());
        let needs = Needs::of(params)?;
        let portions = portions.iter().map(|portion| Rows::new(portion, inputs, &needs)).collect::<Result<_>>()?;
        Ok(Data { portions, mixed, seed: params.seed })
    }

    /// All rows of a stage.
    pub fn named(name: &str, inputs: &Inputs) -> Result<Data> {
        Ok(Data { portions: vec![Rows::new(&Portion::all(name), inputs, &Needs::default())?], mixed: None, seed: 0 })
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
            if let Some(soft) = &of.soft {
                named["soft"] = json!(soft.contents());
            }
            if let Some(rewards) = &of.rewards {
                named["rewards"] = rewards.named();
            }
            named
        });
        json!(portions.collect::<Vec<_>>())
    }

    /// What stands beside the rows of one table: names and contents, for a recipe.
    pub fn beside(&self) -> Vec<(&'static str, Value)> {
        let (None, [of]) = (&self.mixed, &self.portions[..]) else { return Vec::new() };
        let reference = of.reference_contents().map(|contents| ("logprobs", json!(contents)));
        let weights = of.weights.as_ref().map(|weights| ("row_weights", weights.named()));
        let soft = of.soft.as_ref().map(|soft| ("soft", json!(soft.contents())));
        let rewards = of.rewards.as_ref().map(|rewards| ("rewards", rewards.named()));
        [reference, weights, soft, rewards].into_iter().flatten().collect()
    }

    /// The rows, in table order, one portion after the other. What memory should not hold of them lies in the store's folder.
    pub fn examples(&self, store: &Store) -> Result<Examples> {
        let portions = self.portions.iter().map(|rows| Laid::of(rows, store)).collect::<Result<Vec<_>>>()?;
        let available: Vec<usize> = portions.iter().map(Laid::len).collect();
        let mut taken = Vec::new();
        let Some(mixed) = &self.mixed else {
            taken.extend((0..available[0]).map(|row| (0, row)));
            return Ok(Examples { portions, taken });
        };
        for (portion, size) in sizes(mixed, &available).into_iter().enumerate() {
            let (of, names) = (&self.portions[portion], portions[portion].names());
            let values = of.values()?;
            let rows = match of.problem_sources()? {
                Some(groups) => picked_of_each(&groups, &names, values.as_deref(), size, self.seed),
                None => picked(&names, values.as_deref(), size, self.seed),
            };
            taken.extend(rows.into_iter().map(|row| (portion, row)));
        }
        Ok(Examples { portions, taken })
    }

    /// How many rows each portion gives.
    pub fn sizes(&self) -> Result<Vec<usize>> {
        let available = self.portions.iter().map(Rows::row_count).collect::<Result<Vec<_>>>()?;
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
            let (tokens, rows) = of.tokens();
            let Some(tokens) = tokens else { return Ok(None) };
            all += tokens * size as u64 / rows.max(1);
        }
        Ok(Some(all))
    }

    /// How a step takes rows: samples with rewards by problems, and beside them what there is without, where the loss wants both.
    pub fn strata(&self, batch_size: u32, expert_share: Option<f64>) -> Result<Vec<Stratum>> {
        let sizes = self.sizes()?;
        let all = batch_size as usize;
        let Some(share) = expert_share else {
            let row_count = sizes.iter().sum();
            let groups = self.portions.iter().map(Rows::groups).collect::<Result<Option<Vec<_>>>>()?;
            return Ok(vec![Stratum { row_count, batch_size: all, groups: groups.map(|groups| groups.concat()) }]);
        };
        let experts = ((share * f64::from(batch_size)).round() as usize).clamp(1, (all - 1).max(1));
        let of_portion = |(of, row_count): (&Rows, usize)| {
            let groups = of.groups()?;
            let batch_size = if groups.is_some() { (all - experts).max(1) } else { experts };
            Ok(Stratum { row_count, batch_size, groups })
        };
        self.portions.iter().zip(sizes).map(of_portion).collect()
    }
}
