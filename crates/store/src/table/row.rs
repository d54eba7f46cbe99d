//! `row!` and the trait it implements.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use mindgap_base::error::{Error, Result};
use serde::{Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One column of a table, as documented in `docs/tables`.
pub struct Column {
    pub name: &'static str,
    pub data_type: DataType,
    pub nullable: bool,
    pub doc: &'static str,
}

/// A row type. `check` states what holds between rows, and is run before writing and after reading.
pub trait Row: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    /// The table's name: a plural noun.
    const TABLE: &'static str;
    /// Version of the schema.
    const VERSION: u32;
    /// Columns of the key; tables are sorted by it.
    const KEY: &'static [&'static str];
    /// One line on what the table is.
    const DOC: &'static str;

    fn columns() -> Vec<Column>;

    /// What must hold in each row beyond its types.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Counts kept beside a part, for plans that must not read it. The rows are sorted by the key.
    fn counts(_rows: &[Self]) -> BTreeMap<String, u64> {
        BTreeMap::new()
    }

    fn schema() -> SchemaRef {
        let fields: Vec<Field> =
            Self::columns().into_iter().map(|c| Field::new(c.name, c.data_type, c.nullable)).collect();
        Arc::new(Schema::new(fields))
    }
}

/// The Arrow type of a Rust type.
pub trait ColumnType {
    const NULLABLE: bool = false;
    fn data_type() -> DataType;
}

macro_rules! column_types {
    ($($rust:ty => $arrow:ident),*) => {$(
        impl ColumnType for $rust {
            fn data_type() -> DataType { DataType::$arrow }
        }
    )*};
}
column_types!(String => Utf8, u32 => UInt32, u64 => UInt64, f32 => Float32, f64 => Float64, bool => Boolean);

impl<T: ColumnType> ColumnType for Option<T> {
    const NULLABLE: bool = true;
    fn data_type() -> DataType {
        T::data_type()
    }
}

impl<T: ColumnType> ColumnType for Vec<T> {
    fn data_type() -> DataType {
        DataType::List(Arc::new(Field::new("item", T::data_type(), T::NULLABLE)))
    }
}

/// Declares a row type. Doc comments become the column documentation of `docs/tables`.
macro_rules! row {
    (
        #[doc = $table_doc:literal]
        $name:ident in $table:literal v $version:literal key [$($key:ident),+] {
            $(#[doc = $doc:literal] $field:ident: $ty:ty,)+
        }
        $(check($self:ident) $check:block)?
        $(count $count:literal($rows:ident) $counted:block)?
    ) => {
        #[doc = $table_doc]
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        pub struct $name { $(#[doc = $doc] pub $field: $ty,)+ }

        impl $crate::table::Row for $name {
            const TABLE: &'static str = $table;
            const VERSION: u32 = $version;
            const KEY: &'static [&'static str] = &[$(stringify!($key)),+];
            const DOC: &'static str = $table_doc;
            fn columns() -> Vec<$crate::table::Column> {
                vec![$($crate::table::Column {
                    name: stringify!($field),
                    data_type: <$ty as $crate::table::ColumnType>::data_type(),
                    nullable: <$ty as $crate::table::ColumnType>::NULLABLE,
                    doc: $doc,
                }),+]
            }
            $(fn check(&$self) -> mindgap_base::error::Result<()> $check)?
            $(fn counts($rows: &[Self]) -> std::collections::BTreeMap<String, u64> {
                std::collections::BTreeMap::from([($count.to_string(), $counted as u64)])
            })?
        }
    };
}
pub(crate) use row;

/// Rows as one Arrow batch. Every row is checked first.
pub fn to_batch<R: Row>(rows: &[R]) -> Result<RecordBatch> {
    for row in rows {
        row.check()?;
    }
    let fields: Vec<FieldRef> = R::schema().fields().iter().cloned().collect();
    serde_arrow::to_record_batch(&fields, &rows)
        .map_err(|e| Error::internal(format!("rows do not fit the schema of `{}`", R::TABLE)).source(e))
}

/// Rows of Arrow batches. The schema must be the table's own; every row is checked.
pub fn from_batches<R: Row>(batches: &[RecordBatch]) -> Result<Vec<R>> {
    let mut rows = Vec::with_capacity(batches.iter().map(RecordBatch::num_rows).sum());
    for batch in batches {
        for column in R::columns() {
            match batch.schema().field_with_name(column.name) {
                Err(_) => return Err(Error::input(format!("table `{}` has no column `{}`", R::TABLE, column.name))),
                Ok(field) if *field.data_type() != column.data_type => {
                    let (name, found, wanted) = (column.name, field.data_type(), column.data_type);
                    return Err(Error::input(format!("column `{name}` of `{}` is {found}, not {wanted}", R::TABLE)));
                }
                Ok(_) => {}
            }
        }
        let part: Vec<R> = serde_arrow::from_record_batch(batch)
            .map_err(|e| Error::input(format!("rows do not fit the schema of `{}`", R::TABLE)).source(e))?;
        rows.extend(part);
    }
    for row in &rows {
        row.check()?;
    }
    Ok(rows)
}
