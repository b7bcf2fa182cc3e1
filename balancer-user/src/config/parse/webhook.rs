//! Reads `[[node.webhook]]`.

use std::time::Duration;

use hyper::Uri;
use serde_json::json;

use super::super::model::{Webhook, WebhookKind};
use super::defaults;
use super::fields::{Field, Fields, Names, Path, Step, Value};
use super::values::{choice, duration, name, path, text};

const KEYS: &[&str] = &["name", "url", "kind", "timeout", "ca_file"];
const MAX_WEBHOOKS: usize = 8;
const MAX_URL_LEN: usize = 2048;
/// `PATH_MAX` without its final zero byte.
const MAX_PATH_LEN: usize = 4095;
const KINDS: &[(&str, WebhookKind)] = &[
    ("alertmanager", WebhookKind::Alertmanager),
    ("json", WebhookKind::Json),
];

/// All of them; one with a fault is left out.
pub(super) fn webhooks(node: &mut Fields<'_, '_>) -> Vec<Webhook> {
    let tables = node.tables("webhook", MAX_WEBHOOKS);
    let (parent, sink) = node.inner();
    let mut names = Names::default();
    let mut webhooks = Vec::new();
    for (index, (table, header)) in tables.into_iter().enumerate() {
        let named = table.get("name").and_then(|value| {
            let name = value.get_ref().as_str()?;
            Some((name, value.span()))
        });
        let step = match named {
            Some((name, span)) => {
                names.claim(("webhook", "name"), name, span, parent, sink);
                Step::Named("webhook", name)
            }
            None => Step::Nth("webhook", index),
        };
        let place = Path {
            parent: Some(parent),
            step,
        };
        let mut fields = Fields::new(table, header, place, KEYS, sink);
        webhooks.extend(webhook(&mut fields));
    }
    webhooks
}

fn webhook(fields: &mut Fields<'_, '_>) -> Option<Webhook> {
    let limits = Duration::from_millis(100)..=Duration::from_secs(60);
    let found_name = fields.required("name", "name = \"on-call\"", name);
    let found_url = fields.required("url", "url = \"http://10.0.0.9:9093\"", url);
    let kind = fields.required("kind", "kind = \"alertmanager\"", choice(KINDS, &[]));
    let timeout = fields.optional("timeout", duration(limits));
    let ca_file = fields.optional("ca_file", path(MAX_PATH_LEN));
    Some(Webhook {
        name: found_name?.to_owned(),
        url: found_url?,
        kind: kind?,
        timeout: timeout.unwrap_or(defaults::WEBHOOK_TIMEOUT),
        ca_file,
    })
}

/// The messages do not repeat it: a URL may be a secret.
fn url(field: &mut Field<'_>, value: &Value<'_>) -> Option<String> {
    field.takes(|| json!({ "type": "string", "pattern": "^https?://", "maxLength": MAX_URL_LEN }));
    let written = text(field, value)?;
    let help = "write `http://` or `https://`, a host, and a port and a path where it has them";
    let Some(url) = written
        .parse::<Uri>()
        .ok()
        .filter(|_| written.len() <= MAX_URL_LEN)
    else {
        let text = format!("is no URL of {MAX_URL_LEN} bytes at most");
        field.bad(value, text, help);
        return None;
    };
    let is_web = matches!(url.scheme_str(), Some("http" | "https"));
    let authority = url.authority().map_or("", |it| it.as_str());
    if !is_web || url.host().is_none_or(str::is_empty) || authority.contains('@') {
        field.bad(value, "has another scheme, no host, or a user in it", help);
        return None;
    }
    Some(written.to_owned())
}
