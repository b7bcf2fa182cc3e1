//! Reads `[service.quic]` and the server ids of its backends.

use serde_json::json;

use super::super::model::{Quic, ServerId};
use super::super::wording::quoted;
use super::defaults;
use super::fields::{Field, Fields, Path, Step, Value};
use super::values::{hex_byte, integer, text};

const KEYS: &[&str] = &["server_id_offset", "server_id_length"];
/// Longest connection id of QUIC v1 (RFC 9000, 17.2), in bytes.
const MAX_CONNECTION_ID: u8 = 20;

/// `[service.quic]`.
pub(super) fn quic(service: &mut Fields<'_, '_>) -> Option<Quic> {
    let value = service.value("quic")?;
    let Some(table) = value.get_ref().as_table() else {
        let help = "write it as `[service.quic]`";
        service.field("quic").wrong_type(value, "a table", help);
        return None;
    };
    let (parent, sink) = service.inner();
    let place = Path {
        parent: Some(parent),
        step: Step::Table("quic"),
    };
    let mut fields = Fields::new(table, value.span(), place, KEYS, sink);
    let offset = fields.optional("server_id_offset", integer(0..=MAX_CONNECTION_ID - 1));
    let offset = match offset {
        None if fields.has("server_id_offset") => None,
        other => Some(other.unwrap_or(defaults::SERVER_ID_OFFSET)),
    };
    let length = fields.required("server_id_length", "server_id_length = 2", |field, value| {
        let length = integer(1..=ServerId::MAX_LEN as u8)(field, value)?;
        let end = offset.unwrap_or(0) + length;
        if end > MAX_CONNECTION_ID {
            let text = format!(
                "and `server_id_offset` end at byte {end}, limit {MAX_CONNECTION_ID}, the longest \
                 connection id"
            );
            field.bad(value, text, "lower one of them");
            return None;
        }
        Some(length)
    });
    Some(Quic {
        server_id_offset: offset?,
        server_id_length: length?,
    })
}

/// A backend's `server_id`; its length is looked at beside the service's.
pub(super) fn server_id(field: &mut Field<'_>, value: &Value<'_>) -> Option<ServerId> {
    let pattern = format!("^([0-9a-fA-F]{{2}}){{1,{}}}$", ServerId::MAX_LEN);
    field.takes(|| json!({ "type": "string", "pattern": pattern }));
    let written = text(field, value)?;
    let digits = written.as_bytes();
    let bytes: Option<Vec<u8>> = digits
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).ok().and_then(hex_byte))
        .collect();
    let even = digits.len() % 2 == 0;
    let found = bytes.filter(|_| even).and_then(|id| ServerId::new(&id));
    if found.is_none() {
        let text = format!("is {}, no server id", quoted(written));
        let help = "write 1 to 8 bytes as pairs of hex digits, such as \"0a1b\"";
        field.bad(value, text, help);
    }
    found
}
