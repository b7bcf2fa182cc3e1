//! A service given by arguments, written as it would stand in the file.
//!
//! Only the shapes that the arguments have of their own are read here;
//! everything else is for the daemon, which reads the text with the parser
//! of the file and knows the limits.

use std::net::IpAddr;
use std::str::FromStr;

use anyhow::Context;
use serde::Serialize;

use super::super::backend::Backend;

/// A `[[service]]` table, in the order it is written. What the table must
/// have is optional here, as a file may be given instead.
#[derive(Debug, Clone, PartialEq, Serialize, clap::Args)]
#[group(id = "fragment", multiple = true)]
pub(super) struct Fragment {
    /// Its name
    #[arg(value_name = "NAME", required_unless_present = "file")]
    name: Option<String>,

    /// The address clients dial
    #[arg(long, value_name = "ADDRESS", required_unless_present = "file")]
    address: Option<IpAddr>,

    /// The ports clients dial: `443`, `80,8000-8010` or `any`
    #[arg(long, value_name = "PORTS", required_unless_present = "file", value_parser = ports)]
    port: Option<toml::Value>,

    /// tcp or udp
    #[arg(long, value_name = "PROTOCOL", required_unless_present = "file")]
    protocol: Option<String>,

    /// How a packet reaches its backend: l2, ipip, gue, nat or fullnat
    #[arg(long, value_name = "MODE", required_unless_present = "file")]
    forward: Option<String>,

    /// Network that backends must be in; may be repeated
    #[arg(long = "allowed-backends", value_name = "NETWORK")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allowed_backends: Vec<String>,

    /// Healthy share, 0 to 1, below which all backends are used
    #[arg(long, value_name = "SHARE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    fail_open_below: Option<f64>,

    /// How long flows are kept where they were after a change, such as `5m`
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    drain_timeout: Option<String>,

    /// What keeps packets at a backend: hash, flow (UDP only) or source
    #[arg(long, value_name = "AFFINITY")]
    #[serde(skip_serializing_if = "Option::is_none")]
    affinity: Option<String>,

    /// How long a silent flow of `--affinity flow` is remembered, such as `2m`
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    flow_idle_timeout: Option<String>,

    /// Largest TCP segment size that a client may ask for, in bytes
    #[arg(long, value_name = "BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    mss_clamp: Option<u16>,

    /// Network whose clients may pass; may be repeated
    #[arg(long = "allow-sources", value_name = "NETWORK")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allow_sources: Vec<String>,

    /// Network whose clients are dropped; may be repeated
    #[arg(long = "deny-sources", value_name = "NETWORK")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    deny_sources: Vec<String>,

    /// New flows a second of one source: `FLOWS[,burst=N][,prefix=BITS]`
    #[arg(long, value_name = "LIMIT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    source_limit: Option<SourceLimit>,

    /// Server ids in QUIC connection ids: `LENGTH[,offset=N]`, in bytes
    ///
    /// Every server then needs a `server-id`.
    #[arg(long, value_name = "WHERE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    quic: Option<Quic>,

    /// How backends are probed: `tcp`, `http:/path` or `https:/path`
    ///
    /// Without it all of them count as up, dead or alive.
    #[arg(long, value_name = "PROBE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<Health>,

    /// A server: `NAME=ADDRESS[,weight=N][,port=P]`, and more; once for each
    ///
    /// Further keys: `mac=M`, `zone=Z`, `capacity=N` and `server-id=HEX`.
    #[arg(
        long = "backend",
        value_name = "SERVER",
        required_unless_present = "file",
        value_parser = backend
    )]
    #[serde(rename = "backend")]
    backends: Vec<Backend>,
}

impl Fragment {
    /// The table with its heading.
    pub(super) fn to_toml(&self) -> anyhow::Result<String> {
        #[derive(Serialize)]
        struct File<'a> {
            service: [&'a Fragment; 1],
        }
        toml::to_string(&File { service: [self] }).context("writing the service as TOML")
    }
}

/// A `[service.health]` table.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Health {
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
}

impl FromStr for Health {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, path) = match text.split_once(':') {
            Some((kind, path)) => (kind, Some(path.to_owned())),
            None => (text, None),
        };
        let fits = match kind {
            "tcp" => path.is_none(),
            "http" | "https" => path.as_ref().is_none_or(|path| path.starts_with('/')),
            _ => false,
        };
        if !fits {
            return Err("write `tcp`, `http:/path` or `https:/path`".to_owned());
        }
        let kind = kind.to_owned();
        Ok(Self { kind, path })
    }
}

