use super::*;
use serde_json::json;

fn read_with(row: Value, named: &CompletionFields, reasoning: Reasoning) -> Result<Answered, String> {
    answered(row.as_object().expect("an object"), named, reasoning).1
}

fn read(row: Value) -> Result<Answered, String> {
    read_with(row, &CompletionFields::default(), Reasoning::LeftOut)
}

/// Texts of a row, `!` and the reason where one is none.
fn texts(row: Value) -> Vec<String> {
    match read(row) {
        Ok(row) => row.completions.into_iter().map(|c| c.map_or_else(|e| format!("!{e}"), |c| c.text)).collect(),
        Err(reason) => vec![format!("!{reason}")],
    }
}

/// Goal: every layout of docs/samples.md is read without a field being named.
#[test]
fn layouts() {
    let rows = [
        json!({"prompt": "Q", "outputs": ["a", "b"]}),
        json!({"prompt": "Q", "prompt_token_ids": [1], "outputs": [
            {"index": 0, "text": "a", "token_ids": [1, 2], "finish_reason": "stop", "stop_reason": null},
            {"index": 1, "text": "b", "token_ids": [3], "finish_reason": "stop", "stop_reason": 151645}]}),
        json!({"problem": "Q", "generations": ["a", "b"], "finish_reasons": null, "solution": "S",
            "messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "a"}]}),
        json!({"problem": "Q", "generations": ["a", "b"], "finish_reasons": ["stop", "stop"]}),
        json!({"question": "Q", "choices": [{"index": 0, "message": {"role": "assistant", "content": "a"}},
            {"index": 1, "message": {"role": "assistant", "content": "b"}, "finish_reason": "stop"}]}),
        json!({"id": "batch_1", "custom_id": "Q", "error": null, "response": {"status_code": 200, "body": {"choices": [
            {"message": {"content": "a"}, "finish_reason": "stop"}, {"message": {"content": "b"}}]}}}),
        json!({"prompt": "Q", "text": ["a", "b"], "choices": ["(A) 1", "(B) 2"]}),
        json!({"key": "Q", "question": "Q", "responses": [
            [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "a"}],
            [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "b"}]]}),
    ];
    for row in rows {
        assert_eq!(texts(row.clone()), ["a", "b"], "{row}");
    }
    let one = [
        json!({"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "a"}],
            "rejected_response": "b", "id": "5d41402abc4b2a76b9719d911017c592"}),
        json!({"response": "a", "messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "z"}]}),
        json!({"prompt": [{"role": "user", "content": "Q"}], "completion": [{"role": "assistant", "content": "a"}]}),
        json!({"custom_id": "Q", "result": {"type": "succeeded", "message": {"role": "assistant",
            "content": [{"type": "text", "text": "a"}], "stop_reason": "end_turn"}}}),
        json!({"id": "Q", "response": {"candidates": [
            {"content": {"parts": [{"text": "a"}], "role": "model"}, "finishReason": "STOP"}]}}),
        json!({"id": "Q", "text": "a", "output_ids": [1, 2], "meta_info": {"finish_reason": {"type": "stop", "matched": 2}}}),
        json!({"question": "Q", "draft": "a"}),
        json!({"question": "Q", "generated_text": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "a"}]}),
        json!({"question": "Q", "output": [{"type": "reasoning", "summary": []}, {"type": "message", "role": "assistant",
            "content": [{"type": "output_text", "text": "a"}]}]}),
        json!({"Question": "Q", "Response": "a"}),
    ];
    for row in one {
        assert_eq!(texts(row.clone()), ["a"], "{row}");
    }
}

#[test]
fn questions_and_ids() {
    let of = |row: Value| read(row).map(|row| (row.key, row.question)).unwrap();
    let text = |text: &str| Some(text.to_string());
    assert_eq!(of(json!({"id": 3, "response": "a"})), (text("3"), None));
    assert_eq!(of(json!({"problem_id": " 0a ", "id": 3, "question": "Q", "response": "a"})), (text("0a"), text("Q")));
    let turns = json!([{"role": "system", "content": "S"}, {"role": "user", "content": "1"}, {"role": "assistant",
        "content": "2"}, {"role": "user", "content": "Q"}]);
    assert_eq!(of(json!({"messages": turns, "response": "a"})), (None, text("Q")));
    assert_eq!(read(json!({"response": "a"})), Err("it says neither question nor id".to_string()));
    let named = CompletionFields {
        completion: Some("out.says".into()),
        question: Some("in".into()),
        id: Some("key".into()),
        ..CompletionFields::default()
    };
    let row = read_with(json!({"out": {"says": "a"}, "in": "Q", "key": "k", "id": 1}), &named, Reasoning::LeftOut);
    assert_eq!(row.map(|row| (row.key, row.question)).unwrap(), (text("k"), text("Q")));
}

