"""Rewards and results, called as TRL, verl and lm-evaluation-harness call them."""

import pickle
from typing import Any

import pytest
from mindgap import lm_eval, trl, verl

GSM8K = "She sells 9 * 2 = 18 eggs.\n#### 18"


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def test_trl() -> None:
    logged: dict[str, list[Any]] = {}
    rewards = trl.accuracy_reward(
        prompts=["?"] * 6,
        completions=[
            said("\\boxed{18}"),
            said("\\boxed{19}"),
            said("So"),
            said("18"),
            said("18"),
            said("x"),
        ],
        completion_ids=[[1]] * 6,
        solution=[GSM8K, GSM8K, "18", 18, None, "\\frac{1}{"],
        options=["a column of the data set"] * 6,
        trainer_state=None,
        log_extra=logged.__setitem__,
        log_metric=lambda name, value: None,
    )
    assert rewards == [1.0, 0.0, 0.0, 1.0, None, None]
    assert logged["verdict"][:3] == ["correct", "incorrect", "no_answer"]
    assert logged["solution"] == ["18", "18", "18", "18", None, "\\frac{1}{"]


def test_trl_texts_and_parts() -> None:
    parts = [
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "\\boxed{"}, {"type": "text", "text": "5}"}],
        }
    ]
    tools = [*said("\\boxed{4}"), {"role": "tool", "content": "5"}, *said("\\boxed{5}")]
    empty: list[dict[str, Any]] = [{"role": "assistant", "content": None, "tool_calls": []}]
    completions: list[trl.Completion] = ["\\boxed{5}", parts, tools, empty, []]
    assert trl.accuracy_reward(completions, ["5"] * 5) == [1.0, 1.0, 1.0, 0.0, 0.0]


def test_trl_options() -> None:
    reward = trl.AccuracyReward(scale="from_gold")
    assert reward.__name__ == trl.accuracy_reward.__name__
    for same in (reward, pickle.loads(pickle.dumps(reward))):
        assert same(["24", "24 billion"], solution=["24 million"] * 2) == [1.0, 0.0]
    with pytest.raises(ValueError, match="there is no option `scales`"):
        trl.AccuracyReward(scales="from_gold")
    with pytest.raises(TypeError, match="a reference is a string or a number, not `list`"):
        trl.accuracy_reward(["5"], [["5"]])


def test_verl() -> None:
    score = verl.compute_score(
        data_source="openai/gsm8k",
        solution_str="<think>17?</think>\n#### 18",
        ground_truth="18",
        extra_info={"num_turns": None},
        reward_router_address="localhost:1",
        reward_model_tokenizer=None,
    )
    assert score == {
        "score": 1.0,
        "acc": 1.0,
        "verdict": "correct",
        "pred": "18",
        "method": "answer/string",
    }
    assert verl.compute_score("s", "It is 24.", "24 million")["score"] == 0.0
    assert (
        verl.compute_score("s", "It is 24.", "24 million", options={"scale": "from_gold"})["score"]
        == 1.0
    )


def test_lm_eval() -> None:
    doc = {"question": "?", "answer": GSM8K}
    assert lm_eval.process_results(doc, ["The answer is 18."]) == {"exact_match": 1.0}
    assert lm_eval.process_results(doc, [["The answer is 18.", "17", "\\boxed{18}", ""]]) == {
        "exact_match": 0.5
    }
    named = lm_eval.process_results_for("target", metric="accuracy", scale="from_gold")
    assert named({"target": "24 million"}, ["24"]) == {"accuracy": 1.0}
    made = lm_eval.process_results_for(lambda doc: doc["choices"][doc["gold"]], kind="choice")
    assert made({"choices": ["A", "B"], "gold": 1}, ["(B)"]) == {"exact_match": 1.0}
    with pytest.raises(ValueError, match="there is no judge"):
        lm_eval.process_results_for("answer", kind="maths")
