//! The page that lies beside exported rows: where they came from, and how their trainer is pointed at them.

use super::{Content, Drift, Format, Options, Rows, Target};
use mindgap_base::address::Address;
use mindgap_lm::model::chat::Conversation;
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

/// A dataset card: `datasets.load_dataset` of the folder reads the rows' file and no other. `rows` is that file's address: the
/// library keeps what it has read under the names of folder and configuration, so the configuration is named by the rows.
pub fn card(
    format: Format,
    rows: &Rows,
    options: &Options,
    drift: Option<&Drift>,
    lineage: &Lineage,
    address_of_rows: &Address,
) -> String {
    let Lineage { pipeline, stage, fingerprint, address, .. } = lineage;
    let stale: String = lineage.stale.iter().map(|why| format!("- stale: {why}\n")).collect();
    let drift: String = drift.iter().flat_map(|drift| drift.notes()).map(|note| format!("- {note}\n")).collect();
    format!(
        "---\nconfigs:\n- config_name: rows-{config}\n  data_files: {file}\n---\n# {name}\n\n\
         {count} in the layout `{format}`.\n\n\
         Written by `mindgap export` {version} from stage `{stage}` of pipeline `{pipeline}`.\n\n\
         - address: `{address}`\n- fingerprint: `{fingerprint}`\n{stale}{drift}\n{usage}\n{conversations}",
        config = address_of_rows.short(),
        file = format.file(),
        name = lineage.dataset_name(),
        count = count(rows),
        format = format.name(),
        version = env!("CARGO_PKG_VERSION"),
        usage = usage(format, rows, options, lineage),
        conversations = conversations(format, &rows.shown()),
    )
}

/// How many rows, and of what.
fn count(rows: &Rows) -> String {
    let targets = match rows {
        Rows::Targets(targets) => targets,
        Rows::Prompts(prompts) => return format!("{} rows, one for each problem,", prompts.len()),
        Rows::Soft(texts) => return format!("{} rows, one for each text of the teacher's,", texts.rows),
    };
    let count = |source: Source| targets.iter().filter(|target| target.rewrite.source == source).count();
    let counts = Source::ALL.iter().map(|source| (source, count(*source)));
    // Most data sets have no samples from elsewhere.
    let counts = counts.filter(|(source, count)| **source != Source::Teacher || *count > 0);
    let counts: Vec<String> = counts.map(|(source, count)| format!("{count} {source}")).collect();
    format!("{} rows ({})", targets.len(), counts.join(", "))
}

/// What a trainer must know of prompts that are more than the user's turn.
fn conversations(format: Format, shown: &[&Conversation]) -> String {
    let mut notes = String::new();
    let turns = shown.iter().map(|shown| shown.messages.len()).max().unwrap_or(0);
    if turns > 1 {
        let target = match format.content() {
            Content::Targets => "; the answer to the last is the target",
            _ => "",
        };
        notes.push_str(&format!("\nThe prompt has up to {turns} turns{target}.\n"));
    }
    if shown.iter().any(|shown| shown.messages.iter().any(|message| message.role == "assistant")) {
        notes.push_str(match format {
            Format::LlamaFactory => "\nIt trains on answers of earlier turns too, unless told `mask_history: true`.\n",
            Format::Swift => "\nIt trains on answers of earlier turns too, unless told `--loss_scale last_round`.\n",
            Format::Axolotl | Format::Verl => {
                "\nIt trains on answers of earlier turns too; `--format pretokenized` does not.\n"
            }
            _ => "",
        });
    }
    let mut kwargs: Vec<&String> = shown.iter().flat_map(|shown| shown.template_kwargs.keys()).collect();
    kwargs.sort();
    kwargs.dedup();
    if !kwargs.is_empty() {
        let names: Vec<String> = kwargs.iter().map(|name| format!("`{name}`")).collect();
        let carried = match format {
            Format::Trl | Format::Preference | Format::SwiftOpsd | Format::SwiftGrpo => {
                "the column `chat_template_kwargs` does"
            }
            Format::TrlSdft | Format::TrlGrpo => "set `chat_template_kwargs` of its configuration",
            Format::VerlGrpo => "set `data.apply_chat_template_kwargs`",
            Format::Pretokenized => "`input_ids` are made with them",
            Format::Verl => "the column `enable_thinking` does for that one; set others in the trainer",
            _ => "this layout cannot: set them in the trainer",
        };
        notes.push_str(&format!("\nThe chat template is to be given {}: {carried}.\n", names.join(", ")));
    }
    if shown.iter().any(|shown| !shown.prefill.is_empty()) {
        let trained = match format {
            Format::Pretokenized => "its labels are -100, as the prompt's are",
            _ => "a trainer of texts trains on it too",
        };
        notes.push_str(&format!("\nAnswers begin with the prefill that the policy was given: {trained}.\n"));
    }
    notes
}

