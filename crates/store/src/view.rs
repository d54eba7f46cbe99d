//! The human view: `<store>/tables/<pipeline>/<stage>/` always shows the newest version, switched in one step.

use super::{Manifest, PartRecord, Store, fs};
use mindgap_base::address::Address;
use mindgap_base::error::Result;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

impl Store {
    /// Where people find a stage's table (`*.parquet`) or policy.
    pub fn view_path(&self, pipeline: &str, stage: &str) -> PathBuf {
        self.root.join("tables").join(pipeline).join(stage)
    }

    /// A folder for what other programs work on, by a name of its own. It stays until a collection finds it old and unused.
    pub fn work_path(&self, name: &str) -> PathBuf {
        self.root.join("work").join(name)
    }

    /// A folder with these files, for programs that want one: links to the objects.
    pub fn lay_out(&self, name: &str, files: &BTreeMap<String, Address>) -> Result<PathBuf> {
        let folder = self.work_path(name);
        files.values().try_for_each(|address| self.fetch_missing(address))?;
        let object = |address: &Address| {
            let object = self.object_path(address);
            Path::new("../..").join(object.strip_prefix(&self.root).expect("objects are inside the store"))
        };
        let links: Vec<(PathBuf, PathBuf)> =
            files.iter().map(|(file, address)| (file.into(), object(address))).collect();
        fs::publish_folder(&folder, &links)?;
        Ok(folder)
    }

    /// Fetches a stage's tables and files into the cache of a remote store, and links its view to them.
    pub fn fetch_view(&self, pipeline: &str, stage: &str) -> Result<()> {
        let Some(pointer) = self.pointer(pipeline, stage)?.filter(|_| self.remote.is_some()) else { return Ok(()) };
        let manifest = self.get_manifest(&pointer.manifest)?;
        let objects: Vec<&Address> =
            manifest.parts.iter().flat_map(PartRecord::objects).map(|(address, _)| address).collect();
        objects.par_iter().try_for_each(|address| self.fetch_missing(address))?;
        self.link_view(pipeline, stage, &pointer.manifest, &manifest)
    }

    /// Links the stage's view to `manifest`: the main table's parts and the files at the top, other tables in folders. In the cache
    /// of a remote store it waits until somebody asks for it.
    pub fn publish_view(&self, pipeline: &str, stage: &str, address: &Address, manifest: &Manifest) -> Result<()> {
        if self.remote.is_some() { Ok(()) } else { self.link_view(pipeline, stage, address, manifest) }
    }

    fn link_view(&self, pipeline: &str, stage: &str, address: &Address, manifest: &Manifest) -> Result<()> {
        let name = Path::new("views").join(address.as_str());
        let link = self.view_path(pipeline, stage);
        let target = Path::new("../..").join(&name);
        fs::publish_folder(&self.root.join(&name), &self.view_links(manifest))?;
        match fs::link_target(&link).as_ref() == Some(&target) {
            true => fs::settle(&link),
            false => fs::publish_link(&link, &target),
        }
    }

    /// The view's links: path inside it, and the object relative to the link's folder.
    fn view_links(&self, manifest: &Manifest) -> Vec<(PathBuf, PathBuf)> {
        let object = |up: &str, address: &Address| {
            let object = self.object_path(address);
            Path::new(up).join(object.strip_prefix(&self.root).expect("objects are inside the store"))
        };
        let mut links = Vec::new();
        for table in manifest.table_names() {
            let (folder, up) = match manifest.main_table.as_deref() == Some(table) {
                true => ("", "../.."),
                false => (table, "../../.."),
            };
            for (index, part) in manifest.table(table).iter().enumerate() {
                let name = format!("part-{index:05}.parquet");
                links.push((Path::new(folder).join(name), object(up, &part.address)));
            }
        }
        links.extend(manifest.files().into_iter().map(|(file, (address, _))| (file.into(), object("../..", &address))));
        links
    }
}
