//! The kernel's generic hook, for drivers without native XDP.

use anyhow::{Context, Result, ensure};
use balancer_user::netlink::AttachedMode;

use crate::fixture::{Service, balancer, get_well, l2, web_servers};
use crate::programs::attached;

#[test]
fn generic_mode_serves_and_the_log_says_so() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let text = format!("xdp_mode = \"generic\"\n{}", service.toml());
    let mut balancer = balancer(&lab, &text)?;
    let program = attached(lab.balancer().namespace(), "eth0")?.context("no program")?;
    ensure!(program.mode == AttachedMode::Generic, "{program:?}");
    for _ in 0..20 {
        get_well(&lab, service.dial())?;
    }
    let log = balancer.log();
    ensure!(log.contains("mode=\"generic\""), "{log}");
    let status = balancer.status()?;
    ensure!(status.interfaces[0].mode == "generic", "{status:?}");
    ensure!(status.problems.is_empty(), "{:?}", status.problems);

    balancer.kill()?;
    balancer.restart()?;
    get_well(&lab, service.dial())?;
    let program = attached(lab.balancer().namespace(), "eth0")?.context("no program")?;
    ensure!(program.mode == AttachedMode::Generic, "{program:?}");
    Ok(())
}
