//! Who trains, as a pipeline says it.

use serde::de::value::MapAccessDeserializer;
use serde::de::{IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt::Formatter;

/// Who trains.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub enum TrainedBy {
    #[default]
    Mindgap,
    Other(Box<External>),
}

/// A program that trains in place of this one.
#[derive(Clone, Debug, PartialEq)]
pub struct External {
    pub kind: ExternalKind,
    /// A command line for a shell: `$WORK` is the work folder, `$SCRIPT` the script that was put there for TRL or verl.
    pub launch: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ExternalKind {
    /// TRL, by a script that comes with this program.
    Trl,
    /// verl, likewise.
    Verl,
    /// Any program.
    Command,
}

/// As it may be written: a kind alone, or with a command line.
#[derive(Clone, Serialize)]
#[serde(untagged)]
enum Written {
    Kind(Kind),
    Whole(Whole),
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Mindgap,
    Trl,
    Verl,
    Command,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    kind: Kind,
    launch: Option<String>,
}

/// By hand, so that an unknown word is told with those that are known.
impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Written, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Written;

            fn expecting(&self, f: &mut Formatter) -> std::fmt::Result {
                f.write_str("the name of a trainer, or a table with `kind` and `launch`")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> std::result::Result<Written, E> {
                Kind::deserialize(name.into_deserializer()).map(Written::Kind)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<Written, A::Error> {
                Whole::deserialize(MapAccessDeserializer::new(map)).map(Written::Whole)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl From<Written> for TrainedBy {
    fn from(written: Written) -> TrainedBy {
        let Whole { kind, launch } = match written {
            Written::Kind(kind) => Whole { kind, launch: None },
            Written::Whole(whole) => whole,
        };
        let kind = match kind {
            Kind::Mindgap => return TrainedBy::Mindgap,
            Kind::Trl => ExternalKind::Trl,
            Kind::Verl => ExternalKind::Verl,
            Kind::Command => ExternalKind::Command,
        };
        TrainedBy::Other(Box::new(External { kind, launch }))
    }
}

impl From<TrainedBy> for Written {
    fn from(by: TrainedBy) -> Written {
        let TrainedBy::Other(external) = by else { return Written::Kind(Kind::Mindgap) };
        let External { kind, launch } = *external;
        let kind = match kind {
            ExternalKind::Trl => Kind::Trl,
            ExternalKind::Verl => Kind::Verl,
            ExternalKind::Command => Kind::Command,
        };
        if launch.is_none() { Written::Kind(kind) } else { Written::Whole(Whole { kind, launch }) }
    }
}

impl TrainedBy {
    /// The program, where it is another one.
    pub fn other(&self) -> Option<&External> {
        match self {
            TrainedBy::Mindgap => None,
            TrainedBy::Other(external) => Some(external),
        }
    }
}
