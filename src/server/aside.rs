//! Requests that fail every time while the same about another prompt is answered: set aside within limits, so that one problem does
//! not end a run of thousands.

use mindgap_base::error::{Error, Result};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Problems (or samples, or targets) of one stage and run that may be set aside, whatever else is answered.
const FEW: u64 = 8;
/// One in so many requests answered may be set aside where that is more.
const ONE_IN: u64 = 100;
/// And no more than these.
const MOST: u64 = 100;

/// What a server gave, or what it said where it failed this request every time.
pub type Answer<T> = Result<T, String>;

/// Why a request has no answer.
#[derive(Debug)]
pub enum Unanswered {
    /// The run cannot go on.
    Ends(Error),
    /// Servers are there and answer, and failed this: it may lie in the request.
    Failed(Error),
}

impl From<Error> for Unanswered {
    fn from(error: Error) -> Unanswered {
        Unanswered::Ends(error)
    }
}

/// What was answered and what was set aside, of one stage in one run.
#[derive(Default)]
pub struct Aside {
    answered: AtomicU64,
    failed: Mutex<BTreeSet<String>>,
}

impl Aside {
    /// What becomes of the request called `name`. One that failed is set aside if `control`, the same about another prompt, is
    /// answered: otherwise it does not lie in the request. Errors: it does not; there are too many.
    pub fn settle<T>(
        &self,
        name: &str,
        outcome: Result<T, Unanswered>,
        control: impl FnOnce() -> Result<T, Unanswered>,
    ) -> Result<Answer<T>> {
        let error = match outcome {
            Ok(answer) => {
                self.answered.fetch_add(1, Ordering::Relaxed);
                return Ok(Ok(answer));
            }
            Err(Unanswered::Ends(error)) => return Err(error),
            Err(Unanswered::Failed(error)) => error,
        };
        match control() {
            Ok(_) => {}
            Err(Unanswered::Ends(error)) => return Err(error),
            Err(Unanswered::Failed(_)) => return Err(error),
        }
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.insert(name.to_string());
        let (count, answered) = (failed.len() as u64, self.answered.load(Ordering::Relaxed));
        let allowed = (answered / ONE_IN).clamp(FEW, MOST);
        match count <= allowed {
            true => Ok(Err(error.what().to_string())),
            false => Err(error.at(format!("{count} failed, {answered} requests answered; {allowed} may be set aside"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed<T>() -> Result<T, Unanswered> {
        Err(Unanswered::Failed(Error::environment("status 400: too long")))
    }

    fn ends<T>() -> Result<T, Unanswered> {
        Err(Unanswered::Ends(Error::environment("no server answers")))
    }

    #[test]
    fn only_what_lies_in_the_request_is_set_aside() {
        let aside = Aside::default();
        assert_eq!(aside.settle("a", Ok(1), || panic!("nothing to compare")).unwrap(), Ok(1));
        assert_eq!(aside.settle("b", failed(), || Ok(2)).unwrap(), Err("status 400: too long".to_string()));
        let others_too = aside.settle::<u32>("c", failed(), failed).unwrap_err();
        assert_eq!(others_too.what(), "status 400: too long");
        assert_eq!(aside.settle::<u32>("c", failed(), ends).unwrap_err().what(), "no server answers");
        assert_eq!(aside.settle::<u32>("c", ends(), || panic!("an outage")).unwrap_err().what(), "no server answers");
    }

    /// Goal: few of a small run, one in a hundred of a large one, never many; a problem with many samples counts once.
    #[test]
    fn there_is_a_limit() {
        for (answered, allowed) in [(0, FEW), (500, FEW), (5_000, 50), (50_000, MOST)] {
            let aside = Aside::default();
            aside.answered.store(answered, Ordering::Relaxed);
            let settle = |name: u64| aside.settle(&format!("problem {name}"), failed(), || Ok(()));
            for name in 0..allowed {
                for _ in 0..3 {
                    assert!(settle(name).unwrap().is_err(), "{name} of {answered}");
                }
            }
            let error = settle(allowed).unwrap_err().to_string();
            assert!(error.contains(&format!("{allowed} may be set aside")), "{error}");
        }
    }
}
