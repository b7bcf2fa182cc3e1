//! The reference model's own files, as far as targets compare with them.
//!
//! Not its crate: that holds the lab as well, which takes a minute to build
//! with coverage counters in it. A file that needs another one of the model
//! brings it along.

#[path = "../../tests/src/model/decap.rs"]
pub mod decap;
#[path = "../../tests/src/model/forward.rs"]
pub mod forward;
#[path = "../../tests/src/model/parse.rs"]
pub mod parse;
