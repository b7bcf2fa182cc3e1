//! Probes of each kind against real servers: HTTP/2, DNS, UDP and commands.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use balancer_tests::balancer::Balancer;
use balancer_tests::lab::certificate::{Authority, Validity};
use balancer_tests::lab::server::{Nginx, NginxConfig};
use balancer_tests::lab::{Lab, LabConfig, Node, wait_for};
use balancer_user::api::types::BackendStatus;
use balancer_user::watch::Kind;

use crate::LIMIT;
use crate::fixture::{Api, Service, balancer, dns_servers, get_well, l2, v4};
use crate::incidents::opened;

pub(crate) fn wait_state(
    api: &Api,
    balancer: &Balancer<'_>,
    name: &str,
    state: &str,
) -> Result<BackendStatus> {
    wait_for(&format!("{name} to be {state}"), LIMIT, || {
        let backend = api.backend("web", name).ok()?;
        (backend.state == state).then_some(backend)
    })
    .with_context(|| balancer.log())
}

/// Waits until a backend is down, and insists on why.
pub(crate) fn wait_down(api: &Api, balancer: &Balancer<'_>, name: &str, why: &str) -> Result<()> {
    wait_for(&format!("{name} to be down as {why:?}"), LIMIT, || {
        let backend = api.backend("web", name).ok()?;
        let failure = backend.last_failure.as_deref().unwrap_or_default();
        let is_out = matches!(backend.state.as_str(), "down" | "unproven");
        (is_out && failure.contains(why)).then_some(())
    })
    .with_context(|| balancer.log())
}

fn health(text: &str) -> String {
    format!("{text}interval = \"200ms\"\ntimeout = \"190ms\"\nrise = 2\nfall = 3\n")
}

/// A service with this probe, asked five times a second.
fn file(lab: &Lab, probe: &str) -> String {
    file_with(lab, &health(probe))
}

/// A service with what stands below `[service.health]`.
pub(crate) fn file_with(lab: &Lab, health: &str) -> String {
    let service = Service {
        health: "",
        ..Service::web_l2(lab)
    };
    let text = service.toml();
    let (head, backends) = text
        .split_once("\n[[service.backend]]")
        .expect("it has some");
    format!("{head}\n[service.health]\n{health}\n[[service.backend]]{backends}")
}

/// nginx that speaks HTTP/2 as well: over TLS on 443, without it on 81, with
/// a certificate that ended long ago.
fn http2_server(node: &Node) -> Result<Nginx> {
    let authority = Authority::new()?;
    let certificate = authority.issue("web.example", Validity::Ended)?;
    let mut config = NginxConfig::new(node.name(), &[], 80);
    config.listen = vec![SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 80)];
    let pem = certificate.file.display();
    config.directives = format!(
        "listen 0.0.0.0:443 ssl http2; listen 0.0.0.0:81 http2;\n\
         ssl_certificate {pem}; ssl_certificate_key {pem};"
    );
    // It has read the file, which goes now, once it listens.
    Nginx::start(node.namespace(), &config)
}

#[test]
fn http2_is_asked_over_tls_and_a_certificate_that_has_ended_is_named() -> Result<()> {
    let lab = l2(2)?;
    let servers = lab.backends().iter().map(http2_server);
    let servers: Vec<Nginx> = servers.collect::<Result<_>>()?;
    let probe = "kind = \"h2\"\nport = 443\npath = \"/healthz\"\nexpect_status = [200]\n\
        server_name = \"web.example\"\nidentity = { pattern = \"^ok\\\\s*$\" }\n";
    let balancer = balancer(&lab, &file(&lab, probe))?;
    let api = Api::new(&balancer)?;
    for name in ["backend0", "backend1"] {
        wait_state(&api, &balancer, name, "up")?;
    }
    get_well(&lab, Service::web_l2(&lab).dial())?;
    let incident = opened(&balancer, Kind::CertificateEnds, Some("backend0"))?;
    ensure!(
        incident.what.contains("certificate that ended"),
        "{incident:?}"
    );
    let said = balancer.succeed(&["status"])?;
    ensure!(said.contains("certificate-ends: "), "{said}");
    servers[1].set_healthy(false)?;
    wait_down(&api, &balancer, "backend1", "status 503, expected 200")?;
    wait_state(&api, &balancer, "backend0", "up")?;
    Ok(())
}