#[test]
fn what_is_no_completion_says_why() {
    let cases = [
        (
            json!({"id": 1, "outputs": ["a", " ", null, 7]}),
            vec![
                "a",
                "!empty completion",
                "!the completion is null, not text",
                "!the completion is a number, not text",
            ],
        ),
        (json!({"id": 1, "outputs": []}), vec!["!the list of completions is empty"]),
        (json!({"id": 1}), vec!["!no `completions` or `completion`"]),
        (json!({"id": 1, "completion": 5}), vec!["!the completion is a number, not text"]),
        (json!({"id": 1, "response": {"status_code": 500}}), vec!["!the completion is an object without text"]),
        (
            json!({"id": 1, "completion": [{"role": "user", "content": "Q"}]}),
            vec!["!the last turn is not the assistant's"],
        ),
        (
            json!({"id": 1, "outputs": ["a", "b"], "finish_reasons": ["stop"]}),
            vec!["!2 completions and 1 finish reasons", "!2 completions and 1 finish reasons"],
        ),
        (
            json!({"id": 1, "response": "a", "finish_reason": "content_filter"}),
            vec!["!it did not end as an answer does: `content_filter`"],
        ),
        (
            json!({"id": 1, "message": "x", "response": [{"type": "image_url", "image_url": "u"}]}),
            vec!["!a part of the completion is no text"],
        ),
    ];
    for (row, wanted) in cases {
        assert_eq!(texts(row.clone()), wanted, "{row}");
    }
}

#[test]
fn token_ids_and_ends() {
    let of = |row: Value| {
        let row = read(row).unwrap();
        row.completions.into_iter().map(|c| c.map(|c| (c.token_ids, c.is_cut)).unwrap()).collect::<Vec<_>>()
    };
    let length =
        json!({"id": 1, "outputs": [{"text": "a", "token_ids": [5], "finish_reason": "length"}, {"text": "b"}]});
    assert_eq!(of(length), [(Some(vec![5]), true), (None, false)]);
    let beside =
        json!({"id": 1, "outputs": ["a", "b"], "token_ids": [[1], [2, 3]], "finish_reasons": ["stop", "length"]});
    assert_eq!(of(beside), [(Some(vec![1]), false), (Some(vec![2, 3]), true)]);
    let one = json!({"id": 1, "response": "a", "token_ids": [1, 2], "finish_reason": "FinishReason.MAX_TOKENS"});
    assert_eq!(of(one), [(Some(vec![1, 2]), true)]);
    let odd = json!({"id": 1, "response": "a", "token_ids": [1, -2]});
    assert_eq!(of(odd), [(Some(vec![]), false)], "ids that are none");
    let stop = json!({"id": 1, "outputs": [{"text": "a", "finish_reason": null, "stop_reason": "max_tokens"}]});
    assert_eq!(of(stop), [(None, true)]);
}

#[test]
fn reasoning_is_left_out_or_put_in_tags() {
    let rows = [
        json!({"id": 1, "choices": [{"message": {"content": "a", "reasoning_content": "hm\n"}}]}),
        json!({"id": 1, "content": "a", "reasoning": "hm"}),
        json!({"id": 1, "result": {"message": {"content": [{"type": "thinking", "thinking": "hm"},
            {"type": "text", "text": "a"}]}}}),
        json!({"id": 1, "response": {"candidates": [{"content": {"parts": [{"text": "hm", "thought": true},
            {"text": "a"}]}}]}}),
    ];
    for row in rows {
        for (wanted, text) in [(Reasoning::LeftOut, "a"), (Reasoning::InTags, "<think>\nhm\n</think>\n\na")] {
            let read = read_with(row.clone(), &CompletionFields::default(), wanted).unwrap();
            let completion = read.completions[0].clone().unwrap();
            assert_eq!((completion.text.as_str(), completion.reasoning), (text, Some(wanted)), "{row}");
        }
    }
    let none = read(json!({"id": 1, "choices": [{"message": {"content": "a", "reasoning_content": null}}]})).unwrap();
    assert_eq!(none.completions[0].clone().unwrap().reasoning, None);
}

/// Goal: a file of another schema is refused whole.
#[test]
fn files_without_such_fields() {
    let check = |row: Value, named: &CompletionFields| {
        let (present, _) = answered(row.as_object().unwrap(), named, Reasoning::LeftOut);
        let mut columns = BTreeSet::new();
        fields::collect_names(row.as_object().unwrap(), &mut columns);
        check_completions("a.jsonl", named, present, &columns).map_err(|e| e.to_string())
    };
    let none = CompletionFields::default();
    assert_eq!(check(json!({"id": 1, "response": "a"}), &none), Ok(()));
    let error = check(json!({"id": 1, "reply": "a"}), &none).unwrap_err();
    assert!(error.contains("no field looks like the completion") && error.contains("`id`, `reply`"), "{error}");
    let error = check(json!({"response": "a"}), &none).unwrap_err();
    assert!(error.contains("no field looks like the question"), "{error}");
    let named = CompletionFields { completion: Some("replay".into()), ..none };
    let error = check(json!({"id": 1, "reply": "a"}), &named).unwrap_err();
    assert!(error.contains("unknown field `replay`") && error.contains("did you mean `reply`?"), "{error}");
}
