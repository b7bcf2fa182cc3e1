//! Reads where a balancer is reached over the network, and its group.

use std::net::SocketAddr;

use serde_json::json;

use super::super::wording::quoted;
use super::fields::{Field, Fields, Value};
use super::sources::addresses;

/// What the balancers of a group know of each other.
pub(super) struct Group {
    pub(super) listen: Option<SocketAddr>,
    pub(super) peers: Vec<SocketAddr>,
}

/// Without a common seed two balancers never agree on a flow, so a group has
/// to name it.
pub(super) fn group(fields: &mut Fields<'_, '_>) -> Group {
    let listen = fields.optional("listen", endpoint);
    let peers = fields.optional("peers", addresses(endpoint));
    if fields.has("peers") && !fields.has("seed") {
        let help = "make one with `openssl rand -hex 16`, the same on every balancer of a group";
        fields.missing("seed", help);
    }
    Group {
        listen,
        peers: peers.unwrap_or_default(),
    }
}

fn endpoint(field: &mut Field<'_>, value: &Value<'_>) -> Option<SocketAddr> {
    field.takes(|| json!({ "type": "string", "pattern": ":[0-9]{1,5}$" }));
    let help = "write an address and a port, such as \"10.0.0.2:9180\" or \"[2001:db8::2]:9180\"";
    let Some(written) = value.get_ref().as_str() else {
        field.wrong_type(value, "a string", help);
        return None;
    };
    let found: Option<SocketAddr> = written.parse().ok();
    let found = found.filter(|it| it.port() != 0);
    if found.is_none() {
        let text = format!("is {}, not an address and a port", quoted(written));
        field.bad(value, text, help);
    }
    found
}
