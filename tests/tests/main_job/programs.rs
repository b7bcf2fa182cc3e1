//! Which XDP programs there are, without a tool of somebody else's.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result};
use aya::programs::loaded_programs;
use balancer_tests::lab::{Namespace, wait_for};
use balancer_user::netlink::{AttachedXdp, Netlink};

use crate::LIMIT;

/// The program on an interface.
pub(crate) fn attached(namespace: &Namespace, interface: &str) -> Result<Option<AttachedXdp>> {
    namespace.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let (netlink, _changes) = Netlink::connect()?;
            let link = netlink.link(interface).await?;
            Ok(link.context("no such interface")?.xdp)
        })
    })?
}

/// The number of the program on `eth0`, which must have one.
pub(crate) fn attached_id(namespace: &Namespace) -> Result<u32> {
    let program = attached(namespace, "eth0")?.context("no program is attached")?;
    Ok(program.program_id)
}

/// Programs called `balancer` that a process holds.
pub(crate) fn held_by(pid: u32) -> Result<BTreeSet<u32>> {
    let mut held = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor may be closed between the listing and the look.
        let info = fs::read_to_string(entry?.path()).unwrap_or_default();
        let id = info.lines().find_map(|line| line.strip_prefix("prog_id:"));
        held.extend(id.and_then(|id| id.trim().parse::<u32>().ok()));
    }
    let ours = all_balancers()?;
    Ok(held.intersection(&ours).copied().collect())
}

/// Waits until the kernel has freed a program.
pub(crate) fn wait_gone(id: u32) -> Result<()> {
    wait_for(&format!("program {id} to be gone"), LIMIT, || {
        let balancers = all_balancers().ok()?;
        (!balancers.contains(&id)).then_some(())
    })
}

/// Programs called `balancer`, those of other labs included.
fn all_balancers() -> Result<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    for program in loaded_programs() {
        // One may go between two steps of the listing.
        let Ok(program) = program else { continue };
        if program.name_as_str() == Some("balancer") {
            found.insert(program.id());
        }
    }
    Ok(found)
}
