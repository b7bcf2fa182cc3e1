//! Echo requests, by the real ping.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use balancer_tests::lab::Node;
use balancer_tests::lab::process::run;

use crate::LIMIT;
use crate::fixture::{Service, balancer, l2, v4, v6, web_servers};

fn ping(client: &Node, address: IpAddr, count: u32) -> Result<String> {
    let mut command = client.namespace().command("ping");
    command
        .args(["-n", "-c", &count.to_string(), "-i", "0.01", "-W", "2"])
        .arg(address.to_string());
    let output = run(command, LIMIT)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn services_address_answers_ping_and_no_other_does() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let v4 = Service::web(lab.vip_v4(), "l2", v4(lab.backends()));
    let mut v6 = Service::web(lab.vip_v6(), "l2", v6(lab.backends()));
    v6.name = "web6";
    let balancer = balancer(&lab, &format!("{}\n{}", v4.toml(), v6.toml()))?;
    for address in [IpAddr::from(lab.vip_v4()), lab.vip_v6().into()] {
        let said = ping(lab.client(0), address, 20)?;
        ensure!(said.contains("20 received"), "{said}");
        ensure!(!said.contains("DUP") && !said.contains("wrong"), "{said}");
    }
    let status = balancer.status()?;
    ensure!(
        status.reasons["echo_answered"] == 40,
        "{:?}",
        status.reasons
    );

    let [a, b, c, d] = lab.vip_v4().octets();
    let said = ping(lab.client(0), IpAddr::from([a, b, c, d + 100]), 2)?;
    ensure!(said.contains(" 0 received"), "{said}");
    Ok(())
}
