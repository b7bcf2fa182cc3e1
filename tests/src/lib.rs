//! Lab and suites.
pub mod frames;
pub mod lab;
pub mod model;