/// How the trainer is pointed at the rows.
fn usage(format: Format, rows: &Rows, options: &Options, lineage: &Lineage) -> String {
    match format {
        Format::Trl => "TRL: `SFTTrainer(train_dataset=load_dataset(\"json\", data_files=\"train.jsonl\", \
                        split=\"train\"))`; the loss is on the completion alone."
            .to_string(),
        Format::Verl => {
            "verl: `data.train_files=train.parquet`; its SFT trainer looks for `messages` by default. With a \
                         chat template that writes thoughts into every last answer, as Qwen3's does, also \
                         `data.ignore_input_ids_mismatch=True`, which leaves them out."
                .to_string()
        }
        Format::VerlPaper => "verl, single turn, up to version 0.7.0: `data.prompt_key=extra_info \
                              data.prompt_dict_keys=['question'] data.response_key=extra_info \
                              data.response_dict_keys=['answer']`; it needs `transformers<5` and `pandas<3`. Later \
                              versions have no such data set (`--format verl` is for them); all read the file for \
                              reinforcement learning, where `data.prompt_key` is `prompt`."
            .to_string(),
        Format::LlamaFactory => format!(
            "LLaMA-Factory: `dataset_dir: .` and `dataset: {}`. Without `template:` it derives one from the policy's own; a \
             named one may put in another system prompt (`qwen` does for Qwen2.5-Math). Where it says `A placeholder is \
             required in the string formatter`, the policy's template cannot be derived from: `--format pretokenized` \
             trains without one.",
            lineage.dataset_name()
        ),
        Format::Axolotl => {
            "axolotl: `datasets: [{path: train.jsonl, ds_type: json, type: chat_template}]`.".to_string()
        }
        Format::Swift => match rows {
            Rows::Targets(targets) => swift(targets, options),
            _ => String::new(),
        },
        Format::OpenRlhf => {
            "OpenRLHF: `--data.input_key input --data.output_key output --data.apply_chat_template`.".to_string()
        }
        Format::Pretokenized => {
            "Chat template and end-of-sequence token are in `input_ids`; `labels` are -100 where no loss \
                                 counts, and not shifted. TRL takes the table as it is; axolotl with an empty `type:`. \
                                 LLaMA-Factory takes `tokenized_path: D` after `DatasetDict({\"train\": \
                                 load_dataset(\"parquet\", data_files=\"train.parquet\", \
                                 split=\"train\")}).save_to_disk(D)`, with `template: empty` and any name it knows as \
                                 `dataset:`. `rows.jsonl` says where each row came from."
                .to_string()
        }
        Format::Preference => "TRL: `DPOTrainer(train_dataset=load_dataset(\"json\", data_files=\"train.jsonl\", \
                               split=\"train\"))`."
            .to_string(),
        Format::TrlSdft => sdft(rows),
        Format::TrlGrpo => "TRL: `GRPOTrainer(train_dataset=load_dataset(\"json\", data_files=\"train.jsonl\", \
                            split=\"train\"), reward_funcs=accuracy_reward)`, of `trl.rewards` or of `mindgap.trl`; \
                            `solution` is the answer."
            .to_string(),
        Format::VerlGrpo => "verl: `data.train_files=train.parquet`. A reward function gets `data_source`, the answer as \
                             `ground_truth`, and `extra_info`; verl's own knows data sets by `data_source`, so name one: \
                             `reward.custom_reward_function.path=pkg://mindgap.verl \
                             reward.custom_reward_function.name=compute_score`."
            .to_string(),
        Format::SwiftOpsd => "ms-swift: `swift rlhf --rlhf_type gkd --dataset train.jsonl`, or `--rlhf_type grpo` with a \
                              reward. `teacher_prompt` is shown to the teacher in place of the user's last turn. Take the \
                              `--template` whose system prompt is the policy's own."
            .to_string(),
        Format::SwiftGrpo => "ms-swift: `swift rlhf --rlhf_type grpo --dataset train.jsonl --reward_funcs accuracy`; \
                              `solution` is the answer. Take the `--template` whose system prompt is the policy's own."
            .to_string(),
        Format::AxolotlKd => "axolotl: `plugins: [axolotl.integrations.kd.KDPlugin]`, `kd_trainer: true`, `kd_ce_alpha: \
                              0.0`, `kd_alpha: 1.0`, `kd_temperature: 1.0`, `kd_normalize_topk: true`, `datasets: [{path: \
                              train.parquet, ds_type: parquet, type: \"\"}]`. The loss is the forward divergence over the \
                              teacher's likeliest tokens, among which the probability of all others is shared out. Chat \
                              template and end-of-sequence token are in `input_ids`. `rows.jsonl` says where each row \
                              came from."
            .to_string(),
    }
}

