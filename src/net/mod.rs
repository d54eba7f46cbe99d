//! The network: the hub of models, and HTTP to servers that run one. The only module that opens connections.

#![expect(clippy::disallowed_types, reason = "the one module that opens connections")]

pub mod http;
pub mod hub;
