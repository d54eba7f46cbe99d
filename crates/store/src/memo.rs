//! The memory: which part recipe gave which part. One folder per stage recipe, so that parts of the same recipe find each
//! other: rows already drawn for some problems serve a part that covers them again.

use super::{PartRecord, Store, fs};
use mindgap_base::error::Result;
use mindgap_base::fingerprint::{Fingerprint, Recipe};
use std::fs::File;
use std::path::{Path, PathBuf};

impl Store {
    fn family_path(&self, family: &Fingerprint) -> PathBuf {
        self.root.join("memo").join(family.as_str())
    }

    /// The part of this fingerprint, if it was made and all its objects are still there in full size.
    pub fn find_part(&self, family: &Fingerprint, part: &Fingerprint) -> Result<Option<PartRecord>> {
        self.read_record(&self.family_path(family).join(format!("{part}.json")))
    }

    /// Every part made with this stage recipe.
    pub fn family_parts(&self, family: &Fingerprint) -> Result<Vec<PartRecord>> {
        let folder = self.family_path(family);
        let mut parts = Vec::new();
        for name in fs::list(&folder)? {
            if !name.ends_with(".json") || name == RECIPE || name.starts_with('.') {
                continue;
            }
            parts.extend(self.read_record(&folder.join(&name))?);
        }
        Ok(parts)
    }

    /// A record that does not parse, or lacks an object, counts as not made: it can be made again.
    fn read_record(&self, path: &Path) -> Result<Option<PartRecord>> {
        let Some(bytes) = fs::read_if_present(path)? else { return Ok(None) };
        let Ok(record) = serde_json::from_slice::<PartRecord>(&bytes) else { return Ok(None) };
        let published = fs::modified(path)?;
        let whole = record.objects().all(|(address, bytes)| self.is_whole(address, bytes, published));
        Ok(whole.then_some(record))
    }

    /// Remembers a part. Its objects must be durable already.
    pub fn remember_part(&self, recipe: &Recipe, record: &PartRecord) -> Result<()> {
        let folder = self.family_path(&recipe.fingerprint());
        self.remember_recipe(recipe)?;
        let bytes = serde_json::to_vec(record).expect("a part record is plain data");
        fs::publish(&folder.join(format!("{}.json", record.fingerprint)), &bytes, "memo")
    }

    /// Writes the recipe down, unless it is, and makes durable what is remembered of it.
    pub(super) fn remember_recipe(&self, recipe: &Recipe) -> Result<()> {
        let path = self.family_path(&recipe.fingerprint()).join(RECIPE);
        let bytes = serde_json::to_vec_pretty(recipe).expect("a recipe is plain data");
        match fs::read_if_present(&path)?.as_ref() == Some(&bytes) {
            true => fs::settle(&path),
            false => fs::publish(&path, &bytes, "recipe"),
        }
    }

    /// Marks parts as used now: a collection lets them be for a while. Call it with the gate passed.
    pub fn mark_used<'a>(&self, family: &Fingerprint, parts: impl Iterator<Item = &'a PartRecord>) -> Result<()> {
        let folder = self.family_path(family);
        parts.map(|part| folder.join(format!("{}.json", part.fingerprint))).try_for_each(|path| fs::touch(&path))
    }

    /// Every stage recipe that ever made a part.
    pub fn recipes(&self) -> Result<Vec<Recipe>> {
        let folder = self.root.join("memo");
        let mut recipes = Vec::new();
        for family in fs::folders(&folder)? {
            let bytes = fs::read_if_present(&folder.join(family).join(RECIPE))?;
            recipes.extend(bytes.and_then(|bytes| serde_json::from_slice::<Recipe>(&bytes).ok()));
        }
        Ok(recipes)
    }

    /// Takes the right to compute a part; `None` while another process holds it.
    pub fn try_lock_part(&self, part: &Fingerprint) -> Result<Option<File>> {
        fs::try_lock(&self.root.join("locks").join(part.as_str()))
    }
}

pub(super) const RECIPE: &str = "recipe.json";
