//! The blocks over cached sequences.

use super::workspace::{Rows, Workspace};
use super::{CpuRunner, Feed, Layer, Linear, PackedForm, scale};
use crate::model::config::Activation;
use crate::model::ops::gated::{geglu_rows, swiglu_rows};
use crate::model::ops::norm::rms_norm_rows;
use crate::model::ops::rope::rope_rows;
use crate::model::ops::{Heads, Queries, Visible, attend};
use crate::model::transformer::Backend;
use mindgap_base::error::Result;

/// Query rows whose scores exist at once in prefill.
const TILE: usize = 32;

/// The inference back end of the blocks.
pub struct Cached<'a, 'f, 's> {
    pub runner: &'a CpuRunner,
    pub workspace: &'a mut Workspace,
    pub feeds: &'f mut [Feed<'s>],
}

impl Cached<'_, '_, '_> {
    /// The normed rows; a copy where there is no norm.
    fn norm(&mut self, x: &Rows, weight: Option<&[f32]>) -> Rows {
        let mut out = self.workspace.take(x.count(), x.width);
        match weight {
            Some(weight) => rms_norm_rows(&x.data, weight, self.runner.config.rms_norm_eps as f32, &mut out.data),
            None => out.data.copy_from_slice(&x.data),
        }
        out
    }

    fn project(&mut self, x: Rows, linear: &Linear) -> Rows {
        let mut out = self.workspace.take(x.count(), linear.weight.outputs());
        linear.apply(&x, &mut out);
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
        for (x, y) in x.data.iter_mut().zip(&y.data) {
            *x += y;
        }
        self.workspace.give(y);
        x
    }

    /// Norms and turns queries and keys, in place.
    fn place_heads(&mut self, qkv: &mut Rows, layer: &Layer<PackedForm>) {
        let config = &self.runner.config;
        let (query, turned) = (config.query_width(), config.query_width() + config.kv_width());
        let Workspace { angles, normed, .. } = &mut *self.workspace;
        if let Some((q_norm, k_norm)) = &layer.qk_norms {
            normed.resize(turned, 0.0);
            let eps = config.rms_norm_eps as f32;
            for row in qkv.data.chunks_exact_mut(qkv.width) {
                rms_norm_rows(&row[..query], q_norm, eps, &mut normed[..query]);
                rms_norm_rows(&row[query..turned], k_norm, eps, &mut normed[query..]);
                row[..turned].copy_from_slice(normed);
            }
        }
        let Some(rope) = layer.rope else { return };
        let (angles, pairs) = (&angles[rope], self.runner.rotary.table(rope, false).pairs());
        let angles = angles.cos.chunks_exact(pairs).zip(angles.sin.chunks_exact(pairs));
        for (row, (cos, sin)) in qkv.data.chunks_exact_mut(qkv.width).zip(angles) {
            rope_rows(&mut row[..turned], turned, cos, sin, config.head_dim, pairs, 1.0);
        }
    }

    /// Stores the keys and values of one feed's rows, then attends; `first` is its first row.
    fn attend_feed(&mut self, index: usize, first: usize, qkv: &Rows, (layer, heads): (usize, Heads), out: &mut Rows) {
        let config = &self.runner.config;
        let (query, kv, head_dim) = (config.query_width(), config.kv_width(), config.head_dim);
        let group = config.head_count / config.kv_head_count;
        let feed = &mut self.feeds[index];
        let count = feed.token_ids.len();
        for (i, row) in qkv.data.chunks_exact(qkv.width).skip(first).take(count).enumerate() {
            feed.sequence.write(layer, i, &row[query..query + kv], &row[query + kv..]);
        }
        let (sequence, before) = (&*feed.sequence, feed.sequence.len());
        let scratch = &mut self.workspace.scratch;
        for key_head in 0..config.kv_head_count {
            let columns = key_head * group * head_dim;
            if count == 1 {
                let data = &qkv.data[first * qkv.width + columns..];
                let queries = Queries { data, stride: head_dim, rows: group, heads };
                let (blocks, used) = sequence.blocks(layer, key_head, heads.first_seen(before)..before + 1);
                let out = &mut out.data[first * query + columns..];
                attend(queries, &blocks[..used], Visible::All, out, head_dim, scratch);
                continue;
            }
            for start in (0..count).step_by(TILE) {
                let rows = TILE.min(count - start);
                let from = heads.first_seen(before + start);
                let (blocks, used) = sequence.blocks(layer, key_head, from..before + start + rows);
                for head in (columns..columns + group * head_dim).step_by(head_dim) {
                    let data = &qkv.data[(first + start) * qkv.width + head..];
                    let queries = Queries { data, stride: qkv.width, rows, heads };
                    let visible = Visible::Causal { first: before + start + 1 - from };
                    let out = &mut out.data[(first + start) * query + head..];
                    attend(queries, &blocks[..used], visible, out, query, scratch);
                }
            }
        }
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
        let mut out = self.workspace.take(qkv.count(), self.runner.config.query_width());
        let mut first = 0;
        for index in 0..self.feeds.len() {
            self.attend_feed(index, first, &qkv, (layer_index, layer.heads), &mut out);
            first += self.feeds[index].token_ids.len();
        }
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
        for (both, out) in both.data.chunks_exact(2 * width).zip(out.data.chunks_exact_mut(width)) {
            let (gate, up) = both.split_at(width);
            gated(gate, up, out);
        }
        self.workspace.give(both);
        Ok(out)
    }

    fn add_feed_forward(&mut self, x: Rows, y: Rows, layer: &Layer<PackedForm>) -> Result<Rows> {
        Ok(self.add_projected(x, y, &layer.down, layer.feed_forward_output.as_deref()))
    }
}
