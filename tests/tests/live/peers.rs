//! Two balancers of a group that hold the same, and then do not.

use anyhow::{Result, ensure};
use balancer_tests::balancer::Balancer;
use balancer_tests::lab::{Lab, LabConfig, Node};

use crate::LIMIT;
use crate::fixture::{Expected, File, Finding, check, compare};

const PORT: u16 = 9180;
/// That of every balancer of a lab.
const SEED: &str = "000102030405060708090a0b0c0d0e0f";

/// The same file for each of the two, but for who is who.
fn file(lab: &Lab, own: &Node, peer: &Node) -> File {
    let (own, peer) = (own.v4(), peer.v4());
    let mut file = File::v4(lab, "l2");
    // The other balancer stands where a backend would.
    file.backends.truncate(1);
    file.node = format!(
        "seed = \"{SEED}\"\nxdp_mode = \"generic\"\nlisten = \"{own}:{PORT}\"\npeers = \
         [\"{peer}:{PORT}\"]\n"
    );
    file
}

fn start<'a>(node: &'a Node, file: &File) -> Result<Balancer<'a>> {
    let (_, services) = file.to_string().split_once("\n[[service]]").map_or_else(
        || (String::new(), String::new()),
        |(node, services)| (node.to_owned(), services.to_owned()),
    );
    let (seed, keys) = file.node.split_once('\n').unwrap_or_default();
    ensure!(seed.contains(SEED), "{seed}");
    let text = format!("{keys}\n[[service]]{services}");
    Balancer::start(node.namespace(), &["eth0"], &text)
}

/// Waits until the status has a problem with all of this, or none at all.
fn wait_problem(balancer: &Balancer<'_>, parts: &[&str]) -> Result<()> {
    let what = format!("a problem with {parts:?}");
    balancer.wait_status(&what, LIMIT, |status| {
        let has_all = |problem: &&String| parts.iter().all(|part| problem.contains(part));
        let found = status.problems.iter().find(has_all);
        (found.is_some() || parts.is_empty() && status.problems.is_empty()).then_some(())
    })
}

/// Nobody serves in this lab, and the program there is a daemon's.
fn found(node: &Node, file: &File) -> Result<Vec<Finding>> {
    let mut found = check(node.namespace(), file)?;
    found.retain(|finding| finding.rule == "peer-digest");
    Ok(found)
}

#[test]
fn balancers_of_a_group_say_what_the_other_has_otherwise() -> Result<()> {
    let lab = Lab::l2(LabConfig::backends(2))?;
    let (here, there) = (lab.balancer(), lab.backend(1));
    let (file_here, file_there) = (file(&lab, here, there), file(&lab, there, here));
    let first = start(here, &file_here)?;
    let at = format!("peer {}:{PORT}", there.v4());
    wait_problem(&first, &[&at, "cannot be asked what it holds"])?;
    let second = start(there, &file_there)?;
    wait_problem(&first, &[])?;
    wait_problem(&second, &[])?;
    ensure!(found(here, &file_here)?.is_empty());

    second.succeed(&["backend", "weight", "web", "b0", "50"])?;
    wait_problem(&first, &[&at, "has otherwise service web"])?;
    ensure!(first.log().contains("peer-digest"), "{}", first.log());
    let value = format!("[\"{}:{PORT}\"]", there.v4());
    let differs = Expected {
        rule: "peer-digest",
        level: "error",
        at: &value,
        says: "has otherwise service web",
    };
    compare(&found(here, &file_here)?, &file_here, &[differs])?;

    first.succeed(&["backend", "weight", "web", "b0", "50"])?;
    wait_problem(&first, &[])?;
    wait_problem(&second, &[])
}

#[test]
fn another_seed_and_table_size_are_named_and_the_seed_is_not_shown() -> Result<()> {
    let lab = Lab::l2(LabConfig::backends(2))?;
    let (here, there) = (lab.balancer(), lab.backend(1));
    let _second = start(there, &file(&lab, there, here))?;
    let mut file = file(&lab, here, there);
    let another = "0123456789abcdef0123456789abcdef";
    file.node = file.node.replace(SEED, another) + "table_size = 4099\n";
    let found = found(here, &file)?;
    let said = &found[0].message;
    ensure!(
        found.len() == 1
            && said.contains("has another seed")
            && said.contains("has table_size 65537, here it is 4099"),
        "{found:?}"
    );
    ensure!(!said.contains(SEED) && !said.contains(another), "{said}");
    Ok(())
}
