//! The human view: `<store>/tables/<pipeline>/<stage>/` always shows the newest version, switched in one step.

use super::{Manifest, PartRef, Store, fs};
use crate::base::address::Address;
use crate::base::error::Result;
use std::path::{Path, PathBuf};

impl Store {
    /// Where people find a stage's table (`*.parquet`) or policy.
    pub fn view_path(&self, pipeline: &str, stage: &str) -> PathBuf {
        self.root.join("tables").join(pipeline).join(stage)
    }

    /// Links the stage's view to `manifest`: the main table's parts and the files at the top, other tables in folders.
    pub fn publish_view(&self, pipeline: &str, stage: &str, address: &Address, manifest: &Manifest) -> Result<()> {
        let name = Path::new("views").join(address.as_str());
        let link = self.view_path(pipeline, stage);
        let target = Path::new("../..").join(&name);
        if std::fs::read_link(&link).is_ok_and(|current| current == target) && self.root.join(&name).is_dir() {
            return Ok(());
        }
        self.build_view(&self.root.join(&name), manifest)?;
        fs::publish_link(&link, &target)
    }

    /// Builds the folder beside its final name and renames it, so that no reader meets half a view.
    fn build_view(&self, folder: &Path, manifest: &Manifest) -> Result<()> {
        if folder.is_dir() {
            return Ok(());
        }
        let temp = folder.with_extension(format!("tmp-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&temp);
        fs::create_dir(&temp)?;
        for table in manifest.table_names() {
            let parts = manifest.table(table);
            match manifest.main_table.as_deref() == Some(table) {
                true => self.link_parts(&temp, "../..", &parts)?,
                false => self.link_parts(&temp.join(table), "../../..", &parts)?,
            }
        }
        for (file, (address, _)) in manifest.files() {
            self.link_object(&temp.join(file), "../..", &address)?;
        }
        match std::fs::rename(&temp, folder) {
            Ok(()) => fs::sync_dir(folder.parent().expect("views have a folder")),
            // Another process built the same view first.
            Err(_) if folder.is_dir() => std::fs::remove_dir_all(&temp).map_err(|e| fs::error("remove", &temp, e)),
            Err(e) => Err(fs::error("rename into", folder, e)),
        }
    }

    fn link_parts(&self, folder: &Path, up: &str, parts: &[PartRef]) -> Result<()> {
        fs::create_dir(folder)?;
        for (index, part) in parts.iter().enumerate() {
            self.link_object(&folder.join(format!("part-{index:05}.parquet")), up, &part.address)?;
        }
        Ok(())
    }

    fn link_object(&self, link: &Path, up: &str, address: &Address) -> Result<()> {
        let object = self.object_path(address);
        let relative = object.strip_prefix(&self.root).expect("objects are inside the store");
        std::os::unix::fs::symlink(Path::new(up).join(relative), link).map_err(|e| fs::error("create link", link, e))
    }
}
