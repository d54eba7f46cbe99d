//! Pipeline files, templates and command lines.

use super::Ends::{Saying, Somehow, Well};
use super::{Case, Ends, run, strings, write};
use crate::support::{SMALL, root};

/// The small pipeline with a text of it replaced, planned.
fn spoiled(name: impl Into<String>, ends: Ends, from: &'static str, to: impl Into<String>) -> Case {
    let to = to.into();
    assert!(SMALL.contains(from), "`{from}` is not in the pipeline");
    Case::new(name, ends, move |folder| {
        let data = root().join("data").display().to_string();
        write(folder, "p.toml", SMALL.replacen(from, &to, 1).replace("DATA", &data));
        strings(["plan", "p.toml"])
    })
}

#[test]
fn pipelines() {
    let thousand: String = (0..1000).map(|i| format!("{i},")).collect();
    let hundred: Vec<String> = (0..100).map(|i| format!("\"{i}\"")).collect();
    let mut cases = vec![
        Case::new("an empty pipeline", Somehow, |folder| {
            write(folder, "p.toml", "");
            strings(["plan", "p.toml"])
        }),
        Case::new("bytes that are no text", Saying("error"), |folder| {
            write(folder, "p.toml", [0xff, 0xfe, 0, 0x1b, b'[', b'a']);
            strings(["plan", "p.toml"])
        }),
        Case::new("a very long line with an error", Saying("error"), |folder| {
            write(folder, "p.toml", format!("name = \"{}\" oops\n", "x".repeat(200_000)));
            strings(["plan", "p.toml"])
        }),
        Case::new("deep arrays", Saying("error"), |folder| {
            write(folder, "p.toml", format!("a = {}1{}", "[".repeat(50_000), "]".repeat(50_000)));
            strings(["plan", "p.toml"])
        }),
        Case::new("deep tables", Saying("error"), |folder| {
            write(folder, "p.toml", format!("a = {}1{}", "{a=".repeat(50_000), "}".repeat(50_000)));
            strings(["plan", "p.toml"])
        }),
        Case::new("deep keys", Saying("error"), |folder| {
            write(folder, "p.toml", format!("{}a = 1", "a.".repeat(100_000)));
            strings(["plan", "p.toml"])
        }),
        spoiled(
            "a matrix of a thousand million",
            Saying("its matrix makes 1000000000 stages"),
            "samples = 2",
            format!("samples = 2\nmatrix.a = [{thousand}]\nmatrix.b = [{thousand}]\nmatrix.c = [{thousand}]"),
        ),
        spoiled(
            "a matrix of ten thousand",
            Somehow,
            "samples = 2",
            format!("samples = 2\nmatrix.a = [{0}]\nmatrix.b = [{0}]", hundred.join(",")),
        ),
        spoiled(
            "rounds without end",
            Saying("makes 42949672953 rounds, more than 1000"),
            "[stages.problems]",
            "[loop]\nrounds = 42949672953\n[stages.problems]",
        ),
        spoiled(
            "lists of lists in every round",
            Saying("grows without bound"),
            "[stages.problems]",
            "[loop]\nrounds = 64\nvars.all = { earlier = \"{all}\" }\n[stages.problems]",
        ),
        spoiled(
            "a matrix in every round",
            Saying("stages, more than 50000"),
            "[stages.problems]",
            format!(
                "[loop]\nrounds = 1000\n[loop.stages.more]\nkind = \"rewrite\"\nproblems = \"problems\"\n\
                 matrix.a = [{0}]\npolicy = \"base\"\n[stages.problems]",
                hundred.join(",")
            ),
        ),
        spoiled(
            "samples without end",
            Saying("`samples` is 4294967295, more than"),
            "samples = 2",
            "samples = 4294967295",
        ),
        spoiled("samples beyond 32 bits", Saying("samples"), "samples = 2", "samples = 4294967296"),
        spoiled("samples below zero", Saying("samples"), "samples = 2", "samples = -1"),
        spoiled("tokens without end", Somehow, "max_new_tokens = 60", "max_new_tokens = 4294967295"),
        spoiled("parts of everything", Well, "samples = 2", "samples = 2\npart_samples = 4294967295"),
        spoiled("epochs without end", Saying("`epochs` is 4294967295, more than"), "steps = 4", "epochs = 4294967295"),
        spoiled("steps without end", Somehow, "steps = 4", "steps = 4294967295"),
        spoiled("a batch without end", Somehow, "batch_size = 8", "batch_size = 4294967295"),
        spoiled("a rate that is no number", Saying("learning_rate"), "learning_rate = 1e-4", "learning_rate = nan"),
        spoiled("a warm-up that is no number", Saying("warmup_ratio"), "steps = 4", "steps = 4\nwarmup_ratio = nan"),
        spoiled("a warm-up beyond the end", Saying("warmup_ratio"), "steps = 4", "steps = 4\nwarmup_ratio = 1e300"),
        spoiled(
            "a temperature that is no number",
            Saying("temperature"),
            "samples = 2",
            "samples = 2\ntemperature = nan",
        ),
        spoiled("an infinite temperature", Saying("temperature"), "samples = 2", "samples = 2\ntemperature = inf"),
        spoiled("a limit below zero", Saying("limit"), "limit = 24", "limit = -3"),
        spoiled("a name that is a path", Saying("name"), "name = \"small\"", "name = \"../../x\""),
        spoiled("a name of control characters", Saying("name"), "name = \"small\"", "name = \"a\\u001b[31m\""),
        spoiled("a name without end", Somehow, "name = \"small\"", format!("name = \"{}\"", "n".repeat(300))),
        spoiled(
            "a stage that needs itself",
            Saying("error"),
            "policy = \"base\"\nsamples",
            "policy = \"base\"\nunsolved = [\"verdicts\"]\nsamples",
        ),
        spoiled("a file that is the pipeline", Somehow, "DATA/world/train-0.parquet", "p.toml"),
        spoiled(
            "a file in a way up",
            Saying("error"),
            "DATA/world/train-0.parquet",
            "../".repeat(500) + "etc/shadow-is-not-here",
        ),
        spoiled("a NUL in a path", Saying("error"), "DATA/world/train-0.parquet", "a\\u0000b"),
        spoiled("a path without end", Saying("error"), "DATA/world/train-0.parquet", "a/".repeat(5000)),
    ];
    // Every value as something else.
    for (value, _) in [("24", 0), ("8", 0), ("2", 0), ("60", 0)] {
        for other in ["true", "[]", "{}", "\"\"", "1979-05-27", "0.5", "-0", "1e400", "0x7fffffffffffffff"] {
            for key in ["limit", "part_problems", "samples", "max_new_tokens"] {
                let from: &'static str = Box::leak(format!("{key} = {value}").into_boxed_str());
                if SMALL.contains(from) {
                    cases.push(spoiled(format!("{key} = {other}"), Somehow, from, format!("{key} = {other}")));
                }
            }
        }
    }
    // The file cut short everywhere.
    for cut in (1..SMALL.len()).step_by(SMALL.len() / 40) {
        cases.push(Case::new(format!("cut at {cut}"), Somehow, move |folder| {
            write(folder, "p.toml", &SMALL[..cut]);
            strings(["plan", "p.toml"])
        }));
    }
    run("pipelines", cases);
}

