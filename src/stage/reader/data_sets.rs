//! Rows of well-known data sets as they are, without a mapping: the columns are theirs, the contents are not.

use super::tests::{only, out_of_parquet, reason};
use arrow::array::{
    Array, ArrayRef, BinaryArray, FixedSizeBinaryArray, LargeBinaryArray, ListArray, MapBuilder, NullArray,
    StringArray, StringBuilder, StructArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field as ArrowField};
use mindgap_math::{Judge, Options, Verdict};
use mindgap_store::table::problems::Problem;
use std::sync::Arc;

/// Question, answer and solution of a row.
fn read(line: &str) -> (String, String, Option<String>) {
    let Problem { question, answer, solution, .. } = only(line);
    (question, answer, solution)
}

#[track_caller]
fn check(line: &str, question: &str, answer: &str, solution: Option<&str>) {
    assert_eq!(read(line), (question.to_string(), answer.to_string(), solution.map(str::to_string)), "{line}");
}

#[test]
fn of_competitions() {
    check(
        r#"{"problem":"P","solution":"So it is 4.","answer":"4","problem_type":"Algebra","question_type":"math-word-problem","problem_is_valid":"Yes","solution_is_valid":"Yes","source":"olympiads","synthetic":false}"#,
        "P",
        "4",
        Some("So it is 4."),
    );
    check(
        r#"{"question":"Q","final_answer":"0","difficulty":4.5,"topic":"Calculus","r1_solution_1":"We think. \\boxed{0}","r1_solution_2":"b \\boxed{0}","r1_solution_3":"c \\boxed{0}"}"#,
        "Q",
        "0",
        Some("We think. \\boxed{0}"),
    );
    check(
        r#"{"expected_answer":"4","problem_type":"has_answer_extracted","problem_source":"aops","generation_model":"R","pass_rate_72b_tir":"0.5","problem":"P","generated_solution":"<think>a</think>So \\boxed{4}","inference_mode":"cot","used_in_kaggle":true}"#,
        "P",
        "4",
        Some("<think>a</think>So \\boxed{4}"),
    );
    check(
        r#"{"problem_id":"x","prompt":"P","gold_standard_solution":"so \\boxed{4}","verification_info":"{}","llm_response":"r s"}"#,
        "P",
        "4",
        Some("so \\boxed{4}"),
    );
    check(
        r#"{"question":"P?","context":"Let $a=3$.","solution":["so 4"],"final_answer":["4"],"is_multiple_answer":false}"#,
        "Let $a=3$.\n\nP?",
        "4",
        Some("so 4"),
    );
}

