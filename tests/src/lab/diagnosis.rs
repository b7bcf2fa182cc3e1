//! What the kernels of a lab counted, for a failure whose cause is not in
//! the test's own hands: a lost packet is in some counter of some namespace.

use std::fmt::Write;

use super::topology::{Lab, Node};

/// Parts of the names of counters that tell of loss.
const TELLING: &[&str] = &[
    "Discard", "Drop", "Err", "Fail", "NoRoutes", "NoPorts", "Overflow", "Reset", "Retrans", "Rst",
    "Timeout", "Unreach",
];

/// Every counter of loss that is not zero, a line for each node.
pub fn losses(lab: &Lab) -> String {
    let mut text = String::new();
    for node in lab.nodes() {
        let counted = counters(node).unwrap_or_else(|error| format!("{error:#}"));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}: {counted}", node.name());
    }
    text
}

fn counters(node: &Node) -> anyhow::Result<String> {
    let output = node
        .namespace()
        .command("nstat")
        .args(["-a", "-s"])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let telling = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (name, count) = (words.next()?, words.next()?);
        TELLING
            .iter()
            .any(|part| name.contains(part))
            .then(|| format!("{name} {count}"))
    });
    Ok(telling.collect::<Vec<_>>().join(", "))
}