/// A `[service.source_limit]` table.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct SourceLimit {
    flows_per_second: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    burst: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix_length: Option<u8>,
}

impl FromStr for SourceLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let flows = parts.next().unwrap_or_default();
        let mut limit = Self {
            flows_per_second: number(flows, "a number of flows a second")?,
            burst: None,
            prefix_length: None,
        };
        for part in parts {
            match key_value(part)? {
                ("burst", value) => limit.burst = Some(number(value, "a number of flows")?),
                ("prefix", value) => {
                    limit.prefix_length = Some(number(value, "a number of bits")?);
                }
                (key, _) => return Err(format!("{key:?} is no key; there are burst and prefix")),
            }
        }
        Ok(limit)
    }
}

/// A `[service.quic]` table.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Quic {
    server_id_length: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_id_offset: Option<u8>,
}

impl FromStr for Quic {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let length = parts.next().unwrap_or_default();
        let mut quic = Self {
            server_id_length: number(length, "a number of bytes")?,
            server_id_offset: None,
        };
        for part in parts {
            match key_value(part)? {
                ("offset", value) => {
                    quic.server_id_offset = Some(number(value, "a number of bytes")?);
                }
                (key, _) => return Err(format!("{key:?} is no key; there is offset")),
            }
        }
        Ok(quic)
    }
}

/// A port, a range, `any`, or several of the first two, as the file has them.
fn ports(text: &str) -> Result<toml::Value, String> {
    let entry = |text: &str| match text.parse::<u16>() {
        Ok(port) => toml::Value::Integer(port.into()),
        Err(_) => toml::Value::String(text.to_owned()),
    };
    if text.is_empty() {
        return Err("write `443`, `80,8000-8010` or `any`".to_owned());
    }
    if text.contains(',') {
        return Ok(toml::Value::Array(text.split(',').map(entry).collect()));
    }
    Ok(entry(text))
}

fn backend(text: &str) -> Result<Backend, String> {
    let mut parts = text.split(',');
    let (name, address) = parts
        .next()
        .and_then(|first| first.split_once('='))
        .ok_or("write `NAME=ADDRESS`, and after it `,weight=N` and the like")?;
    let mut backend = Backend {
        name: name.to_owned(),
        address: number(address, "an address")?,
        port: None,
        weight: None,
        zone: None,
        capacity: None,
        mac: None,
        server_id: None,
    };
    for part in parts {
        let (key, value) = key_value(part)?;
        match key {
            "weight" => backend.weight = Some(number(value, "a weight from 0 to 65535")?),
            "port" => backend.port = Some(number(value, "a port from 1 to 65535")?),
            "capacity" => backend.capacity = Some(number(value, "a number of flows a second")?),
            "mac" => backend.mac = Some(value.to_owned()),
            "zone" => backend.zone = Some(value.to_owned()),
            "server-id" => backend.server_id = Some(value.to_owned()),
            _ => {
                return Err(format!(
                    "{key:?} is no key; there are weight, port, mac, zone, capacity and server-id"
                ));
            }
        }
    }
    Ok(backend)
}

fn key_value(part: &str) -> Result<(&str, &str), String> {
    part.split_once('=')
        .ok_or_else(|| format!("{part:?} is no `key=value`"))
}

