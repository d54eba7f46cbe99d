//! Which manifest a stage stands at, in the bucket: replaced only by who saw the last.

use super::{Remote, lock};
use crate::Pointer;
use mindgap_base::error::{Error, Result};
use std::collections::BTreeMap;

/// Pointers of the pipelines that were asked for, by stage.
pub(crate) type Pointers = BTreeMap<String, BTreeMap<String, Pointer>>;

/// How often a pointer is tried to be set beside others who set it.
const TRIES: usize = 10;

impl Remote {
    /// A stage's pointer. All of a pipeline are read at the first question.
    pub(crate) fn pointer(&self, pipeline: &str, stage: &str) -> Result<Option<Pointer>> {
        if let Some(known) = lock(&self.pointers).get(pipeline) {
            return Ok(known.get(stage).cloned());
        }
        let read = self.read_pointers(&format!("stages/{pipeline}/"))?;
        let of = read.into_iter().map(|(_, stage, pointer)| (stage, pointer)).collect::<BTreeMap<_, _>>();
        let pointer = of.get(stage).cloned();
        lock(&self.pointers).insert(pipeline.to_string(), of);
        Ok(pointer)
    }

    /// Pointers below a prefix that can be read: pipeline, stage, pointer.
    pub(crate) fn read_pointers(&self, prefix: &str) -> Result<Vec<(String, String, Pointer)>> {
        let keys: Vec<String> = self.bucket.list(prefix)?.into_iter().map(|entry| entry.key).collect();
        let read = keys.iter().zip(self.bucket.get_many(&keys)?);
        Ok(read
            .filter_map(|(key, bytes)| {
                let (pipeline, stage) = key.strip_prefix("stages/")?.strip_suffix(".json")?.split_once('/')?;
                Some((pipeline.to_string(), stage.to_string(), Pointer::parse(&bytes?)?))
            })
            .collect())
    }

    pub(crate) fn set_pointer(&self, pipeline: &str, stage: &str, pointer: &Pointer) -> Result<()> {
        let key = pointer_key(pipeline, stage);
        let bytes = pointer.format();
        for _ in 0..TRIES {
            let set = match self.bucket.get(&key)? {
                Some((found, _)) if found == bytes => true,
                Some((_, version)) => self.bucket.replace(&key, &bytes, &version)?.is_some(),
                None => self.bucket.create(&key, &bytes)?.is_some(),
            };
            if set {
                let mut pointers = lock(&self.pointers);
                if let Some(known) = pointers.get_mut(pipeline) {
                    known.insert(stage.to_string(), pointer.clone());
                }
                return Ok(());
            }
        }
        Err(Error::environment("others set the stage's pointer again and again")
            .at(self.bucket.url(&key))
            .hint("run the same command again"))
    }
}

pub(crate) fn pointer_key(pipeline: &str, stage: &str) -> String {
    format!("stages/{pipeline}/{stage}.json")
}