/// Goal: a chain of very many stages is planned in the time of a case.
#[test]
fn long_chains() {
    let chain = |count: usize| {
        let mut text = String::from("name = \"chain\"\n[policies]\np0 = { path = \"policy\" }\n");
        (1..=count).for_each(|i| text += &format!("p{i} = {{ stage = \"t{i}\" }}\n"));
        text += "[stages.documents]\nkind = \"documents\"\npolicy = \"p0\"\nfiles = [\"a.jsonl\"]\n";
        for i in 1..=count {
            text += &format!(
                "[stages.t{i}]\nkind = \"train\"\npolicy = \"p{}\"\ndata = \"documents\"\nloss = \"sft\"\nlearning_rate = 1e-4\nbatch_size = 1\nsteps = 1\n",
                i - 1
            );
        }
        text
    };
    let case = |count: usize| {
        Case::new(format!("{count} policies"), Well, move |folder| {
            super::policy(folder);
            write(folder, "a.jsonl", "{\"text\":\"some words\"}\n");
            write(folder, "p.toml", chain(count));
            strings(["plan", "p.toml"])
        })
    };
    run("chains", vec![case(1500)]);
}

#[test]
fn templates() {
    let bombs = [
        ("loops", "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}{{ question }}".to_string()),
        ("a text without end", format!("{{% for a in range(99999) %}}{}{{% endfor %}}{{{{ question }}}}", "x".repeat(5000))),
        ("a wide format", "{{ question }}{{ '%099999999d' % 1 }}".to_string()),
        ("many repetitions", "{{ question }}{{ 'x' * 9999999999 }}".to_string()),
        ("nots", format!("{{{{ question }}}}{{{{ {} 1 }}}}", "not ".repeat(60_000))),
        ("minuses", format!("{{{{ question }}}}{{{{ {}1 }}}}", "-".repeat(200_000))),
        ("sums", format!("{{{{ question }}}}{{{{ {}1 }}}}", "1+".repeat(120_000))),
        ("filters", format!("{{{{ question{} }}}}", "|upper".repeat(40_000))),
        ("brackets", format!("{{{{ question }}}}{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000))),
        ("lists", format!("{{{{ question }}}}{{{{ {}1{} }}}}", "[".repeat(100_000), "]".repeat(100_000))),
        ("blocks", format!("{{{{ question }}}}{}{}", "{% if 1 %}".repeat(20_000), "{% endif %}".repeat(20_000))),
        ("nested values", "{% set n = namespace(v=1) %}{% for a in range(60000) %}{% set n.v = [n.v] %}{% endfor %}{{ question }}{{ n.v }}".to_string()),
        ("nested values compared", "{% set n = namespace(v=1) %}{% for a in range(60000) %}{% set n.v = [n.v] %}{% endfor %}{{ question }}{{ n.v == n.v }}".to_string()),
        ("a macro that calls itself", "{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ question }}{{ m(1) }}".to_string()),
        ("an unknown variable", "{{ question }}{{ secret }}".to_string()),
        ("half a tag", "{{ question".to_string()),
        ("an inclusion", "{% include '/etc/passwd' %}{{ question }}".to_string()),
        ("bytes", "{{ question }}\u{1b}]0;x\u{7}".to_string()),
        ("half a megabyte", "{{ question }}".to_string() + &"y".repeat(500_000)),
    ];
    // What fills the memory in few steps: what is made costs fuel, and where it does not, memory is bounded.
    const FUEL: &str = "ran out of fuel";
    let doubled = |twice: &str| {
        let twice = format!(
            "{{% set n = namespace(v=VALUE) %}}{{% for a in range(60) %}}{{% set n.v = {twice} %}}{{% endfor %}}"
        );
        twice + "{{ question }}{{ n.v|length }}"
    };
    let large = "{% set n = namespace(v='x' * 60000000) %}{{ question }}";
    let floods = [
        ("a doubled text", doubled("n.v ~ n.v").replace("VALUE", "'xy'"), FUEL),
        ("a text added to itself", doubled("n.v + n.v").replace("VALUE", "'xy'"), FUEL),
        ("a doubled text in a list", doubled("[n.v ~ n.v]|join").replace("VALUE", "'xy'"), FUEL),
        (
            "a list of long texts",
            format!("{large}{{{{ [n.v, n.v, n.v, n.v, n.v]|join|length }}}}"),
            "takes more than 256 MiB of memory",
        ),
        (
            "long texts made again and again",
            format!("{large}{{% for a in range(90000) %}}{{% if n.v|upper == 1 %}}{{% endif %}}{{% endfor %}}"),
            FUEL,
        ),
        ("replacements", format!("{large}{{{{ n.v|replace('x', 'xxxxxxxxxx')|length }}}}"), FUEL),
    ];
    let rollouts = "name = \"t\"\n[policies]\np = { path = \"policy\" }\n[stages.problems]\nkind = \"ingest\"\nfiles = [\"a.jsonl\"]\n\
        [stages.rollouts]\nkind = \"rollout\"\nproblems = \"problems\"\npolicy = \"p\"\ntemplate = \"t.j2\"\nsamples = 1\nmax_new_tokens = 1\n";
    let mut cases = Vec::new();
    let bombs = bombs.map(|(name, template)| (name, template, Somehow));
    let floods = floods.map(|(name, template, says)| (name, template, Saying(says)));
    for (name, template, ends) in floods.into_iter().chain(bombs) {
        let text = template.clone();
        cases.push(Case::new(format!("a prompt template of {name}"), ends.clone(), move |folder| {
            super::policy(folder);
            write(folder, "a.jsonl", r#"{"question":"1+1?","answer":"2","solution":"It is 2."}"#);
            write(folder, "t.j2", &text);
            write(folder, "p.toml", rollouts);
            strings(["run", "p.toml"])
        }));
        let text = template.replace("question", "messages[0].content");
        cases.push(Case::new(format!("a chat template of {name}"), ends, move |folder| {
            let policy = super::policy(folder);
            std::fs::write(policy.join("chat_template.jinja"), &text).unwrap();
            write(folder, "prompts.jsonl", "{\"id\":\"1\",\"prompt\":\"a\"}\n");
            strings(["generate", "prompts.jsonl", "--policy", "policy", "--max-new-tokens", "2"])
        }));
    }
    run("templates", cases);
}

#[test]
fn command_lines() {
    let case = |ends: Ends, words: &[&str]| {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        Case::new(words.join(" "), ends, move |folder| {
            super::policy(folder);
            write(folder, "README.md", "# mine\n");
            write(folder, "a.jsonl", r#"{"question":"1+1?","answer":"2","solution":"It is 2."}"#);
            write(folder, "p.toml", "name = \"c\"\n[stages.problems]\nkind = \"ingest\"\nfiles = [\"a.jsonl\"]\n");
            words.clone()
        })
    };
    let generate = ["generate", "--policy", "policy", "--raw", "--prompt", "a", "--max-new-tokens", "1"];
    let with = |more: &[&'static str]| [&generate[..], more].concat();
    let cases = vec![
        case(Saying("1024"), &["status", "p.toml", "--threads", "100000"]),
        case(Saying("1024"), &["status", "p.toml", "--threads", "0"]),
        case(Saying("-1"), &["status", "p.toml", "--threads", "-1"]),
        case(Saying("threads"), &["status", "p.toml", "--threads", "99999999999999999999"]),
        case(Saying("1000000"), &with(&["-n", "4294967295"])),
        case(Saying("1000000"), &with(&["-n", "0"])),
        case(Somehow, &with(&["--max-new-tokens", "4294967295"])),
        case(Somehow, &with(&["--temperature", "nan"])),
        case(Somehow, &with(&["--temperature", "-1"])),
        case(Somehow, &with(&["--top-p", "7"])),
        case(Saying("keep-days"), &["gc", "--keep-days", "213503982334602"]),
        case(Saying("no store here"), &["gc"]),
        case(Saying("no store here"), &["check"]),
        case(Saying("error"), &["run", "p.toml", "nothing"]),
        case(Saying("error"), &["run", "p.toml", "problems", "--part", "9/8"]),
        case(Well, &["run", "p.toml", "problems", "--part", "18446744073709551615/18446744073709551615"]),
        case(Saying("error"), &["run", "p.toml", "--set", "nothing=1"]),
        case(Saying("error"), &["run", "p.toml", "--device", "cuda:99999999999"]),
        case(Saying("no store is known"), &["run", "p.toml", "--store", "ftp://a/b"]),
        case(Saying("names no store"), &["run", "p.toml", "--store", "s3://"]),
        case(Saying("error"), &["score", "/dev/null/x", "--policy", "policy"]),
        case(Saying("error"), &["show", "nothing.parquet"]),
        case(Somehow, &["report", "p.toml", "--out", "README.html"]),
        case(Saying("error"), &["export", "p.toml", "problems", "--format", "trl", "--to", "README.md"]),
    ];
    run("command lines", cases);
}