#[test]
fn of_word_problems() {
    check(
        r#"{"type":"GSM_AnsAug","query":"Q","original_question":"Q","response":"10+100 = 110\n#### 110\nThe answer is: 110"}"#,
        "Q",
        "110",
        Some("10+100 = 110\n#### 110\nThe answer is: 110"),
    );
    let prose = "He has 6 apples and eats 2. Therefore, there are 6 - 2 = 4 apples left.";
    check(&format!(r#"{{"question":"Q","answer":"{prose}"}}"#), "Q", "4", Some(prose));
    check(
        r#"{"question":"Q","answer":"work\n#### 3\nNote: checked."}"#,
        "Q",
        "3",
        Some("work\n#### 3\nNote: checked."),
    );
    check(
        r#"{"ID":"c","Body":"There are 3.","Question":"How many?","Equation":"( 3 + 1 )","Answer":"4.0","Type":"Addition"}"#,
        "There are 3.\n\nHow many?",
        "4.0",
        None,
    );
    check(
        r#"{"source":"a.json","instruction":"Add.","input":"2 and 2","output":"so. The answer is 4"}"#,
        "Add.\n\n2 and 2",
        "4",
        Some("so. The answer is 4"),
    );
}

#[test]
fn of_reasoning_traces() {
    let s1k = r#"{"solution":"128","question":"Q","cot_type":"math","source_type":"a","metadata":"{}","deepseek_thinking_trajectory":"long thoughts","deepseek_attempt":"So \\boxed{128}.","deepseek_grade":"Yes"}"#;
    check(s1k, "Q", "128", Some("So \\boxed{128}."));
    let dapo = r#"{"prompt":"Q","solution":"34","data_source":"math_dapo","source_prompt":[{"role":"user","content":"Solve. Q"}],"ability":"MATH","reward_model":{"ground_truth":"34","style":"rule"},"extra_info":{"index":"9a"}}"#;
    check(dapo, "Q", "34", None);
    assert!(only(dapo).meta.unwrap().contains(r#""bare_solution":"34""#));
    check(r#"{"prompt":[{"role":"user","content":"Q"}],"solution":"7"}"#, "Q", "7", None);
    check(r#"{"prompt":[{"role":"user","content":"Q"}],"solution":7}"#, "Q", "7", None);
    check(r#"{"prompt":[{"role":"user","content":"Q"}],"solution":"$-\\frac{2}{3}$"}"#, "Q", "$-\\frac{2}{3}$", None);
    check(r#"{"question":"Q","solution":"Monday","answer":"Monday"}"#, "Q", "Monday", None);
    let skywork = r#"{"prompt":[{"role":"user","content":"Q"}],"reward_model":{"style":"rule","ground_truth":"[\"\\\\frac{1}{2}\"]"}}"#;
    check(skywork, "Q", "\\frac{1}{2}", None);
    for name in ["deepseek_reasoning", "cot", "model-response", "reasoning", "qwen_solution_2", "reasoning_content"] {
        let line = format!(r#"{{"question":"Q","answer":"4","{name}":"We add and get 4."}}"#);
        check(&line, "Q", "4", Some("We add and get 4."));
    }
    for name in ["rejected_response", "student_solution", "solution_id", "cot_type", "reasoning_model"] {
        let line = format!(r#"{{"question":"Q","answer":"4","{name}":"We add and get 5."}}"#);
        check(&line, "Q", "4", None);
    }
}

#[test]
fn of_choices() {
    let question = "Q\n\n(A) 21\n(B) 22";
    check(
        r#"{"question":"Q","options":["A)21","B)22"],"rationale":"We add.\nAnswer: B","correct":"B"}"#,
        question,
        "B",
        Some("We add.\nAnswer: B"),
    );
    check(r#"{"question":"Q","subject":"algebra","choices":["21","22"],"answer":1}"#, question, "B", None);
    check(
        r#"{"id":"a","question":"Q","choices":{"text":["21","22"],"label":["A","B"]},"answerKey":"A"}"#,
        question,
        "A",
        None,
    );
    let shown = r#"{"question":"Q (A) 21 (B) 22","options":["21","22"],"answer":"B"}"#;
    check(shown, "Q (A) 21 (B) 22", "B", None);
    assert_eq!(read(r#"{"question":"Q","answer":"4","solution":"s t","correct":true}"#).1, "4");
}

#[test]
fn of_conversations() {
    let p = only(
        r#"{"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"P?"},{"role":"assistant","content":"so.\n\nFinal Answer: The final answer is $4$. I hope it is correct."}]}"#,
    );
    assert_eq!((p.question.as_str(), p.answer.as_str()), ("P?", "4"));
    assert_eq!(p.meta.as_deref(), Some(r#"{"system":"Be brief."}"#));
}

/// Goal: a solution is never wrong against the reference that is taken from it.
#[test]
fn solutions_are_correct_against_their_own_reference() {
    let solutions = [
        "So $x=\\\\boxed{2}$ or $x=\\\\boxed{3}$.",
        "It is $\\\\boxed{12}\\\\%$.",
        "a\\n#### 110\\nThe answer is: 110",
        "so the answer is $\\\\frac{1}{2}$.",
        "**Final Answer:** 17 apples",
        "We see that the answer is no.",
    ];
    for solution in solutions {
        let p = only(&format!(r#"{{"question":"Q","response":"{solution}"}}"#));
        let solution = p.solution.unwrap_or_else(|| solution.to_string());
        let judged = Judge::Math(Options::default()).judge(&p.answer, &solution);
        assert_eq!(judged.verdict, Verdict::Correct, "{} {solution}", p.answer);
    }
}

#[test]
fn the_next_spelling_where_one_says_nothing() {
    check(r#"{"question":"","problem":"Q","answer":"4"}"#, "Q", "4", None);
    check(
        r#"{"question":"Q","answer":"4","solution":" ","response":"so \\boxed{4}"}"#,
        "Q",
        "4",
        Some("so \\boxed{4}"),
    );
    check(r#"{"question":"Q","answer":"","final_answer":[],"ground_truth":"4"}"#, "Q", "4", None);
    check(r#"{"question":"Q","answer":"notfound","expected_answer":"4"}"#, "Q", "4", None);
    check(r#"{"question":"Q","answer":"See solution","solution":"so \\boxed{4}"}"#, "Q", "4", Some("so \\boxed{4}"));
    assert_eq!(reason(r#"{"question":"","problem":null,"answer":"4"}"#), "empty question");
}

fn texts(text: &str) -> ArrayRef {
    Arc::new(StringArray::from(vec![text]))
}

#[test]
fn bytes_that_are_text_are_text() {
    let binary: [ArrayRef; 3] = [
        Arc::new(BinaryArray::from_vec(vec![b"4"])),
        Arc::new(LargeBinaryArray::from_vec(vec![b"4"])),
        Arc::new(FixedSizeBinaryArray::try_from_iter([b"4\0\0\0"].into_iter()).unwrap()),
    ];
    for answer in binary {
        let out = out_of_parquet(vec![("question", Arc::new(BinaryArray::from_vec(vec![b"Q"]))), ("answer", answer)]);
        assert_eq!((out.problems[0].question.as_str(), out.problems[0].answer.as_str()), ("Q", "4"));
    }
    let text = |values: Vec<&[u8]>| Arc::new(BinaryArray::from_vec(values)) as ArrayRef;
    let turn = |name: &str, values| (Arc::new(ArrowField::new(name, DataType::Binary, true)), text(values));
    let turns = StructArray::from(vec![turn("role", vec![b"user"]), turn("content", vec![b"Q"])]);
    let item = Arc::new(ArrowField::new("item", turns.data_type().clone(), true));
    let messages: ArrayRef = Arc::new(ListArray::new(item, OffsetBuffer::from_lengths([1]), Arc::new(turns), None));
    let out = out_of_parquet(vec![("messages", messages), ("answer", texts("4"))]);
    assert_eq!(out.problems[0].question, "Q");

    let out = out_of_parquet(vec![("question", text(vec![b"\xff\xfe"])), ("answer", texts("4"))]);
    assert_eq!(out.rejects[0].reason, "the question is bytes that are not UTF-8, not text");
    let out = out_of_parquet(vec![("question", texts("Q")), ("answer", texts("4")), ("key", text(vec![b"\xff\x01"]))]);
    assert_eq!(out.problems[0].meta.as_deref(), Some(r#"{"key":"ff01"}"#));
}

#[test]
fn columns_of_nothing_and_maps() {
    let out = out_of_parquet(vec![
        ("question", Arc::new(NullArray::new(1))),
        ("problem", texts("Q")),
        ("solution", Arc::new(NullArray::new(1))),
        ("response", texts("so \\boxed{4}")),
    ]);
    assert_eq!((out.problems[0].question.as_str(), out.problems[0].answer.as_str()), ("Q", "4"));
    let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    map.keys().append_value("k");
    map.values().append_value("v");
    map.append(true).unwrap();
    let out = out_of_parquet(vec![("question", texts("Q")), ("answer", Arc::new(map.finish()))]);
    assert_eq!(out.rejects[0].reason, "the answer is an object, not text or a number");
}
