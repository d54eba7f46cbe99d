//! What stands for the kernels of fused.rs in a build without CUDA: there are none.

use super::super::layer::Layer;
use super::TensorForm;
use super::cache::KeyValues;
use crate::model::config::{Activation, Config};
use crate::model::ops::Heads;
use candle_core::{DType, Device, Result, Tensor};

pub enum Kernels {}

impl Kernels {
    pub fn of(_: &Config, _: &[Layer<TensorForm>], _: DType, _: &Device) -> Result<Option<Kernels>> {
        Ok(None)
    }

    pub fn turn(
        &self,
        _: &Tensor,
        _: Option<&Tensor>,
        _: Option<(&Tensor, &Tensor)>,
        _: &Tensor,
        _: &KeyValues,
        _: (usize, Heads),
    ) -> Result<Tensor> {
        match *self {}
    }

    pub fn attend(&self, _: &Tensor, _: &Tensor, _: &KeyValues, _: Heads) -> Result<Tensor> {
        match *self {}
    }

    pub fn gate(&self, _: &Tensor, _: Activation) -> Result<Tensor> {
        match *self {}
    }

    pub fn add_norm(&self, _: &Tensor, _: &Tensor, _: f32, _: &Tensor) -> Result<(Tensor, Tensor)> {
        match *self {}
    }
}
