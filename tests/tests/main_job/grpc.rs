//! gRPC's health protocol, asked of a server of gRPC's own stack.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use balancer_tests::balancer::Balancer;
use balancer_tests::lab::certificate::{Authority, Certificate, Validity};
use balancer_tests::lab::server::{GrpcConfig, GrpcServer};
use balancer_tests::lab::{Lab, Node};

use crate::fixture::{Api, balancer, l2};
use crate::probes::{file_with, wait_down, wait_state};

const PORT: u16 = 50051;
/// A server in Python takes its time on a busy machine.
const TIMES: &str = "interval = \"1s\"\ntimeout = \"900ms\"\nfast_interval = \"300ms\"\n\
    rise = 2\nfall = 3\nflap_limit = 0\n";

fn config(certificate: Option<Certificate>) -> GrpcConfig {
    GrpcConfig {
        listen: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), PORT),
        certificate,
        has_health: true,
    }
}

fn server(node: &Node, config: &GrpcConfig) -> Result<GrpcServer> {
    GrpcServer::start(node.namespace(), config)
}

fn start<'a>(lab: &'a Lab, probe: &str) -> Result<(Balancer<'a>, Api)> {
    let health = format!("{probe}port = {PORT}\n{TIMES}");
    let balancer = balancer(lab, &file_with(lab, &health))?;
    let api = Api::new(&balancer)?;
    Ok((balancer, api))
}

#[test]
fn state_of_a_grpc_service_decides_and_is_named() -> Result<()> {
    let lab = l2(2)?;
    let [first, second] = [0, 1].map(|index| server(lab.backend(index), &config(None)));
    let (first, mut second) = (first?, second?);
    first.set(&[("", "SERVING"), ("shop", "SERVING")])?;
    let (balancer, api) = start(&lab, "kind = \"grpc\"\ngrpc_service = \"shop\"\n")?;
    wait_state(&api, &balancer, "backend0", "up")?;
    // The server is well, and knows no such service.
    let unknown = "gRPC status 5 (NOT_FOUND: unknown service)";
    wait_down(&api, &balancer, "backend1", unknown)?;
    for (state, why) in [
        ("NOT_SERVING", "health is NOT_SERVING, expected SERVING"),
        ("UNKNOWN", "health is UNKNOWN, expected SERVING"),
        (
            "SERVICE_UNKNOWN",
            "health is SERVICE_UNKNOWN, expected SERVING",
        ),
    ] {
        second.set(&[("", "SERVING"), ("shop", "SERVING")])?;
        wait_state(&api, &balancer, "backend1", "up")?;
        second.set(&[("", "SERVING"), ("shop", state)])?;
        wait_down(&api, &balancer, "backend1", why)?;
    }
    second.set(&[("", "NOT_SERVING"), ("shop", "SERVING")])?;
    wait_state(&api, &balancer, "backend1", "up")?;
    second.server.pause()?;
    wait_down(&api, &balancer, "backend1", "timed out after 900ms")?;
    second.server.resume()?;
    wait_state(&api, &balancer, "backend1", "up")?;
    second.server.kill()?;
    wait_down(&api, &balancer, "backend1", "connection refused")?;
    wait_state(&api, &balancer, "backend0", "up")?;
    Ok(())
}

#[test]
fn whole_server_is_asked_for_where_no_service_is_named() -> Result<()> {
    let lab = l2(2)?;
    let well = server(lab.backend(0), &config(None))?;
    let without_health = GrpcConfig {
        has_health: false,
        ..config(None)
    };
    let _forgotten = server(lab.backend(1), &without_health)?;
    let (balancer, api) = start(&lab, "kind = \"grpc\"\n")?;
    wait_state(&api, &balancer, "backend0", "up")?;
    let unimplemented = "gRPC status 12 (UNIMPLEMENTED: Method not found!)";
    wait_down(&api, &balancer, "backend1", unimplemented)?;
    well.set(&[("", "NOT_SERVING"), ("shop", "SERVING")])?;
    wait_down(&api, &balancer, "backend0", "health is NOT_SERVING")
}

#[test]
fn grpc_over_tls_is_proven_by_certificate_and_authority() -> Result<()> {
    let lab = l2(4)?;
    let (trusted, stranger) = (Authority::new()?, Authority::new()?);
    let certificates = [
        Some(trusted.issue("shop.example", Validity::Lasting)?),
        Some(trusted.issue("other.example", Validity::Lasting)?),
        Some(stranger.issue("shop.example", Validity::Lasting)?),
        // It speaks no TLS.
        None,
    ];
    let nodes = lab.backends().iter().zip(certificates);
    let servers = nodes.map(|(node, certificate)| server(node, &config(certificate)));
    let servers: Vec<GrpcServer> = servers.collect::<Result<_>>()?;
    let probe = format!(
        "kind = \"grpcs\"\nidentity = {{ certificate = \"shop.example\" }}\nca_file = {:?}\n",
        trusted.file()
    );
    let (balancer, api) = start(&lab, &probe)?;
    wait_state(&api, &balancer, "backend0", "up")?;
    for (name, why) in [
        (
            "backend1",
            "certificate lacks the name shop.example, carries other.example",
        ),
        (
            "backend2",
            "certificate is not trusted by the ca_file: its issuer is unknown",
        ),
        ("backend3", "TLS handshake failed"),
    ] {
        wait_down(&api, &balancer, name, why)?;
    }
    servers[0].set(&[("", "NOT_SERVING")])?;
    wait_down(&api, &balancer, "backend0", "health is NOT_SERVING")
}

#[test]
fn grpc_without_tls_is_no_answer_of_a_server_that_wants_it() -> Result<()> {
    let lab = l2(1)?;
    let authority = Authority::new()?;
    let certificate = authority.issue("shop.example", Validity::Lasting)?;
    let _server = server(lab.backend(0), &config(Some(certificate)))?;
    let (balancer, api) = start(&lab, "kind = \"grpc\"\n")?;
    wait_down(&api, &balancer, "backend0", "connection ")
}
