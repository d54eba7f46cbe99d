//! `words!`: an enum whose variants are the words of a text column.

/// A word of a column and what it stands for, as documented in `docs/tables`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    pub text: &'static str,
    pub doc: &'static str,
}

/// Declares an enum stored as text: one word per variant. Values are ordered as their words, which is how tables are
/// sorted, not as they are declared.
macro_rules! words {
    (
        #[doc = $doc:literal]
        $name:ident { $(#[doc = $word_doc:literal] $variant:ident = $word:literal,)+ }
    ) => {
        #[doc = $doc]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name { $(#[doc = $word_doc] #[serde(rename = $word)] $variant,)+ }

        impl $name {
            /// Every value, as declared.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The word that stands in tables.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl Ord for $name {
            fn cmp(&self, other: &$name) -> std::cmp::Ordering {
                self.as_str().cmp(other.as_str())
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &$name) -> Option<std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }

        impl $crate::table::ColumnType for $name {
            const WORDS: &'static [$crate::table::Word] =
                &[$($crate::table::Word { text: $word, doc: $word_doc }),+];
            fn data_type() -> arrow::datatypes::DataType {
                arrow::datatypes::DataType::Utf8
            }
        }
    };
}
pub(crate) use words;