fn number<T: FromStr>(text: &str, what: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is not {what}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config;
    use crate::config::model::{Affinity, Ports};

    fn fragment() -> Fragment {
        Fragment {
            name: Some("web".to_owned()),
            address: Some("192.0.2.10".parse().unwrap()),
            port: Some(ports("80,8000-8010").unwrap()),
            protocol: Some("tcp".to_owned()),
            forward: Some("ipip".to_owned()),
            allowed_backends: vec!["10.0.0.0/24".to_owned()],
            fail_open_below: Some(0.5),
            drain_timeout: Some("5m".to_owned()),
            affinity: Some("source".to_owned()),
            flow_idle_timeout: None,
            mss_clamp: Some(1400),
            allow_sources: vec!["203.0.113.0/24".to_owned()],
            deny_sources: vec!["203.0.113.7/32".to_owned(), "198.51.100.0/24".to_owned()],
            source_limit: Some("100,burst=300,prefix=24".parse().unwrap()),
            quic: None,
            health: Some("http:/healthz".parse().unwrap()),
            backends: vec![
                backend("web-1=10.0.0.1,weight=7,mac=02:00:00:00:00:01").unwrap(),
                backend("web-2=10.0.0.2").unwrap(),
            ],
        }
    }

    #[test]
    fn fragment_reads_back_as_the_service_it_describes() {
        let text = fragment().to_toml().unwrap();
        let file = format!("[node]\ninterfaces = [\"eth0\"]\n{text}");
        let examined = config::examine("test", file, None);
        let config = examined.config.expect(&text);
        let service = &config.services[0];
        assert_eq!(service.name, "web");
        assert_eq!(service.ports, Ports::Ranges(vec![(80, 80), (8000, 8010)]));
        assert_eq!(service.fail_open_below, Some(0.5));
        assert_eq!(service.affinity, Affinity::Source);
        assert_eq!(service.mss_clamp, Some(1400));
        assert_eq!(service.allow_sources.len(), 1);
        assert_eq!(service.deny_sources.len(), 2);
        let limit = service.source_limit.unwrap();
        let limit = (limit.flows_per_second, limit.burst, limit.prefix_length);
        assert_eq!(limit, (100, 300, 24));
        assert!(service.health.is_some());
        assert_eq!(service.backends[0].weight, 7);
        assert_eq!(service.backends[1].weight, 100);
    }

    #[test]
    fn quic_service_reads_back_with_its_server_ids() {
        let fragment = Fragment {
            port: Some(ports("443").unwrap()),
            protocol: Some("udp".to_owned()),
            forward: Some("nat".to_owned()),
            affinity: Some("flow".to_owned()),
            flow_idle_timeout: Some("30s".to_owned()),
            mss_clamp: None,
            quic: Some("2,offset=3".parse().unwrap()),
            backends: vec![
                backend("q-1=10.0.0.1,server-id=0a1b,port=8443").unwrap(),
                backend("q-2=10.0.0.2,server-id=0a1c").unwrap(),
            ],
            ..fragment()
        };
        let text = fragment.to_toml().unwrap();
        let file = format!("[node]\ninterfaces = [\"eth0\"]\n{text}");
        let examined = config::examine("test", file, None);
        let findings = examined.report.findings();
        assert!(
            findings
                .iter()
                .all(|finding| finding.level.name() != "error"),
            "{}",
            examined.report.render(false)
        );
        let service = &examined.config.unwrap().services[0];
        let idle_timeout = Duration::from_secs(30);
        assert_eq!(service.affinity, Affinity::Flow { idle_timeout });
        let quic = service.quic.unwrap();
        assert_eq!((quic.server_id_offset, quic.server_id_length), (3, 2));
        assert_eq!(service.backends[0].port, Some(8443));
        assert_eq!(service.backends[1].server_id.unwrap().to_string(), "0a1c");
    }

    #[test]
    fn limits_and_places_that_are_none_are_refused_with_the_way_out() {
        for (text, expected) in [
            ("", "is not a number of flows a second"),
            ("100,burst", "is no `key=value`"),
            ("100,rate=7", "there are burst and prefix"),
            ("100,prefix=300", "is not a number of bits"),
        ] {
            let error = text.parse::<SourceLimit>().unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        for (text, expected) in [
            ("two", "is not a number of bytes"),
            ("2,length=1", "there is offset"),
        ] {
            let error = text.parse::<Quic>().unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn text_from_the_command_line_cannot_leave_its_string() {
        let evil = "web\"\nprotocol = \"udp";
        let fragment = Fragment {
            name: Some(evil.to_owned()),
            ..fragment()
        };
        let read: toml::Table = fragment.to_toml().unwrap().parse().unwrap();
        assert_eq!(read["service"][0]["name"].as_str(), Some(evil));
        assert_eq!(read["service"][0]["protocol"].as_str(), Some("tcp"));
    }

    #[test]
    fn ports_become_what_the_file_would_say() {
        for (text, expected) in [
            ("443", "443"),
            ("any", "\"any\""),
            ("1-2", "\"1-2\""),
            ("1,3-4", "[1, \"3-4\"]"),
        ] {
            assert_eq!(ports(text).unwrap().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn servers_that_are_none_are_refused_with_the_way_out() {
        for (text, expected) in [
            ("web-1", "write `NAME=ADDRESS`"),
            ("web-1=nowhere", "is not an address"),
            ("web-1=10.0.0.1,weight", "is no `key=value`"),
            ("web-1=10.0.0.1,weight=70000", "from 0 to 65535"),
            ("web-1=10.0.0.1,colour=red", "is no key"),
        ] {
            let error = backend(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn probes_that_are_none_are_refused() {
        for text in ["", "tcp:/x", "http:x", "icmp"] {
            assert!(text.parse::<Health>().is_err(), "{text}");
        }
    }
}
