//! Lab and suites.
pub mod balancer;
pub mod bench;
pub mod demo;
pub mod frames;
pub mod lab;
pub mod model;
