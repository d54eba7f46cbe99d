//! The page that lies beside exported rows: where they came from, and how their trainer is pointed at them.

use super::{Format, Target};
use mindgap_store::table::rewrites::Source;

/// What was exported.
#[derive(Clone, Copy, Debug)]
pub struct Lineage<'a> {
    pub pipeline: &'a str,
    pub stage: &'a str,
    /// The recipe, and the rows' address, as `mindgap status` says them.
    pub fingerprint: &'a str,
    pub address: &'a str,
    /// Why the pipeline file asks for other rows now; empty where it asks for these.
    pub stale: &'a [String],
}

impl Lineage<'_> {
    pub fn dataset_name(&self) -> String {
        format!("{}-{}", self.pipeline, self.stage)
    }
}

/// A dataset card: `datasets.load_dataset` of the folder reads the rows' file and no other.
pub fn card(format: Format, targets: &[Target], lineage: &Lineage) -> String {
    let count = |source: Source| targets.iter().filter(|target| target.rewrite.source == source).count();
    let counts = Source::ALL.iter().map(|source| (source, count(*source)));
    // Most data sets have no samples from elsewhere.
    let counts = counts.filter(|(source, count)| **source != Source::Teacher || *count > 0);
    let counts: Vec<String> = counts.map(|(source, count)| format!("{count} {source}")).collect();
    let Lineage { pipeline, stage, fingerprint, address, .. } = lineage;
    let stale: String = lineage.stale.iter().map(|why| format!("- stale: {why}\n")).collect();
    format!(
        "---\nconfigs:\n- config_name: default\n  data_files: {file}\n---\n# {name}\n\n\
         {rows} rows ({counts}) in the layout `{format}`.\n\n\
         Written by `mindgap export` {version} from stage `{stage}` of pipeline `{pipeline}`.\n\n\
         - address: `{address}`\n- fingerprint: `{fingerprint}`\n{stale}\n{usage}\n{conversations}",
        file = format.file(),
        name = lineage.dataset_name(),
        rows = targets.len(),
        counts = counts.join(", "),
        format = format.name(),
        version = env!("CARGO_PKG_VERSION"),
        usage = usage(format, lineage),
        conversations = conversations(format, targets),
    )
}

/// What a trainer must know of prompts that are more than the user's turn.
fn conversations(format: Format, targets: &[Target]) -> String {
    let mut notes = String::new();
    let turns = targets.iter().map(|target| target.shown.messages.len()).max().unwrap_or(0);
    if turns > 1 {
        notes.push_str(&format!("\nThe prompt has up to {turns} turns; the answer to the last is the target.\n"));
    }
    let mut kwargs: Vec<&String> = targets.iter().flat_map(|target| target.shown.template_kwargs.keys()).collect();
    kwargs.sort();
    kwargs.dedup();
    if !kwargs.is_empty() {
        let names: Vec<String> = kwargs.iter().map(|name| format!("`{name}`")).collect();
        let carried = match format {
            Format::Trl | Format::Preference => "the column `chat_template_kwargs` does",
            Format::Pretokenized => "`input_ids` are made with them",
            Format::Verl => "the column `enable_thinking` does for that one; set others in the trainer",
            _ => "this layout cannot: set them in the trainer",
        };
        notes.push_str(&format!("\nThe chat template is to be given {}: {carried}.\n", names.join(", ")));
    }
    if targets.iter().any(|target| !target.shown.prefill.is_empty()) {
        let trained = match format {
            Format::Pretokenized => "its labels are -100, as the prompt's are",
            _ => "a trainer of texts trains on it too",
        };
        notes.push_str(&format!("\nAnswers begin with the prefill that the policy was given: {trained}.\n"));
    }
    notes
}

fn usage(format: Format, lineage: &Lineage) -> String {
    let name = lineage.dataset_name();
    match format {
        Format::Trl => {
            "TRL: `SFTTrainer(train_dataset=load_dataset(\"json\", data_files=\"train.jsonl\", split=\"train\"))`; \
                        the loss is on the completion alone."
                .to_string()
        }
        Format::Verl => {
            "verl: `data.train_files=train.parquet`; its SFT trainer looks for `messages` by default.".to_string()
        }
        Format::VerlPaper => "verl, single turn: `data.prompt_key=extra_info data.prompt_dict_keys=['question'] \
                              data.response_key=extra_info data.response_dict_keys=['answer']`."
            .to_string(),
        Format::LlamaFactory => format!("LLaMA-Factory: `dataset_dir: .` and `dataset: {name}`."),
        Format::Axolotl => {
            "axolotl: `datasets: [{path: train.jsonl, ds_type: json, type: chat_template}]`.".to_string()
        }
        Format::Swift => {
            "ms-swift: `--dataset train.jsonl`; with weights above 1 also `--is_binary_loss_scale false`.".to_string()
        }
        Format::OpenRlhf => {
            "OpenRLHF: `--data.input_key input --data.output_key output --data.apply_chat_template`.".to_string()
        }
        Format::Pretokenized => {
            "Chat template and end-of-sequence token are in `input_ids`; `labels` are -100 where no loss \
                                 counts, and not shifted. TRL takes the table as it is; axolotl with an empty `type:`. \
                                 `rows.jsonl` says where each row came from."
                .to_string()
        }
        Format::Preference => "TRL: `DPOTrainer(train_dataset=load_dataset(\"json\", data_files=\"train.jsonl\", \
                               split=\"train\"))`."
            .to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{lineage, problems, rewrites, shown};
    use super::*;

    #[test]
    fn names_the_file_the_counts_and_the_address() {
        let (problems, rewrites) = (problems(), rewrites());
        let shown = shown(false);
        let target = Target { rewrite: &rewrites[0], problem: &problems[0], shown: &shown[0], incorrect: None };
        let text = card(Format::LlamaFactory, &[target], &lineage());
        let golden = "---\nconfigs:\n- config_name: default\n  data_files: train.jsonl\n---\n# demo-rewrites\n\n\
             1 rows (1 self, 0 guided, 0 expert) in the layout `llamafactory`.\n\n";
        assert!(text.starts_with(golden), "{text}");
        for word in ["stage `rewrites` of pipeline `demo`", "`b1`", "`f1`", "`dataset: demo-rewrites`"] {
            assert!(text.contains(word), "{text}");
        }
        assert!(!text.contains("stale"), "{text}");
        let stale = ["samples: 2 -> 3".to_string()];
        let text = card(Format::LlamaFactory, &[target], &Lineage { stale: &stale, ..lineage() });
        assert!(text.contains("- fingerprint: `f1`\n- stale: samples: 2 -> 3\n\n"), "{text}");
    }
}
