//! The blocks over cached sequences.

use super::workspace::{Rows, Workspace};
use super::{CpuRunner, Feed, Layer, Linear, PackedForm, scale};
use crate::model::config::Activation;
use crate::model::ops::gated::{geglu_rows, swiglu_rows};
use crate::model::ops::norm::rms_norm_rows;
use crate::model::ops::rope::rope_rows;
use crate::model::ops::team::Disjoint;
use crate::model::ops::{AttentionScratch, Heads, Queries, Visible, attend};
use crate::model::transformer::Backend;
use mindgap_base::error::Result;
use std::cell::RefCell;

/// Query rows whose scores exist at once in prefill.
const TILE: usize = 32;

/// The inference back end of the blocks.
pub struct Cached<'a, 'f, 's> {
    runner: &'a CpuRunner,
    workspace: &'a mut Workspace,
    feeds: &'f mut [Feed<'s>],
    /// The first row of each feed.
    firsts: Vec<usize>,
    tiles: Vec<Tile>,
}

/// Query rows that attend together: of one feed, to one key head.
struct Tile {
    feed: usize,
    key_head: usize,
    /// The first query head. A single row attends with all heads of the key head, several with one.
    head: usize,
    /// In the feed.
    start: usize,
    rows: usize,
}

thread_local! {
    /// What attention needs, and what it makes of a tile.
    static BUFFERS: RefCell<(AttentionScratch, Vec<f32>)> = RefCell::default();
}

impl<'a, 'f, 's> Cached<'a, 'f, 's> {
    pub fn new(runner: &'a CpuRunner, workspace: &'a mut Workspace, feeds: &'f mut [Feed<'s>]) -> Cached<'a, 'f, 's> {
        let group = runner.config.head_count / runner.config.kv_head_count;
        let (mut firsts, mut tiles, mut row) = (Vec::with_capacity(feeds.len()), Vec::new(), 0);
        for (feed, Feed { token_ids, .. }) in feeds.iter().enumerate() {
            firsts.push(row);
            row += token_ids.len();
            let step = if token_ids.len() == 1 { group } else { 1 };
            for start in (0..token_ids.len()).step_by(TILE) {
                let rows = TILE.min(token_ids.len() - start);
                let heads = (0..runner.config.head_count).step_by(step);
                tiles.extend(heads.map(|head| Tile { feed, key_head: head / group, head, start, rows }));
            }
        }
        Cached { runner, workspace, feeds, firsts, tiles }
    }
}

