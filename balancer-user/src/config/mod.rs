//! The configuration file: its model, reading, writing and checking.

pub mod model;
