//! The type a policy is trained and saved in.

use candle_core::DType;
use serde::{Deserialize, Serialize};

/// Type of factors of products. Sums and moments are f32 with each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    #[default]
    F32,
    /// The weights that are trained are held in f32, unless `reference_quirks`.
    Bf16,
    /// They are rounded after every step: stochastically, so that small steps add up, or with `reference_quirks` to the nearest.
    PureBf16,
}

impl Dtype {
    /// A `config.json` that names this type where it named one: loaders go by it, whatever the weights are stored in.
    pub(super) fn named_in(self, config: &[u8]) -> Vec<u8> {
        let name = match self {
            Dtype::F32 => "float32",
            Dtype::Bf16 | Dtype::PureBf16 => "bfloat16",
        };
        let Ok(mut value) = serde_json::from_slice::<serde_json::Value>(config) else { return config.to_vec() };
        let mut changed = false;
        for key in ["dtype", "torch_dtype"] {
            if let Some(named) = value.get_mut(key).filter(|named| *named != name) {
                *named = name.into();
                changed = true;
            }
        }
        match changed {
            true => serde_json::to_vec_pretty(&value).expect("a JSON value is plain data"),
            false => config.to_vec(),
        }
    }
}

impl From<Dtype> for DType {
    fn from(dtype: Dtype) -> DType {
        match dtype {
            Dtype::F32 => DType::F32,
            Dtype::Bf16 | Dtype::PureBf16 => DType::BF16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_names_the_type_of_the_weights() {
        let config = br#"{"vocab_size": 7, "torch_dtype": "bfloat16", "tie": true}"#;
        assert_eq!(Dtype::Bf16.named_in(config), config);
        let changed = String::from_utf8(Dtype::F32.named_in(config)).unwrap();
        let words: String = changed.split_whitespace().collect();
        assert_eq!(words, r#"{"vocab_size":7,"torch_dtype":"float32","tie":true}"#);
        assert_eq!(Dtype::Bf16.named_in(b"{}"), b"{}");
    }
}
