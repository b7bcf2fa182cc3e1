//! Lab and suites.
pub mod lab;
