//! Probes by the VIP that speak TLS: HTTPS, HTTP/2 and gRPC, with proof by the
//! certificate, through the packet path.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Result, ensure};
use balancer_tests::balancer::{Balancer, backend_of};
use balancer_tests::lab::certificate::{Authority, Certificate, Validity};
use balancer_tests::lab::client::Curl;
use balancer_tests::lab::server::{GrpcConfig, GrpcServer, Nginx, NginxConfig};
use balancer_tests::lab::{Lab, Node, link};

use crate::LIMIT;
use crate::fixture::{Service, balancer, l2};

/// The name that the certificates must carry.
const NAME: &str = "web.example";
const TIMES: &str = "via = \"vip\"\ninterval = \"1s\"\ntimeout = \"900ms\"\n\
    fast_interval = \"300ms\"\nrise = 2\nfall = 3\n\
    flap_limit = 0\n";

/// nginx on port 443 with this certificate; `http2` is a word for `listen`.
fn web(node: &Node, certificate: &Certificate, http2: &str) -> Result<Nginx> {
    let mut config = NginxConfig::new(node.name(), &[], 80);
    config.listen = vec![SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 80)];
    let pem = certificate.file.display();
    config.directives = format!(
        "listen 0.0.0.0:443 ssl {http2};\nssl_certificate {pem}; ssl_certificate_key {pem};"
    );
    Nginx::start(node.namespace(), &config)
}

/// The service on port 443 with this probe, by the VIP.
fn start<'a>(lab: &'a Lab, probe: &str) -> Result<Balancer<'a>> {
    let service = Service {
        port: 443,
        ..Service::web_l2(lab)
    };
    let text = service.toml();
    let health = format!("[service.health]\n{probe}{TIMES}");
    let own = format!("[service.health]\n{}", service.health);
    balancer(lab, &text.replace(&own, &health))
}

/// Waits until a backend is out, for a reason that was seen by the VIP.
fn wait_out(balancer: &Balancer<'_>, lab: &Lab, index: usize, why: &str) -> Result<()> {
    let backend = lab.backend(index);
    let by = format!("by the VIP {}:443 (l2 to {})", lab.vip_v4(), backend.v4());
    let name = backend.name();
    balancer.wait_status(&format!("{name} to be out as {why:?}"), LIMIT, |status| {
        let backend = backend_of(status, "web", name)?;
        let failure = backend.last_failure.as_deref().unwrap_or_default();
        let is_out = matches!(backend.state.as_str(), "down" | "unproven");
        (is_out && failure.contains(why) && failure.contains(&by)).then_some(())
    })
}

/// Clients get answers, all of backend 0.
fn insist_served_by_first(lab: &Lab) -> Result<()> {
    for _ in 0..8 {
        let curl = Curl::new(format!("https://{}/", lab.vip_v4())).args(["--insecure"]);
        let response = curl.run(lab.client(0).namespace())?;
        ensure!(
            (response.status, response.backend()) == (200, Some("backend0")),
            "{response:?}"
        );
    }
    Ok(())
}

#[test]
fn https_and_http2_by_the_vip_prove_who_answers_there() -> Result<()> {
    let lab = l2(4)?;
    let (trusted, stranger) = (Authority::new()?, Authority::new()?);
    let right = trusted.issue(NAME, Validity::Lasting)?;
    let other = trusted.issue("other.example", Validity::Lasting)?;
    let untrusted = stranger.issue(NAME, Validity::Lasting)?;
    let servers = [
        web(lab.backend(0), &right, "http2")?,
        web(lab.backend(1), &other, "http2")?,
        web(lab.backend(2), &untrusted, "http2")?,
        web(lab.backend(3), &right, "")?,
    ];
    for kind in ["https", "h2"] {
        let probe = format!(
            "kind = \"{kind}\"\npath = \"/healthz\"\nexpect_status = [200]\n\
             identity = {{ certificate = \"{NAME}\" }}\nca_file = {:?}\n",
            trusted.file()
        );
        let balancer = start(&lab, &probe)?;
        balancer.wait_backend("web", "backend0", "up")?;
        let lacks = format!("certificate lacks the name {NAME}, carries other.example");
        wait_out(&balancer, &lab, 1, &lacks)?;
        let unknown = "certificate is not trusted by the ca_file: its issuer is unknown";
        wait_out(&balancer, &lab, 2, unknown)?;
        if kind == "h2" {
            wait_out(&balancer, &lab, 3, "server does not speak HTTP/2 over TLS")?;
            insist_served_by_first(&lab)?;
        } else {
            balancer.wait_backend("web", "backend3", "up")?;
            servers[3].set_healthy(false)?;
            wait_out(&balancer, &lab, 3, "status 503, expected 200")?;
            servers[3].set_healthy(true)?;
            balancer.wait_backend("web", "backend3", "up")?;
        }
        let first = lab.backend(0).namespace();
        link::remove_address(first, "lo", lab.vip_v4().into())?;
        wait_out(&balancer, &lab, 0, "no answer")?;
        link::add_address(first, "lo", lab.vip_v4().into(), 32)?;
        balancer.wait_backend("web", "backend0", "up")?;
    }
    Ok(())
}

#[test]
fn certificate_that_has_ended_is_seen_by_the_vip() -> Result<()> {
    let lab = l2(1)?;
    let authority = Authority::new()?;
    let _server = web(lab.backend(0), &authority.issue(NAME, Validity::Ended)?, "")?;
    let probe = format!(
        "kind = \"https\"\npath = \"/healthz\"\nexpect_status = [200]\n\
         server_name = \"{NAME}\"\nca_file = {:?}\n",
        authority.file()
    );
    let balancer = start(&lab, &probe)?;
    wait_out(&balancer, &lab, 0, "certificate expired")
}

#[test]
fn grpc_over_tls_goes_by_the_vip_as_well() -> Result<()> {
    let lab = l2(2)?;
    let authority = Authority::new()?;
    let server = |index: usize, name: &str| {
        let config = GrpcConfig {
            listen: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 443),
            certificate: Some(authority.issue(name, Validity::Lasting)?),
            has_health: true,
        };
        GrpcServer::start(lab.backend(index).namespace(), &config)
    };
    let (first, _second) = (server(0, NAME)?, server(1, "other.example")?);
    let probe = format!(
        "kind = \"grpcs\"\nidentity = {{ certificate = \"{NAME}\" }}\nca_file = {:?}\n",
        authority.file()
    );
    let balancer = start(&lab, &probe)?;
    balancer.wait_backend("web", "backend0", "up")?;
    wait_out(&balancer, &lab, 1, "certificate lacks the name")?;
    first.set(&[("", "NOT_SERVING")])?;
    wait_out(&balancer, &lab, 0, "health is NOT_SERVING")?;
    first.set(&[("", "SERVING")])?;
    balancer.wait_backend("web", "backend0", "up")
}
