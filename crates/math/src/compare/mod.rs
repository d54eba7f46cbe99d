//! Two trees -> equal or not: exact first, algebra next, random points last.

pub(crate) mod equal;
pub(crate) mod quantities;
pub(crate) mod shapes;
pub(crate) mod signs;
pub(crate) mod names;
pub(crate) mod families;
pub(crate) mod combinations;
pub(crate) mod relations;
pub(crate) mod sets;
pub(crate) mod matrix;
pub(crate) mod identity;
pub(crate) mod canon;
pub(crate) mod fraction;
pub(crate) mod poly;