impl Cached<'_, '_, '_> {
    /// The normed rows; a copy where there is no norm.
    fn norm(&mut self, x: &Rows, weight: Option<&[f32]>) -> Rows {
        let mut out = self.workspace.take(x.count(), x.width);
        let eps = self.runner.config.rms_norm_eps as f32;
        self.workspace.team.share_rows(&mut out.data, x.width, |first, out| {
            let x = &x.data[first * x.width..][..out.len()];
            match weight {
                Some(weight) => rms_norm_rows(x, weight, eps, out),
                None => out.copy_from_slice(x),
            }
        });
        out
    }

    fn project(&mut self, x: Rows, linear: &Linear) -> Rows {
        let outputs = linear.weight.outputs();
        let mut out = self.workspace.take(x.count(), outputs);
        let Workspace { team, scratch, .. } = &mut *self.workspace;
        linear.weight.apply(team, &x.data, 0..outputs, linear.bias.as_deref(), &mut out.data, scratch);
        self.workspace.give(x);
        out
    }

    /// `x + scale * norm(y w^T)`: the product first, as the packed path computes it.
    fn add_projected(&mut self, mut x: Rows, y: Rows, linear: &Linear, norm: Option<&[f32]>) -> Rows {
        let mut y = self.project(y, linear);
        if norm.is_some() {
            let normed = self.norm(&y, norm);
            self.workspace.give(std::mem::replace(&mut y, normed));
        }
        scale(&mut y.data, self.runner.config.residual_scale);
        for (x, y) in x.data.iter_mut().zip(y.data.iter()) {
            *x += y;
        }
        self.workspace.give(y);
        x
    }

    /// Norms and turns queries and keys, in place.
    fn place_heads(&mut self, qkv: &mut Rows, layer: &Layer<PackedForm>) {
        let (config, rotary) = (&self.runner.config, &self.runner.rotary);
        let (query, turned) = (config.query_width(), config.query_width() + config.kv_width());
        let (width, eps) = (qkv.width, config.rms_norm_eps as f32);
        let Workspace { angles, team, .. } = &mut *self.workspace;
        team.share_rows(&mut qkv.data, width, |first, rows| {
            if let Some((q_norm, k_norm)) = &layer.qk_norms {
                let mut normed = vec![0.0; turned];
                for row in rows.chunks_exact_mut(width) {
                    rms_norm_rows(&row[..query], q_norm, eps, &mut normed[..query]);
                    rms_norm_rows(&row[query..turned], k_norm, eps, &mut normed[query..]);
                    row[..turned].copy_from_slice(&normed);
                }
            }
            let Some(rope) = layer.rope else { return };
            let (angles, pairs) = (&angles[rope], rotary.table(rope, false).pairs());
            let [cos, sin] = [&angles.cos, &angles.sin].map(|angles| angles[first * pairs..].chunks_exact(pairs));
            for (row, (cos, sin)) in rows.chunks_exact_mut(width).zip(cos.zip(sin)) {
                rope_rows(&mut row[..turned], turned, cos, sin, config.head_dim, pairs, 1.0);
            }
        });
    }

    /// Stores the keys and values of all rows.
    fn store(&mut self, qkv: &Rows, layer: usize) {
        let config = &self.runner.config;
        let (query, kv) = (config.query_width(), config.kv_width());
        let firsts = &self.firsts;
        self.workspace.team.share_rows(self.feeds, 1, |index, feeds| {
            for (feed, first) in feeds.iter_mut().zip(&firsts[index..]) {
                let rows = qkv.data[first * qkv.width..].chunks_exact(qkv.width);
                for (i, row) in rows.take(feed.token_ids.len()).enumerate() {
                    feed.sequence.write(layer, i, &row[query..query + kv], &row[query + kv..]);
                }
            }
        });
    }

    /// Attends with all rows.
    #[expect(unsafe_code, reason = "threads write the heads of a row")]
    fn attend(&mut self, qkv: &Rows, (layer, heads): (usize, Heads), out: &mut Rows) {
        let config = &self.runner.config;
        let (query, dim) = (config.query_width(), config.head_dim);
        let group = config.head_count / config.kv_head_count;
        let (tiles, feeds, firsts, out) = (&self.tiles, &*self.feeds, &self.firsts, Disjoint::new(&mut out.data));
        self.workspace.team.share(tiles.len(), |piece| {
            BUFFERS.with_borrow_mut(|(scratch, done)| {
                for tile in &tiles[piece] {
                    let (sequence, first) = (&*feeds[tile.feed].sequence, firsts[tile.feed] + tile.start);
                    let before = sequence.len() + tile.start;
                    let from = heads.first_seen(before);
                    let (blocks, used) = sequence.blocks(layer, tile.key_head, from..before + tile.rows);
                    let data = &qkv.data[first * qkv.width + tile.head * dim..];
                    let (queries, visible) = match feeds[tile.feed].token_ids.len() {
                        1 => (Queries { data, stride: dim, rows: group, heads }, Visible::All),
                        _ => {
                            let visible = Visible::Causal { first: before + 1 - from };
                            (Queries { data, stride: qkv.width, rows: tile.rows, heads }, visible)
                        }
                    };
                    done.resize(queries.rows * dim, 0.0);
                    attend(queries, &blocks[..used], visible, done, dim, scratch);
                    let width = done.len() / tile.rows;
                    for (row, done) in done.chunks_exact(width).enumerate() {
                        let at = (first + row) * query + tile.head * dim;
                        // SAFETY: no other tile has these rows and heads.
                        unsafe { out.part(at..at + width) }.copy_from_slice(done);
                    }
                }
            });
        });
    }
}

impl Backend for Cached<'_, '_, '_> {
    type Rows = Rows;
    type Layer = Layer<PackedForm>;

    fn attention_norm(&mut self, x: &Rows, layer: &Layer<PackedForm>) -> Result<Rows> {
        Ok(self.norm(x, layer.attention_input.as_deref()))
    }

    fn attention(&mut self, x: Rows, layer: &Layer<PackedForm>, layer_index: usize) -> Result<Rows> {
        let mut qkv = self.project(x, &layer.qkv);
        self.place_heads(&mut qkv, layer);
        self.store(&qkv, layer_index);
        let mut out = self.workspace.take(qkv.count(), self.runner.config.query_width());
        self.attend(&qkv, (layer_index, layer.heads), &mut out);
        self.workspace.give(qkv);
        Ok(out)
    }

    fn add_attention(&mut self, x: Rows, y: Rows, layer: &Layer<PackedForm>) -> Result<Rows> {
        Ok(self.add_projected(x, y, &layer.o, layer.attention_output.as_deref()))
    }

    fn feed_forward_norm(&mut self, x: &Rows, layer: &Layer<PackedForm>) -> Result<Rows> {
        Ok(self.norm(x, layer.feed_forward_input.as_deref()))
    }

    fn feed_forward(&mut self, x: Rows, layer: &Layer<PackedForm>) -> Result<Rows> {
        let both = self.project(x, &layer.gate_up);
        let width = both.width / 2;
        let mut out = self.workspace.take(both.count(), width);
        let gated: fn(&[f32], &[f32], &mut [f32]) = match self.runner.config.activation {
            Activation::Silu => swiglu_rows,
            Activation::GeluTanh => geglu_rows,
        };
        self.workspace.team.share_rows(&mut out.data, width, |first, out| {
            let both = both.data[first * 2 * width..].chunks_exact(2 * width);
            for (both, out) in both.zip(out.chunks_exact_mut(width)) {
                let (gate, up) = both.split_at(width);
                gated(gate, up, out);
            }
        });
        self.workspace.give(both);
        Ok(out)
    }

    fn add_feed_forward(&mut self, x: Rows, y: Rows, layer: &Layer<PackedForm>) -> Result<Rows> {
        Ok(self.add_projected(x, y, &layer.down, layer.feed_forward_output.as_deref()))
    }
}