#[test]
fn http2_is_asked_without_tls_and_http1_is_no_answer_to_it() -> Result<()> {
    let lab = l2(2)?;
    let _http2 = http2_server(lab.backend(0))?;
    // The other one speaks HTTP/1.1 on that port.
    let node = lab.backend(1);
    let mut config = NginxConfig::new(node.name(), &[], 81);
    config.listen = vec![SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 81)];
    let _http1 = Nginx::start(node.namespace(), &config)?;
    let probe = "kind = \"h2c\"\nport = 81\npath = \"/healthz\"\nexpect_status = [200]\n";
    let balancer = balancer(&lab, &file(&lab, probe))?;
    let api = Api::new(&balancer)?;
    wait_state(&api, &balancer, "backend0", "up")?;
    wait_down(&api, &balancer, "backend1", "answer is not valid HTTP/2")
}

/// `whoami.lab` TXT, as it goes over the wire.
const WHOAMI: &str = "0001010000010000000000000677686f616d69036c61620000100001";

#[test]
fn dns_servers_are_told_apart_by_what_they_answer() -> Result<()> {
    let lab = Lab::l2(LabConfig::backends(2))?;
    let _servers = dns_servers(&lab, lab.vip_v4().into())?;
    for (probe, why) in [
        (
            "kind = \"dns\"\nport = 53\nquery_name = \"whoami.lab\"\nquery_type = \"TXT\"\n\
             expect_answer = [\"backend0\"]\n"
                .to_owned(),
            "expected TXT backend0, got backend1",
        ),
        (
            "kind = \"dns\"\nport = 53\nquery_name = \"other.lab\"\n".to_owned(),
            "DNS server answered",
        ),
        (
            format!("kind = \"udp\"\nport = 53\nsend_hex = \"{WHOAMI}\"\nexpect = \"backend0\"\n"),
            "expected an answer with \"backend0\", got",
        ),
    ] {
        let balancer = balancer(&lab, &file(&lab, &probe))?;
        let api = Api::new(&balancer)?;
        wait_down(&api, &balancer, "backend1", why)?;
        if !probe.contains("other.lab") {
            wait_state(&api, &balancer, "backend0", "up")?;
        }
    }
    Ok(())
}

#[test]
fn command_decides_with_the_rights_of_nobody() -> Result<()> {
    let lab = l2(2)?;
    let servers = crate::fixture::web_servers(&lab)?;
    let script = "test $(id -un) = nobody || exit 9; \
        exec curl -fsS http://$BALANCER_ADDRESS:$BALANCER_PORT/healthz";
    let probe =
        format!("kind = \"command\"\nport = 80\ncommand = [\"/bin/sh\", \"-c\", \"{script}\"]\n");
    // A process takes its time on a busy machine.
    let text = file(&lab, &probe)
        .replace("timeout = \"190ms\"", "timeout = \"1900ms\"")
        .replace(
            "interval = \"200ms\"",
            "interval = \"2s\"\nfast_interval = \"200ms\"",
        );
    let balancer = balancer(&lab, &text)?;
    let api = Api::new(&balancer)?;
    for (name, _) in v4(lab.backends()) {
        wait_state(&api, &balancer, &name, "up")?;
    }
    servers[1].set_healthy(false)?;
    wait_down(
        &api,
        &balancer,
        "backend1",
        "command ended with status 22: curl: (22)",
    )?;
    wait_state(&api, &balancer, "backend0", "up")?;
    Ok(())
}

/// Whether a process runs with these arguments.
fn runs(arguments: &str) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return false;
    };
    let wanted = arguments.replace(' ', "\0") + "\0";
    processes.flatten().any(|process| {
        let line = std::fs::read(process.path().join("cmdline"));
        line.is_ok_and(|line| line == wanted.as_bytes())
    })
}

#[test]
fn command_that_still_runs_ends_with_the_daemon() -> Result<()> {
    let lab = l2(1)?;
    let servers = crate::fixture::web_servers(&lab)?;
    // Nobody else sleeps for as long.
    let hanging = format!("sleep {}", 1_000_000 + std::process::id());
    let script =
        format!("curl -fsS http://$BALANCER_ADDRESS:$BALANCER_PORT/healthz || exec {hanging}");
    let probe =
        format!("kind = \"command\"\nport = 80\ncommand = [\"/bin/sh\", \"-c\", \"{script}\"]\n");
    let text = file(&lab, &probe)
        .replace("timeout = \"190ms\"", "timeout = \"3900ms\"")
        .replace(
            "interval = \"200ms\"",
            "interval = \"4s\"\nfast_interval = \"200ms\"",
        );
    let mut balancer = balancer(&lab, &text)?;
    servers[0].set_healthy(false)?;
    wait_for("the command to hang", LIMIT, || {
        runs(&hanging).then_some(())
    })
    .with_context(|| balancer.log())?;
    balancer.stop()?;
    wait_for("the command to end", LIMIT, || {
        (!runs(&hanging)).then_some(())
    })?;
    Ok(())
}
