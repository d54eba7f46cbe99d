//! What a loss or another program's trainer asks of the rest of a train stage.

use super::mix::Portion;
use super::{Params, Publish};
use mindgap_base::error::{Error, Result};
use mindgap_lm::train::Loss;

impl Params {
    /// Errors: a loss without what it goes by, or beside what it does not.
    pub(super) fn check_beside(&self, loss: &Loss) -> Result<()> {
        let portions = self.portions();
        let without = |is_there: fn(&Portion) -> bool| portions.iter().filter(|portion| !is_there(portion)).count();
        let (unsoft, unrewarded) = (without(|p| p.soft.is_some()), without(|p| p.rewards.is_some()));
        let wrong = |what: String, hint: &str| Err(Error::usage(what).hint(hint.to_string()));
        let name = loss.name();
        match loss {
            Loss::Distill(_) if unsoft > 0 => wrong(
                format!("loss `{name}` goes by a teacher's distributions"),
                "name the soft stage over the data in `soft`",
            ),
            Loss::Grpo(_) if unrewarded > 0 => wrong(
                format!("loss `{name}` compares samples by their rewards"),
                "rewards = { from = \"STAGE\", column = \"reward\" }",
            ),
            Loss::Chord(_) if unrewarded != 1 || portions.len() != 2 || portions[0].rewards.is_none() => wrong(
                format!("loss `{name}` is of two portions: samples with rewards, and then targets without"),
                "data = [{ from = \"rollouts\", rewards = { from = \"rewards\", column = \"reward\" } }, { from = \"rewrites\" }]",
            ),
            Loss::Chord(_) if self.reference_quirks => wrong(
                format!("loss `{name}` is a sum of two means"),
                "remove `reference_quirks`, which decides what is divided by",
            ),
            Loss::Distill(_) | Loss::Grpo(_) | Loss::Chord(_) => Ok(()),
            _ if unsoft < portions.len() => wrong(format!("loss `{name}` has no use for `soft`"), "loss = \"distill\""),
            _ if unrewarded < portions.len() => {
                wrong(format!("loss `{name}` has no use for `rewards`"), "loss = \"grpo\"")
            }
            _ => Ok(()),
        }
    }

    /// Errors: what only this program's own trainer does, where another is to train.
    pub(super) fn check_external(&self, loss: &Loss) -> Result<()> {
        let Some(trainer) = self.trainer.other() else { return Ok(()) };
        let own = [
            ("publish", self.publish == Publish::Best),
            ("init_seed", self.init_seed.is_some()),
            ("reference_quirks", self.reference_quirks),
            ("bf16_moments", self.optimizer.bf16_moments),
        ];
        if let Some((name, _)) = own.iter().find(|(_, is_set)| *is_set) {
            return Err(Error::usage(format!(
                "`{name}` is for mindgap's own trainer, and `{}` is to train",
                trainer.name()
            ))
            .hint(format!("remove `{name}`, or `trainer`")));
        }
        trainer.check(loss)
    }
}