fn sdft(rows: &Rows) -> String {
    let is_taught = matches!(rows, Rows::Prompts(prompts) if prompts.iter().any(|prompt| prompt.taught.is_some()));
    let context = match is_taught {
        true => {
            "`privileged_context` is all that stands behind the prompt in what the soft stage's teacher is shown: set \
             `teacher_prompt_template=\"{prompt}{privileged_context}\"`"
        }
        false => {
            "`privileged_context` is the expert's solution; `teacher_prompt_template` is what is said around it, an empty \
             line between the two unless it is set"
        }
    };
    format!(
        "TRL: `trl.experimental.sdft.SDFTTrainer(train_dataset=load_dataset(\"json\", data_files=\"train.jsonl\", \
         split=\"train\"))`. {context}. Prompts are cut from the left at `max_prompt_length`, 512 tokens unless it is set: \
         the teacher's too."
    )
}

fn swift(targets: &[Target], options: &Options) -> String {
    let weighted = targets.iter().any(|target| options.weights.contains_key(&target.rewrite.source));
    let (flag, weights) = match weighted {
        true => (
            " --is_binary_loss_scale false",
            " Without the flag it ignores the weights; the end-of-sequence token keeps weight 1 in any case.",
        ),
        false => ("", ""),
    };
    let weightless = options.weights.iter().filter(|(_, weight)| **weight == 0.0);
    let left_out: Vec<String> = weightless.map(|(source, _)| format!("`{source}`")).collect();
    let left_out = match left_out.is_empty() {
        true => String::new(),
        false => format!(" Rows of {} have weight 0 and are left out.", left_out.join(" and ")),
    };
    format!(
        "ms-swift: `--dataset train.jsonl{flag}`.{weights}{left_out} Take the `--template` whose system prompt is the policy's \
         own (`qwen2_5_math`, not `qwen2_5`, for Qwen2.5-Math), and not `--template_backend jinja`, which trains on the prompt \
         too."
    )
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
        let rows = Address::of(b"rows");
        let write = |format, options: &Options, drift, lineage: &Lineage| {
            card(format, &Rows::Targets(vec![target]), options, drift, lineage, &rows)
        };
        let plain = Options::default();
        let text = write(Format::LlamaFactory, &plain, None, &lineage());
        let head = format!("---\nconfigs:\n- config_name: rows-{}\n  data_files: train.jsonl\n", &rows.as_str()[..12]);
        assert!(text.starts_with(&head), "{text}");
        let golden = "---\n# demo-rewrites\n\n1 rows (1 self, 0 guided, 0 expert) in the layout `llamafactory`.\n\n";
        assert!(text[head.len()..].starts_with(golden), "{text}");
        for word in ["stage `rewrites` of pipeline `demo`", "`b1`", "`f1`", "`dataset: demo-rewrites`"] {
            assert!(text.contains(word), "{text}");
        }
        assert!(!text.contains("stale"), "{text}");
        let stale = ["samples: 2 -> 3".to_string()];
        let drift = Drift { retokenized: 1, ..Drift::default() };
        let text = write(Format::LlamaFactory, &plain, Some(&drift), &Lineage { stale: &stale, ..lineage() });
        assert!(text.contains("- fingerprint: `f1`\n- stale: samples: 2 -> 3\n- 1 rows come out as other"), "{text}");
    }
}
