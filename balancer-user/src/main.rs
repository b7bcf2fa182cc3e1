//! The `balancer` command.
fn main() {}
