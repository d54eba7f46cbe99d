use super::*;

#[test]
fn copies_are_told_from_rewrites() {
    let question = "A box holds 16 pens. 27 more are put in and 8 are taken out. How many pens are in the box?";
    let expert = "First 27 pens are put in, so that there are 16 + 27 = <<16+27=43>>43 pens. Then 8 are taken out of \
                  it, which leaves 43 - 8 = <<43-8=35>>35 pens.";
    let share = |text: &str| copied_share(text, expert, question);
    assert_eq!(share(expert), 1.0);
    assert_eq!(share(&expert.replace("<<16+27=43>>", "").to_uppercase()), 1.0, "marks and case do not tell");
    assert_eq!(share("We start with 16. Adding 27 gives 16 + 27 = 43, and 43 - 8 = 35. So \\boxed{35}."), 0.0);
    assert_eq!(share(question), 0.0, "the question's words are nobody's");
    let half = share(&format!(
        "{expert} And now for some words of my own, at long last, which nobody wrote before me, and more."
    ));
    assert!(half > 0.4 && half < 0.8, "{half}");
    assert_eq!(share("leaves 43 - 8 = 35 pens"), 1.0, "a text shorter than a run counts as one run");
    assert_eq!(share(""), 0.0);
    assert_eq!(copied_share("a b c", "", ""), 0.0);
}

#[test]
fn sources_are_spoken_of_in_many_ways() {
    for text in [
        "As the Teacher\u{2019}s solution says, we add.",
        "The provided solution is right.",
        "Based on the solution above, x = 4.",
        "The expert first finds the cost.",
        "The solution uses the total.",
        "I will retell it in my own words.",
        "The problem asks for the sum, and the solution tells us to add.",
        "The final answer is given as 25 hours. To verify, we add.",
        "The answer was provided as 4.",
        "The answer to the problem is already known: 4.",
        "So x = 4, and the answer is stated in the notes.",
        "This agrees with the given final answer.",
        "It is the expected answer, 4.",
        "According to the final answer, x is 4.",
        "The answer is 4 apples, as given.",
        "We know that the final answer is 4.",
    ] {
        assert!(speaks_of_source(text, "What is 2 + 2?"), "{text}");
    }
    for text in [
        "The solution is 4.",
        "The solution to the equation is x = 4.",
        "So the answer is 4.",
        "The answer is given by 2 + 2 = 4.",
        "The answer is given in dollars.",
        "The cost is given as 2, the number as 2: the answer is 4.",
        "As given in the problem, there are 2 pens.",
        "The answer is 4 pens, as there are 2 more.",
        "We know that the total is 4.",
        "It is known that 2 + 2 = 4, so the answer is 4.",
    ] {
        assert!(!speaks_of_source(text, "What is 2 + 2?"), "{text}");
    }
    assert!(!speaks_of_source("The teacher has 4 pens.", "A teacher buys 4 pens."), "the question's own words");
}

/// What was said by eye of samples of small policies (docs/targets.md).
#[derive(serde::Deserialize)]
struct Labelled {
    label: String,
    refused: Option<String>,
    completion: String,
}

/// Goal: a change of the patterns lets no leak through that was refused, and refuses no clean sample. The patterns alone are
/// looked at: problems are not in the file.
#[test]
fn labelled_samples_are_told_apart() {
    let text = include_str!("../../../data/guided-labels/labels.jsonl");
    let samples: Vec<Labelled> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let count = |label: &str, test: &dyn Fn(&str) -> bool| {
        samples.iter().filter(|sample| sample.label == label && test(&sample.completion)).count()
    };
    let spoken = |text: &str| speaks_of_source(text, "");
    assert_eq!((count("leak", &|_| true), count("clean", &|_| true), count("bare", &|_| true)), (14, 55, 3));
    assert_eq!(count("leak", &spoken), 13, "one speaks of scratch work half in Chinese");
    assert_eq!(count("clean", &spoken), 1, "a teacher, whom the question speaks of too");
    assert_eq!((count("bare", &is_answer_only), count("clean", &is_answer_only)), (2, 0));
    let refused = samples.iter().filter(|sample| sample.refused.as_deref() == Some("meta_phrase"));
    assert!(refused.into_iter().all(|sample| spoken(&sample.completion)));
}

#[test]
fn echoes_are_of_the_template_alone() {
    let template = "### Problem\n{{ question }}\n\n### Expert's solution\n{{ solution }}\n\nRetell the solution as your own, the way you would explain it to somebody.";
    let shown = Shown::of(template);
    let leak = |text: &str| shown.leak(text, "What is 2 + 2?", "4", 0.5, &[Refusal::PromptEcho]);
    for text in [
        "### Expert's solution\n2 + 2 = 4",
        "**Expert's Solution:**\n4",
        "I explain it the way you would explain it to somebody: 4",
    ] {
        assert_eq!(leak(text), Some(Refusal::PromptEcho), "{text}");
    }
    assert_eq!(leak("2 + 2 = 4\n\nThe sum is 4."), None);
    assert_eq!(Shown::of("{{ question }}").leak("a b c d e f g", "q", "s", 0.5, &[Refusal::PromptEcho]), None);
}

#[test]
fn work_is_more_than_an_answer() {
    for text in [
        "The answer is \\boxed{25}.",
        "\\boxed{25}",
        "#### 25",
        "25",
        "The reader will see that the answer is \\boxed{25} apples.",
    ] {
        assert!(is_answer_only(text), "{text}");
    }
    for text in [
        "16 + 9 = 25, so \\boxed{25}.",
        "We start with the 16 that we have and add the 9 we have left, which makes \\boxed{25}",
        "\\boxed{25}\n\nWe start with the 16 that we have and add the 9 we have left, which makes it so.",
    ] {
        assert!(!is_answer_only(text), "{text}");
    }
}

#[test]
fn only_what_is_wanted_is_refused() {
    let text = "The expert's solution is right.";
    assert_eq!(Shown::default().leak(text, "", "", 0.5, &[Refusal::MetaPhrase]), Some(Refusal::MetaPhrase));
    assert_eq!(Shown::default().leak(text, "", "", 0.5, &[Refusal::Copied]), None);
}
