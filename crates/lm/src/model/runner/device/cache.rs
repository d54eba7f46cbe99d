//! Keys and values on a device. Samples live in slots of one preallocated tensor per layer, so that a step of all of them is a
//! few products; prompts and scored texts have tensors of their own, and a sample starts from a copy of its prompt's.

use crate::model::config::Config;
use candle_core::{DType, Device, Result, Tensor};

/// Slots hold a multiple of this many tokens, and a step looks at a multiple of it: products keep to few shapes, aligned for
/// tensor cores.
const GRANULE: usize = 64;

/// Room of a slot for this many tokens.
pub fn capacity(tokens: usize) -> usize {
    tokens.next_multiple_of(GRANULE)
}

/// Bytes of one token's keys and values.
pub fn token_bytes(config: &Config, dtype: DType) -> usize {
    2 * dtype.size_in_bytes() * config.layer_count * config.kv_head_count * config.head_dim
}

/// Keys and values of one layer.
#[derive(Clone)]
pub struct KeyValues {
    pub keys: Tensor,
    pub values: Tensor,
}

/// The slots of one session: per layer `[slots, key heads, capacity, head_dim]`.
pub struct Slots {
    layers: Vec<KeyValues>,
    capacity: usize,
}

impl Slots {
    pub fn new(config: &Config, dtype: DType, device: &Device, slots: usize, tokens: usize) -> Result<Slots> {
        let capacity = capacity(tokens);
        let shape = (slots, config.kv_head_count, capacity, config.head_dim);
        let zeros = || Tensor::zeros(shape, dtype, device);
        let layer = |_| Ok(KeyValues { keys: zeros()?, values: zeros()? });
        // A GPU has no memory of no bytes.
        let count = if slots == 0 { 0 } else { config.layer_count };
        Ok(Slots { layers: (0..count).map(layer).collect::<Result<_>>()?, capacity })
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// All of one layer.
    pub fn layer(&self, layer: usize) -> &KeyValues {
        &self.layers[layer]
    }

    /// Keys and values of one layer, as the first `count` slots hold them up to `tokens`: views.
    pub fn view(&self, layer: usize, count: usize, tokens: usize) -> Result<KeyValues> {
        let view = |t: &Tensor| t.narrow(0, 0, count)?.narrow(2, 0, tokens);
        Ok(KeyValues { keys: view(&self.layers[layer].keys)?, values: view(&self.layers[layer].values)? })
    }

    /// Writes one token of each of the first slots: new keys and values `[count, key heads, 1, head_dim]`, and where they go,
    /// an index for every number.
    pub fn write(&self, layer: usize, index: &Tensor, new: &KeyValues) -> Result<()> {
        let count = index.dim(0)?;
        let KeyValues { keys, values } = &self.layers[layer];
        keys.narrow(0, 0, count)?.scatter_set(index, &new.keys, 2)?;
        values.narrow(0, 0, count)?.scatter_set(index, &new.values, 2)
    }

    /// Puts a prompt's keys and values at the start of a slot.
    pub fn copy_in(&self, slot: usize, prompt: &[KeyValues]) -> Result<()> {
        for (layer, prompt) in self.layers.iter().zip(prompt) {
            layer.keys.narrow(0, slot, 1)?.slice_set(&prompt.keys, 2, 0)?;
            layer.values.narrow(0, slot, 1)?.slice_set(&prompt.values, 2, 0)?;
        }
        Ok(())
    }

    /// Moves the first `tokens` of a slot to another one.
    pub fn relocate(&self, from: usize, to: usize, tokens: usize) -> Result<()> {
        for KeyValues { keys, values } in &self.layers {
            for tensor in [keys, values] {
                let moved = tensor.narrow(0, from, 1)?.narrow(2, 0, tokens)?.force_contiguous()?;
                tensor.narrow(0, to, 1)?.slice_set(&moved, 2, 0)?;
            }
        }
        Ok(())
    }

    /// Bytes taken.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        let bytes = |t: &Tensor| t.elem_count() * t.dtype().size_in_bytes();
        self.layers.iter().map(|layer| bytes(&layer.keys) + bytes(&layer.values)).sum()
    }
}

/// A sequence outside the slots: per layer `[1, key heads, tokens, head_dim]`, empty at first.
#[derive(Clone, Default)]
pub struct Own(pub Vec<KeyValues>);

impl Own {
    /// Appends new keys and values of one layer and returns all of them.
    pub fn append(&mut self, layer: usize, new: KeyValues) -> Result<KeyValues> {
        if self.0.len() == layer {
            self.0.push(new);
        } else {
            // Only a text longer than a call comes in pieces.
            let KeyValues { keys, values } = &mut self.0[layer];
            *keys = Tensor::cat(&[&*keys, &new.keys], 2)?;
            *values = Tensor::cat(&[&*values, &new.values], 2)?;
        }
        Ok(self.0[layer].clone())
    }
}
