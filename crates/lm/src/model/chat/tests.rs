//! Templates in the style of the published ones, holding the constructs those use.

use super::*;
use serde_json::json;

fn render(source: &str, messages: &[(&str, &str)], extra: Json) -> Result<String> {
    let specials = [("bos_token", "<s>"), ("eos_token", "</s>")];
    let specials = specials.map(|(k, v)| (k.to_string(), v.to_string())).into();
    let messages: Vec<Message> = messages.iter().map(|(role, content)| Message::new(*role, *content)).collect();
    ChatTemplate::new(source, specials)?.render(&messages, true, &extra)
}

/// Qwen2.5: a default system message, tools, loop.first/last, `is defined`, string concatenation.
const QWEN25: &str = include_str!("../../../../../tests/fixtures/model/templates/qwen25.jinja");

#[test]
fn qwen25_style() {
    let plain = render(QWEN25, &[("user", "hi")], Json::Null).unwrap();
    assert_eq!(
        plain,
        "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    );
    let turns = [("system", "be brief"), ("user", "hi"), ("assistant", "ho"), ("user", "bye")];
    let told = render(QWEN25, &turns, Json::Null).unwrap();
    assert!(told.starts_with("<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhi"), "{told}");
    assert!(told.ends_with("assistant\nho<|im_end|>\n<|im_start|>user\nbye<|im_end|>\n<|im_start|>assistant\n"));
}

#[test]
fn tojson_is_pythons() {
    let tools = json!({"tools": [{"name": "añ<b>", "args": [1, 2.5, true, null, {}]}]});
    let out = render(QWEN25, &[("user", "hi")], tools.clone()).unwrap();
    assert!(out.contains(r#"{"name": "añ<b>", "args": [1, 2.5, true, null, {}]}"#), "{out}");
    let indented = render("{{ tools | tojson(indent=2) }}", &[], tools).unwrap();
    assert!(indented.starts_with("[\n  {\n    \"name\": \"añ<b>\",\n    \"args\": [\n      1,\n"), "{indented}");
}

/// Qwen3: namespace, reversed slices, string methods, splitting at the thinking block, a switch that may be undefined.
const QWEN3: &str = include_str!("../../../../../tests/fixtures/model/templates/qwen3.jinja");

#[test]
fn qwen3_style() {
    let turns = [("user", "a"), ("assistant", "<think>\nwhy\n</think>\n\nb"), ("user", "c")];
    let out = render(QWEN3, &turns, Json::Null).unwrap();
    assert_eq!(
        out,
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n\
         <|im_start|>assistant\n"
    );
    let quick = render(QWEN3, &turns, json!({"enable_thinking": false})).unwrap();
    assert!(quick.ends_with("<|im_start|>assistant\n<think>\n\n</think>\n\n"), "{quick}");
    let answered = render(QWEN3, &turns[..2], Json::Null).unwrap();
    assert!(answered.contains("<think>\nwhy\n</think>\n\nb<|im_end|>"), "{answered}");
}

/// Llama 3.1: BOS in the template, `not x is defined`, slices, `is not none`, the date, `| trim`, an exception.
const LLAMA31: &str = include_str!("../../../../../tests/fixtures/model/templates/llama31.jinja");

#[test]
fn llama31_style() {
    let out = render(LLAMA31, &[("system", " be brief "), ("user", " hi\n")], Json::Null).unwrap();
    assert_eq!(
        out,
        "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\nbe brief<|eot_id|>\
         <|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    );
    let error = render(LLAMA31, &[("tool", "x")], Json::Null).unwrap_err();
    assert!(error.what().contains("no tools here"), "{error}");
}

#[test]
fn other_constructs() {
    let loops = "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}\
                 {{ loop.index }}{{ m.content.upper().replace('A', '-') }}{% if loop.last %}.{% endif %}{% endfor %}";
    assert_eq!(render(loops, &[("system", "s"), ("user", "ab")], Json::Null).unwrap(), "2-B.");
    let items = "{% for key, value in extra.items() %}{{ key }}={{ value }};{% endfor %}{{ extra.get('z', 'none') }}";
    assert_eq!(render(items, &[], json!({"extra": {"b": 1, "a": 2}})).unwrap(), "b=1;a=2;none");
    let alternates =
        "{% if (messages[0].role == 'user') != (0 % 2 == 0) %}{{ raise_exception('roles') }}{% endif %}{{ eos_token }}";
    assert_eq!(render(alternates, &[("user", "x")], Json::Null).unwrap(), "</s>");
}

/// Llama 3.1 and 3.2 with tools: a switch with a default, comments, tools with an indent inside the first user message, which is
/// then cut from the list, content that may be data, `none` told from undefined.
#[test]
fn tools_in_the_first_user_message() {
    let source = "{{- bos_token }}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}

{#- Tools come with the first user message. #}
{%- if tools_in_user_message and not tools is none %}
    {%- if messages | length != 0 %}
        {%- set first_user_message = messages[0]['content']|trim %}
        {%- set messages = messages[1:] %}
    {%- else %}
        {{- raise_exception(\"no first user message\") }}
    {%- endif %}
    {{- '<user>' -}}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- \"\\n\\n\" }}
    {%- endfor %}
    {{- first_user_message + \"<|eot_id|>\"}}
{%- endif %}
{%- for message in messages %}
    {%- if message.content is mapping or message.content is not string %}
        {{- message.content | tojson }}
    {%- else %}
        {{- message.role + ':' + message['content'] | trim + (';' if loop.nextitem is defined else '.') }}
    {%- endif %}
{%- endfor %}";
    let turns = [("user", " add "), ("assistant", "ok"), ("user", "go ")];
    let tools = json!({"tools": [{"name": "f", "parameters": {"type": "object"}}]});
    let out = render(source, &turns, tools.clone()).unwrap();
    let tool = "{\n    \"name\": \"f\",\n    \"parameters\": {\n        \"type\": \"object\"\n    }\n}";
    assert_eq!(out, format!("<s><user>{tool}\n\nadd<|eot_id|>assistant:ok;user:go."));
    assert_eq!(render(source, &turns, Json::Null).unwrap(), "<s>user:add;assistant:ok;user:go.");
    assert!(render(source, &[], tools).unwrap_err().what().contains("no first user message"));
}

#[test]
fn errors_have_lines() {
    let broken = ChatTemplate::new("a\n{% if %}", BTreeMap::new()).err().unwrap();
    assert_eq!(broken.place(), Some("chat template:2"));
    assert!(render("{{ strftime_now('%Q') }}", &[], Json::Null).unwrap_err().what().contains("%Q"));
}

#[test]
fn files_and_precedence() {
    let config = json!({"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}],
        "bos_token": {"content": "<b>"}, "eos_token": "<e>", "pad_token": null});
    let config = config.to_string();
    let source = |jinja: Option<&[u8]>| {
        let template = ChatTemplate::from_files(Some(config.as_bytes()), jinja, None).unwrap().unwrap();
        template.source().to_string()
    };
    assert_eq!(source(None), "d");
    assert_eq!(source(Some(b"{{ bos_token }}j")), "{{ bos_token }}j");
    assert!(ChatTemplate::from_files(Some(b"{}"), None, None).unwrap().is_none());
    assert!(ChatTemplate::from_files(Some(b"{"), None, None).is_err());
}

/// transformers reads special_tokens_map.json where tokenizer_config.json lists no added tokens, and believes it.
#[test]
fn the_map_of_special_tokens() {
    let map: &[u8] = br#"{"bos_token": {"content": "<m>"}, "eos_token": "<e>"}"#;
    let strings = |config: &str| special_strings(Some(config.as_bytes()), Some(map)).unwrap();
    let roles =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(role, token)| (role.to_string(), token.to_string())).collect();
    let plain = r#"{"bos_token": null, "eos_token": "<x>", "pad_token": "<p>"}"#;
    assert_eq!(strings(plain), roles(&[("bos_token", "<m>"), ("eos_token", "<e>"), ("pad_token", "<p>")]));
    let listed = r#"{"eos_token": "<x>", "added_tokens_decoder": {}}"#;
    assert_eq!(strings(listed), roles(&[("eos_token", "<x>")]));
    let matters = |config: &str| special_map_matters(Some(config.as_bytes()), map).unwrap();
    assert!(matters(plain) && !matters(listed));
    assert!(!matters(r#"{"bos_token": "<m>", "eos_token": {"content": "<e>"}}"#));
    assert!(special_strings(None, Some(b"[")).unwrap_err().to_string().contains("special_tokens_map.json"));
}

/// Small templates, each of which tries some constructs, and what Jinja2 under transformers made of them;
/// `tests/peers/templates.py --golden` writes the file.
#[test]
fn constructs() {
    #[derive(Deserialize)]
    struct Golden {
        messages: Vec<Message>,
        tokens: BTreeMap<String, String>,
        cases: Vec<Case>,
    }
    #[derive(Deserialize)]
    struct Case {
        template: String,
        /// Null where the template is refused.
        text: Option<String>,
    }
    let golden: Golden = serde_json::from_str(include_str!("constructs.json")).unwrap();
    assert!(golden.cases.len() > 100);
    for Case { template, text } in golden.cases {
        let ours = ChatTemplate::new(&template, golden.tokens.clone())
            .and_then(|compiled| compiled.render(&golden.messages, true, &Json::Null));
        assert_eq!(ours.as_ref().ok(), text.as_ref(), "{template}\n{ours:?}");
    }
}

/// Templates that break off anywhere are for the compiler to refuse.
#[test]
fn any_piece_of_a_template_can_be_read() {
    let golden: Json = serde_json::from_str(include_str!("constructs.json")).unwrap();
    let sources = golden["cases"].as_array().unwrap().iter().map(|case| case["template"].as_str().unwrap());
    for source in sources.chain(["{%}{{}}{%%}{#}", "{{ 'é' % ('\\", "{% 'a' % %}"]) {
        for (at, _) in source.char_indices() {
            source::prepare(&source[at..]);
            source::prepare(&source[..at]);
        }
    }
}

#[test]
fn answers_behind_a_prefill() {
    let behind = |prefill: &str, answer: &str| {
        let shown = Conversation { prefill: prefill.to_string(), ..Conversation::user("x") };
        shown.behind_prefill(answer).into_owned()
    };
    assert_eq!(behind("", "So it is."), "So it is.");
    assert_eq!(behind("So", "So it is."), " it is.");
    assert_eq!(behind("Well.", "So it is."), " So it is.");
    assert_eq!(behind("<think>\n", "So it is."), "So it is.");
    assert_eq!(behind("Well.", "\nSo it is."), "\nSo it is.");
    assert_eq!(behind("Well.", "Well."), "");
}

#[test]
fn lines_keep_their_numbers() {
    let source = "{{ 'a\\\n\\\nb' }}\r\n{% generation %}\n{{ nope() }}{% endgeneration %}";
    let error = render(source, &[], Json::Null).unwrap_err();
    assert_eq!(error.place(), Some("chat template:5"));
}
