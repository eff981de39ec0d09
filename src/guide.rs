//! The guides: what the crate's comments cite, a page each, so that the check of links keeps them true.
//!
//! The pages are also ordinary Markdown files in `src/guide`. Nothing here is code.

#[doc = include_str!("guide/protocol.md")]
pub mod protocol {}

#[doc = include_str!("guide/money.md")]
pub mod money {}

#[doc = include_str!("guide/nodes.md")]
pub mod nodes {}

#[doc = include_str!("guide/promises.md")]
pub mod promises {}

#[doc = include_str!("guide/clients.md")]
pub mod clients {}

#[doc = include_str!("guide/facilitator.md")]
pub mod facilitator {}

#[doc = include_str!("guide/security.md")]
pub mod security {}
